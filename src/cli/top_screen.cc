#include "cli/top_screen.h"

#define NCURSES_NOMACROS 1
#include <ncurses.h>

#include <algorithm>
#include <atomic>
#include <clocale>
#include <csignal>
#include <cstdlib>
#include <cwchar>
#include <future>
#include <string>
#include <vector>

#include "cli/answer.h"
#include "cli/size.h"
#include "cli/steer.h"
#include "cli/top_table.h"
#include "cli/watcher.h"

namespace buoy::cli {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// How long a key may take to show, and a new look.
constexpr int kPatience = 100;  // ms

std::atomic<bool> is_ended{false};
void end_by_signal(int) { is_ended.store(true); }

enum Colour : short { kPlain = 0, kGood = 1, kWarning = 2, kBad = 3, kFaint = 4 };

constexpr const char* kHelp[] = {
    "up, down, page keys   choose a run or a process",
    "< >                   sort by the column to the left, to the right",
    "r                     the other way round",
    "t                     runs with their processes, or processes alone",
    "b                     another budget for the chosen run or process",
    "d                     details of the chosen one: how long its faults took",
    "space                 look now",
    "h ?                   this help",
    "q                     quit",
    "",
    "RESIDENT is within BUDGET, COMPR, LAZY and STANDBY are within RESIDENT.",
    "LAZY: freed, and there until it is needed. STANDBY: out of reach of the",
    "program for a trial. RATIO: what is compressed, over what it takes.",
    "FAULT/S, MAJ/S: faults; those that had to decompress or read a file.",
    "P50, P99: half of the faults, and all but 1 %, took no longer.",
    "PRESS: time lost in faults over time; 100% is one thread, all the time.",
};

// A key, as it is bound: letters and what ncurses names.
constexpr int kEscape = 27;
constexpr int kEnter = '\n';
constexpr int kDelete = 127;

// Text for the terminal's locale, cut to so many columns.
std::wstring fitting(const std::string& text, unsigned columns) {
  std::wstring out;
  std::mbstate_t state{};
  const char* at = text.data();
  const char* const end = at + text.size();
  unsigned used = 0;
  while (at < end) {
    wchar_t c = 0;
    std::size_t n = std::mbrtowc(&c, at, static_cast<std::size_t>(end - at), &state);
    int width = n == 0 || n > text.size() ? -1 : wcwidth(c);
    if (width < 0) {  // not of this locale, or nothing to be seen
      state = {};
      n = 1;
      c = L'?';
      width = 1;
    }
    if (used + static_cast<unsigned>(width) > columns) break;
    used += static_cast<unsigned>(width);
    out += c;
    at += n;
  }
  return out;
}

class Screen {
 public:
  explicit Screen(milliseconds interval) : watcher_(interval) {}

  void run() {
    has_colours_ = std::getenv("NO_COLOR") == nullptr && has_colors() && start_color() == OK;
    if (has_colours_) {
      use_default_colors();
      init_pair(kGood, COLOR_GREEN, -1);
      init_pair(kWarning, COLOR_YELLOW, -1);
      init_pair(kBad, COLOR_RED, -1);
      init_pair(kFaint, COLOR_CYAN, -1);
    }
    wtimeout(stdscr, kPatience);
    bool is_stale = true;
    while (!is_ended.load()) {
      const Watcher::Seen seen = watcher_.latest();
      if (seen != seen_ || take_answer()) is_stale = true;
      seen_ = seen;
      if (is_stale) draw();
      const int key = wgetch(stdscr);
      is_stale = key != ERR;
      if (is_stale && !obey(key)) return;
    }
  }

 private:
  // ---- Keys -----------------------------------------------------------------------------------
  // False: the end.
  bool obey(int key) {
    if (key == KEY_RESIZE) return true;
    if (is_typing_) return type(key), true;
    if (is_help_) return is_help_ = false, true;
    switch (key) {
      case 'q':
      case 'Q':
        return false;
      case 'h':
      case '?':
        is_help_ = true;
        break;
      case KEY_UP:
      case 'k':
        choose(-1);
        break;
      case KEY_DOWN:
      case 'j':
        choose(1);
        break;
      case KEY_PPAGE:
        choose(-static_cast<int>(rows_shown()));
        break;
      case KEY_NPAGE:
        choose(static_cast<int>(rows_shown()));
        break;
      case KEY_HOME:
        choose(-static_cast<int>(rows_.size()));
        break;
      case KEY_END:
        choose(static_cast<int>(rows_.size()));
        break;
      case '<':
      case ',':
        sort_by(-1);
        break;
      case '>':
      case '.':
        sort_by(1);
        break;
      case 'r':
        order_.is_reversed = !order_.is_reversed;
        break;
      case 't':
        order_.is_tree = !order_.is_tree;
        break;
      case 'd':
        has_details_ = !has_details_;
        break;
      case 'b':
        ask_for_budget();
        break;
      case ' ':
        watcher_.hurry();
        break;
      default:
        break;
    }
    return true;
  }

  void choose(int by) {
    if (rows_.empty()) return;
    const auto last = static_cast<int>(rows_.size()) - 1;
    chosen_ = static_cast<unsigned>(std::clamp(static_cast<int>(chosen_) + by, 0, last));
    chosen_pid_ = rows_[chosen_].pid;
  }

  // Among the columns that are to be seen.
  void sort_by(int by) {
    const std::vector<TopColumn> columns = columns_for(width());
    const auto now = std::find(columns.begin(), columns.end(), order_.by);
    auto at = now == columns.end() ? 0 : static_cast<int>(now - columns.begin());
    at = std::clamp(at + by, 0, static_cast<int>(columns.size()) - 1);
    order_.by = columns[static_cast<unsigned>(at)];
  }

  void ask_for_budget() {
    if (rows_.empty()) return;
    if (answer_.valid()) {
      tell("a budget is being changed; wait for that");
      return;
    }
    is_typing_ = true;
    typed_.clear();
    subject_ = rows_[chosen_].pid;
    subject_name_ = (rows_[chosen_].kind == TopRow::Kind::kRun ? "run " : "process ") +
                    std::to_string(subject_);
  }

  void type(int key) {
    constexpr std::size_t kMost = 20;
    if (key == kEscape) {
      is_typing_ = false;
      tell("the budget stays as it is");
    } else if (key == kEnter || key == KEY_ENTER || key == '\r') {
      is_typing_ = false;
      change();
    } else if (key == KEY_BACKSPACE || key == kDelete || key == '\b') {
      if (!typed_.empty()) typed_.pop_back();
    } else if (key > ' ' && key < kDelete && typed_.size() < kMost) {
      typed_ += static_cast<char>(key);
    }
  }

  void change() {
    const std::optional<ByteSize> size = parse_size(typed_);
    if (!size) {
      tell("'" + typed_ + "' is not a size: bytes, or with K, M or G, as 256M");
      return;
    }
    tell(subject_name_ + ": the budget becomes " + format_size(*size) + " ...");
    answer_ = std::async(std::launch::async,
                         [pid = subject_, bytes = *size] { return change_budget(pid, bytes); });
  }

  // Is there one?
  bool take_answer() {
    if (!answer_.valid() || answer_.wait_for(milliseconds(0)) != std::future_status::ready)
      return false;
    const Outcome<nlohmann::json> answer = answer_.get();
    tell(answer ? describe(*answer) : answer.failure().line);
    watcher_.hurry();
    return true;
  }

  std::string describe(const nlohmann::json& answer) const {
    const nlohmann::json& processes = answer["processes"];
    for (const nlohmann::json& process : processes)
      if (const std::string error = text(process, "error"); !error.empty()) return error;
    if (processes.size() != 1)
      return subject_name_ + ": " + std::to_string(processes.size()) + " processes have it";
    return subject_name_ + ": budget " + format_size(number(processes[0], "budget_bytes")) +
           ", resident " + readable_size(number(processes[0], "resident_bytes"));
  }

  void tell(std::string message) {
    constexpr std::chrono::seconds kForReading{6};
    message_ = std::move(message);
    message_ends_ = Clock::now() + kForReading;
  }

  // ---- The picture ----------------------------------------------------------------------------
  [[nodiscard]] static unsigned width() {
    return static_cast<unsigned>(std::max(getmaxx(stdscr), 1));
  }
  [[nodiscard]] static unsigned height() {
    return static_cast<unsigned>(std::max(getmaxy(stdscr), 1));
  }
  static constexpr unsigned kSummary = 3;
  static constexpr unsigned kDetails = kFaultTimeBuckets / 2 + 2;
  [[nodiscard]] unsigned details_shown() const {
    return has_details_ && height() >= kSummary + kDetails + 6 ? kDetails : 0;
  }
  // Rows of the table: between its head and the last line.
  [[nodiscard]] unsigned rows_shown() const {
    const unsigned others = kSummary + 2 + details_shown();
    return height() > others ? height() - others : 1;
  }

  static void put(unsigned y, unsigned x, const std::string& text) {
    if (y >= height() || x >= width()) return;
    mvaddwstr(static_cast<int>(y), static_cast<int>(x), fitting(text, width() - x).c_str());
  }
  void paint(Colour colour, bool is_on) const {
    if (!has_colours_ || colour == kPlain) return;
    const attr_t attribute = COLOR_PAIR(colour);
    is_on ? attron(static_cast<int>(attribute)) : attroff(static_cast<int>(attribute));
  }
  void put_coloured(Colour colour, unsigned y, unsigned x, const std::string& text) const {
    paint(colour, true);
    put(y, x, text);
    paint(colour, false);
  }
  static void put_bar(unsigned y, const std::string& text) {
    attron(A_REVERSE);
    put(y, 0, text + std::string(text.size() < width() ? width() - text.size() : 0, ' '));
    attroff(A_REVERSE);
  }

  void draw() {
    werase(stdscr);
    if (seen_ != nullptr) rows_ = rows_of(*seen_, order_);
    find_chosen();
    if (is_help_) {
      draw_help();
    } else {
      draw_summary();
      draw_table();
      if (details_shown() != 0) draw_details(height() - 1 - kDetails);
    }
    draw_last_line();
    wrefresh(stdscr);
  }

  // The same one as before, wherever it stands now.
  void find_chosen() {
    for (unsigned i = 0; i < rows_.size(); ++i)
      if (rows_[i].pid == chosen_pid_) chosen_ = i;
    if (rows_.empty())
      chosen_ = 0;
    else
      chosen_ = std::min<unsigned>(chosen_, static_cast<unsigned>(rows_.size()) - 1);
    if (!rows_.empty()) chosen_pid_ = rows_[chosen_].pid;
    const unsigned shown = rows_shown();
    if (chosen_ < first_) first_ = chosen_;
    if (chosen_ >= first_ + shown) first_ = chosen_ - shown + 1;
    if (first_ + shown > rows_.size())
      first_ = rows_.size() > shown ? static_cast<unsigned>(rows_.size()) - shown : 0;
  }

  void draw_help() const {
    unsigned y = 0;
    for (const char* line : kHelp) put(y++, 0, line);
  }

  void draw_summary() const {
    if (seen_ == nullptr) return put(0, 0, "looking ...");
    unsigned y = 0;
    for (const std::string& line : summary_of(*seen_)) put(y++, 0, line);
  }

  void draw_table() {
    const std::vector<TopColumn> columns = columns_for(width());
    std::string head;
    unsigned sorted_at = 0;
    for (const TopColumn column : columns) {
      const std::string title = title_of(column);
      if (column == TopColumn::kCommand) {
        if (column == order_.by) sorted_at = static_cast<unsigned>(head.size());
        head += title;
        continue;
      }
      head += std::string(width_of(column) - 1 - title.size(), ' ');
      if (column == order_.by) sorted_at = static_cast<unsigned>(head.size());
      head += title + " ";
    }
    put_bar(kSummary, head);
    const std::string sorted = title_of(order_.by);
    if (head.compare(sorted_at, sorted.size(), sorted) == 0) {
      attron(A_REVERSE | A_BOLD | A_UNDERLINE);
      put(kSummary, sorted_at, sorted);
      attroff(A_REVERSE | A_BOLD | A_UNDERLINE);
    }
    if (seen_ != nullptr && rows_.empty())
      put(kSummary + 1, 0, "nothing runs; `buoy run --budget 256M PROGRAM` starts something");
    const unsigned end =
        std::min<unsigned>(first_ + rows_shown(), static_cast<unsigned>(rows_.size()));
    for (unsigned i = first_; i < end; ++i)
      draw_row(kSummary + 1 + i - first_, rows_[i], columns, i == chosen_);
  }

  void draw_row(unsigned y, const TopRow& row, const std::vector<TopColumn>& columns,
                bool is_chosen) const {
    const attr_t attribute =
        (is_chosen ? A_REVERSE : A_NORMAL) | (row.kind == TopRow::Kind::kRun ? A_BOLD : A_NORMAL);
    attron(static_cast<int>(attribute));
    if (is_chosen) put(y, 0, std::string(width(), ' '));
    unsigned x = 0;
    for (const TopColumn column : columns) {
      put_coloured(is_chosen ? kPlain : colour_of(row, column), y, x, cell_of(row, column));
      x += width_of(column);
    }
    attroff(static_cast<int>(attribute));
  }

  // Who loses a tenth of a CPU to faults is slowed down; who loses half of one hardly gets on.
  static Colour colour_of(const TopRow& row, TopColumn column) {
    if (!row.error.empty()) return kBad;
    if (column != TopColumn::kPressure) return kPlain;
    if (row.vitals.pressure >= 0.5) return kBad;
    return row.vitals.pressure >= 0.1 ? kWarning : kGood;
  }

  void draw_details(unsigned y) const {
    if (rows_.empty()) return;
    const TopRow& row = rows_[chosen_];
    put_bar(y++, (row.kind == TopRow::Kind::kRun ? "run " : "process ") + std::to_string(row.pid) +
                     ": how long its faults took, since the last look");
    std::uint64_t most = 1;
    for (const std::uint64_t n : row.vitals.fault_times) most = std::max(most, n);
    constexpr unsigned kLabel = 28;
    const unsigned half = width() / 2;
    for (unsigned i = 0; i < kFaultTimeBuckets; ++i) {
      const std::uint64_t n = row.vitals.fault_times[i];
      const unsigned x = i < kFaultTimeBuckets / 2 ? 0 : half;
      const unsigned line = y + i % (kFaultTimeBuckets / 2);
      std::string label = i == 0 ? "" : readable_bucket(i);
      label.resize(8, ' ');
      label += (i + 1 == kFaultTimeBuckets ? "and more" : "to " + readable_bucket(i + 1));
      label.resize(17, ' ');
      const std::string count = std::to_string(n);
      label += std::string(count.size() < 10 ? 10 - count.size() : 0, ' ') + count + " ";
      put(line, x, label);
      if (half <= kLabel + 2) continue;
      const std::uint64_t room = half - kLabel - 2;
      const std::uint64_t bar = (n * room + most - 1) / most;
      put_coloured(kFaint, line, x + kLabel, std::string(bar, '#'));
    }
  }
  static std::string readable_bucket(unsigned i) {
    const std::uint64_t us = fault_time_from_ns(i) / 1000;
    return us < 1024 ? std::to_string(us) + "us" : std::to_string(us / 1024) + "ms";
  }

  void draw_last_line() {
    const unsigned y = height() - 1;
    curs_set(is_typing_ ? 1 : 0);
    if (is_typing_) {
      const std::string prompt =
          "new budget of " + subject_name_ + ", as 256M (Esc: none): " + typed_;
      put(y, 0, prompt);
      move(static_cast<int>(y),
           static_cast<int>(std::min<std::size_t>(prompt.size(), width() - 1)));
    } else if (is_help_) {
      put(y, 0, "any key: back");
    } else if (Clock::now() < message_ends_) {
      put(y, 0, message_);
    } else {
      put_coloured(kFaint, y, 0,
                   "h help  q quit  < > sort  r reverse  t tree  b budget  d details");
    }
  }

  Watcher watcher_;
  Watcher::Seen seen_;
  std::vector<TopRow> rows_;
  TopOrder order_;
  unsigned chosen_ = 0;  // of rows_
  pid_t chosen_pid_ = 0;
  unsigned first_ = 0;  // the first row that is to be seen
  bool has_colours_ = false;
  bool has_details_ = true;
  bool is_help_ = false;
  bool is_typing_ = false;
  std::string typed_;
  pid_t subject_ = 0;  // whose budget is typed, or changed
  std::string subject_name_;
  std::future<Outcome<nlohmann::json>> answer_;
  std::string message_;  // in place of the keys, for a while
  Clock::time_point message_ends_;
};

}  // namespace

std::optional<Failure> show_top(milliseconds interval) {
  std::setlocale(LC_ALL, "");
  const char* const name = std::getenv("TERM");
  SCREEN* const terminal = newterm(name, stdout, stdin);
  if (terminal == nullptr)
    return Failure{kUsage,
                   std::string("top: the terminal '") + (name == nullptr ? "" : name) +
                       "' is not known here; set TERM (xterm, vt100), or use `buoy top --once`"};
  struct sigaction action {};
  action.sa_handler = end_by_signal;
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaction(signal, &action, nullptr);
  cbreak();
  noecho();
  keypad(stdscr, true);
  set_escdelay(25);
  {
    Screen screen(interval);
    screen.run();
    endwin();
  }
  delscreen(terminal);
  return std::nullopt;
}

}  // namespace buoy::cli
