#include "cli/run.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string_view>

#include "base/descriptors.h"
#include "cli/backing_file.h"
#include "cli/budget_follower.h"
#include "cli/control_server.h"
#include "cli/kernel_support.h"
#include "cli/last_stats.h"
#include "cli/place_keeper.h"
#include "cli/preload_library.h"
#include "cli/program.h"
#include "cli/run_options.h"
#include "cli/size.h"
#include "cli/supervise.h"
#include "control/block.h"
#include "mmu/uffd_source.h"
#include "preload/environment.h"
#include "swap/disk_ledger.h"

extern char** environ;

namespace buoy::cli {
namespace {

namespace env = preload::environment;

bool names(const char* entry, std::string_view variable) {
  const std::string_view text(entry);
  return text.size() > variable.size() && text.substr(0, variable.size()) == variable &&
         text[variable.size()] == '=';
}

// The device, kept open for programs that give up their rights; where we have none ourselves, that
// of an outer `buoy run`. Empty: neither, and who gives up rights has none.
std::string device_for_children() {
  char text[mmu::uffd_source::kTextBytes];
  if (mmu::uffd_source::open(text)) return text;
  const char* outer = std::getenv(env::kDevice);
  return outer != nullptr ? outer : "";
}

// What is found out before the program starts, and goes into its environment.
struct Prepared {
  std::string file;     // where compressed pages go: none, auto, a path
  std::string ledger;   // of the files' bound; empty: there is none
  std::string library;  // to preload
  std::string block;    // that the run shares; empty: there is none
};

// The caller's environment with ours in it. Whatever an outer `buoy run` had set is replaced.
std::vector<std::string> make_environment(const RunOptions& options, ByteSize budget,
                                          const Prepared& prepared) {
  std::vector<std::string> list;
  std::string preload = prepared.library;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (names(*entry, "LD_PRELOAD")) {
      const std::string others = *entry + std::string_view("LD_PRELOAD=").size();
      if (others != prepared.library && !others.empty()) preload += ":" + others;
    } else if (std::none_of(std::begin(env::kSetByRun), std::end(env::kSetByRun),
                            [&](const char* ours) { return names(*entry, ours); })) {
      list.emplace_back(*entry);
    }
  }
  const auto set = [&](const char* name, const std::string& value) {
    list.push_back(std::string(name) + "=" + value);
  };
  set("LD_PRELOAD", preload);
  set(env::kBudget, std::to_string(budget));
  set(env::kBudgetScope, options.scope);
  set(env::kBackingFile, prepared.file);
  if (!prepared.ledger.empty()) set(env::kDiskLedger, prepared.ledger);
  set(env::kEncryption, options.encryption);
  if (options.compressed_size != 0) set(env::kCompressed, std::to_string(options.compressed_size));
  set(env::kCompressor, options.compressor);
  set(env::kFaults, word_of(options.faults));
  set(env::kOnExhausted, options.on_exhausted);
  set(env::kUnmanagedExec, options.unmanaged_exec);
  set(env::kShowBudget, options.show_budget);
  if (const std::string device = device_for_children(); !device.empty()) set(env::kDevice, device);
  if (!prepared.block.empty()) set(env::kControl, prepared.block);
  if (!options.stats.empty())
    set(env::kStats,
        options.stats == "-" ? "-" : std::filesystem::absolute(options.stats).string());
  if (!options.trace.empty()) set(env::kTrace, std::filesystem::absolute(options.trace).string());
  return list;
}

// The first process's trace is empty now, and can be written.
Outcome<bool> prepare_trace(const std::string& path) {
  if (path.empty()) return true;
  const auto unusable = [&](const std::string& why) {
    return Failure{kUsage, "run: --trace " + path + ": " + why};
  };
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
  if (fd < 0) return unusable(std::strerror(errno));
  struct stat status {};
  const bool is_file = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  const bool is_empty = is_file && ftruncate(fd, 0) == 0;
  const int error = errno;
  close(fd);
  if (!is_file) return unusable("is no ordinary file; name one");
  if (!is_empty) return unusable(std::strerror(error));
  return true;
}

void warn_if_larger_than_memory(ByteSize budget) {
  struct sysinfo info {};
  if (sysinfo(&info) != 0) return;
  const ByteSize memory = ByteSize{info.totalram} * info.mem_unit;
  if (budget > memory)
    say("warning: the budget is larger than this machine's memory (" +
        std::to_string(memory >> 20) + "M), which will run out first");
}

// Nobody asked for a file: then it is no error that there is no disk to put it on.
Outcome<std::string> choose_backing_file(const std::string& asked_for) {
  if (!asked_for.empty()) return check_backing_file(asked_for);
  Outcome<std::string> automatic = check_backing_file("auto");
  if (automatic) return automatic;
  say("warning: no backing file, so what does not fit compressed has no place; " +
      automatic.failure().line);
  return std::string("none");
}

// The bound that the files of the run share, as the word that tells of it. It stays with us as long as
// we are there. Empty without a file.
Outcome<std::string> make_disk_ledger(const RunOptions& options, const std::string& file) {
  if (file == "none") return std::string();
  char text[swap::DiskLedger::kTextBytes];
  const ByteSize bound =
      options.backing_file_size != 0 ? options.backing_file_size : default_backing_file_size(file);
  const auto made = swap::DiskLedger::create(bound, text);
  if (made) return std::string(text);
  return Failure{kUsage, std::string("run: the bound of the backing files cannot be kept: ") +
                             std::strerror(made.code()) +
                             "; --backing-file none does without files"};
}

// What the processes of the run share with us, and who answers for it. Without either, the program
// runs as well, and cannot be looked at.
class Control {
 public:
  Control() {
    char text[control::Block::kTextBytes];
    const auto made = control::Block::create(block_layout(), text, &fd_);
    if (!made) return;
    block_ = *made;
    text_ = text;
    members_ = std::make_unique<RunMembers>(*block_);
  }
  ~Control() {
    follower_.reset();
    keeper_.reset();
    server_.reset();
    members_.reset();
    if (block_ != nullptr) control::Block::unmap(block_);
  }
  Control(const Control&) = delete;
  Control& operator=(const Control&) = delete;

  // For the environment of the program; empty: there is no block.
  [[nodiscard]] const std::string& text() const { return text_; }
  // Once the program has the block's descriptor. The one to watch for clients, or -1.
  [[nodiscard]] int start(const RunOptions& options, ByteSize budget) {
    if (block_ == nullptr) {
      if (options.budget.follows())
        say("warning: no memory to share with the program can be had, so the budget stays what it "
            "is now");
      return -1;
    }
    descriptors::release(fd_);
    std::string command;
    for (const std::string& word : options.program) command += (command.empty() ? "" : " ") + word;
    server_ = ControlServer::start(*members_, budget, std::move(command));
    if (members_->are_tree()) keeper_ = std::make_unique<PlaceKeeper>(*members_);
    if (options.budget.follows())
      follower_ = std::make_unique<BudgetFollower>(*members_, options.budget, system_root());
    return server_ != nullptr ? server_->listener() : -1;
  }
  void admit() { server_->admit(); }
  // The program has ended: what there is to say about its budget.
  void finish() {
    if (follower_ == nullptr) return;
    members_->stop();
    if (const std::string sentence = follower_->finish(); !sentence.empty()) say(sentence);
  }
  // Null: there is none.
  [[nodiscard]] control::Block* block() { return block_; }

 private:
  control::Block* block_ = nullptr;
  int fd_ = -1;
  std::string text_;
  std::unique_ptr<RunMembers> members_;
  std::unique_ptr<ControlServer> server_;
  std::unique_ptr<BudgetFollower> follower_;
  std::unique_ptr<PlaceKeeper> keeper_;
};

int fail(const Failure& failure) {
  say(failure.line);
  return failure.status;
}

}  // namespace

int run_command(const std::vector<std::string>& words) {
  if (const char* outer = std::getenv(env::kDevice)) (void)mmu::uffd_source::accept(outer);
  const Outcome<RunOptions> options = parse_run_options(words);
  if (!options) return fail(options.failure());
  if (options->help) {
    std::fputs(run_help(), stdout);
    return 0;
  }
  const Outcome<std::string> file = choose_backing_file(options->backing_file);
  if (!file) return fail(file.failure());
  const Outcome<bool> served = check_kernel_serves(mmu::Capabilities::probe(), options->faults);
  if (!served) return fail(served.failure());
  const Outcome<std::string> library = find_preload_library();
  if (!library) return fail(library.failure());
  const Outcome<std::string> path = resolve_program(options->program.front());
  if (!path) return fail(path.failure());
  const Outcome<bool> preloadable = check_preloadable(*path);
  if (!preloadable) return fail(preloadable.failure());
  if (const Outcome<bool> traced = prepare_trace(options->trace); !traced)
    return fail(traced.failure());
  const Outcome<std::string> ledger = make_disk_ledger(*options, *file);
  if (!ledger) return fail(ledger.failure());
  const Outcome<ByteSize> budget = first_budget(options->budget, read_memory_room(system_root()));
  if (!budget) return fail(budget.failure());
  warn_if_larger_than_memory(*budget);
  Control control;
  if (options->scope == "tree") {
    if (control.block() == nullptr)
      return fail({kCannotExecute,
                   "run: --budget-scope tree: no memory to share with the program can be had"});
    control.block()->tree_limit.store(*budget);
  }
  const Ending ending = supervise(
      {*path, options->program,
       make_environment(*options, *budget, {*file, *ledger, *library, control.text()}),
       env::kFirstPid, [&] { return control.start(*options, *budget); }, [&] { control.admit(); }});
  control.finish();
  if (ending.signal != 0 && !options->stats.empty())
    write_last_stats(options->stats, control.block(), ending);
  return ending.status;
}

}  // namespace buoy::cli
