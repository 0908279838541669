// Benchmark `lazyfree`: marking, storing again and reclaiming lazily freed memory, Buoy against the
// kernel on pages of 4 KiB, 64 KiB and 2 MiB.
//
// A case is an operation; all backings that it names are measured in turn, and each line is one of
// Buoy's backings against one of the kernel's, from the same samples. How to read the lines, and
// the targets: docs/performance.md.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "bench.h"
#include "cgroup.h"
#include "child.h"
#include "lazy_memory.h"
#include "lazyfree_ops.h"
#include "machine.h"
#include "report.h"
#include "samples.h"

namespace buoy::bench {
namespace {

constexpr double kPatience = 60;  // seconds: only a hang takes so long
const Unit kPerPage = {"ns/page", Better::kLower};

// What is measured: one task on one backing.
struct Subject {
  Backing backing;
  Task task;
};

// One line: sides by their number in the case.
struct Line {
  std::string name;
  std::size_t buoy;
  std::size_t peer;
  std::string quantity = "ns";
};

struct Case {
  std::string name;
  Unit unit;
  std::vector<Subject> subjects;
  std::vector<Line> lines;
};

Sample measure(const Subject& subject) {
  Task task = subject.task;
  std::optional<MemoryCgroup> cgroup;
  std::string procs;
  if (task.operation == Operation::kLimit) {
    cgroup.emplace();
    cgroup->allow_swap(false);
    procs = cgroup->procs_file();
    task.cgroup = std::filesystem::path(procs).parent_path().string();
  }
  Arguments arguments = to_arguments(task);
  arguments["backing"] = name_of(subject.backing);
  Command command = side_command("lazyfree", arguments);
  command.join_cgroup = procs;
  Child child(command);
  Sample sample = child.wait_for_answer(kPatience);
  child.finish(kPatience);
  return sample;
}

std::string peer_name(const Subject& subject) {
  const char* call = "MADV_FREE";
  switch (subject.task.operation) {
    case Operation::kMark:
    case Operation::kStore:
      break;
    case Operation::kReclaim:
    case Operation::kSkip:
      call = "MADV_PAGEOUT";
      break;
    case Operation::kLimit:
      call = "cgroup limit";
      break;
    case Operation::kEager:
    case Operation::kDiscard:
      call = "MADV_DONTNEED";
      break;
  }
  if (is_buoy(subject.backing)) return "Buoy itself";
  return fmt::format("{} on {} pages", call, name_of(subject.backing));
}

void run_case(const Case& c, const Settings& settings, Report& report) {
  if (std::none_of(c.lines.begin(), c.lines.end(),
                   [&](const Line& line) { return settings.wants(line.name); }))
    return;
  std::vector<Side> sides;
  for (const Subject& subject : c.subjects)
    sides.push_back({peer_name(subject), [&subject] { return measure(subject); }});
  const std::vector<Measured> measured = run_interleaved(sides);
  for (const Line& line : c.lines)
    if (settings.wants(line.name))
      report_pair(report, line.name, c.unit, measured[line.buoy], measured[line.peer],
                  line.quantity);
  note_disturbance(report, measured);
}

// The pairs that an operation is compared for: each of Buoy's backings with the kernel's that a
// program would have instead.
constexpr std::pair<Backing, Backing> kPairsOfBackings[] = {
    {Backing::kBuoySmall, Backing::kKernel4K},
    {Backing::kBuoySmall, Backing::kKernel64K},
    {Backing::kBuoyHuge, Backing::kKernel4K},
    {Backing::kBuoyHuge, Backing::kKernel64K},
    {Backing::kBuoyHuge, Backing::kKernel2M}};

// What an allocator can say, too: when it stores again.
void add_until_reuse(Case& c, const std::string& name, const Task& task) {
  for (const Backing peer : {Backing::kKernel4K, Backing::kKernel64K})
    c.lines.push_back({fmt::format("{} {}/{} {}t", name, name_of(Backing::kBuoyUntilReuse),
                                   name_of(peer), task.threads),
                       static_cast<std::size_t>(Backing::kBuoyUntilReuse),
                       static_cast<std::size_t>(peer)});
}

Case on_all_backings(const std::string& name, const Task& task) {
  Case c{name, kPerPage, {}, {}};
  for (const Backing backing : kBackings) c.subjects.push_back({backing, task});
  for (const auto& [buoy, peer] : kPairsOfBackings)
    c.lines.push_back(
        {fmt::format("{} {}/{} {}t", name, name_of(buoy), name_of(peer), task.threads),
         static_cast<std::size_t>(buoy), static_cast<std::size_t>(peer)});
  if (task.operation == Operation::kMark || task.operation == Operation::kStore)
    add_until_reuse(c, name, task);
  return c;
}

class Cases {
 public:
  explicit Cases(const Settings& settings) : quick_(settings.quick) {
    for (const unsigned threads : {1U, 2U}) {
      add_marks(threads);
      add_stores(threads);
      add_reclaim(threads);
      add_skip(threads);
      add_eager(threads);
    }
  }
  [[nodiscard]] const std::vector<Case>& all() const { return cases_; }

 private:
  [[nodiscard]] Task task(Operation operation, std::size_t run, unsigned threads) const {
    return {operation, run, 1, (quick_ ? 8U : 32U) * kFolioPages, threads, quick_ ? 3U : 7U, ""};
  }

  void add_marks(unsigned threads) {
    for (const std::size_t run : {16U, 64U, 512U, 4096U})
      cases_.push_back(
          on_all_backings(fmt::format("mark run={}", run), task(Operation::kMark, run, threads)));
  }

  void add_stores(unsigned threads) {
    Case sequential = on_all_backings("store sequential", task(Operation::kStore, 0, threads));
    // Against giving memory back at once: what the store after it costs.
    const std::size_t refault = sequential.subjects.size();
    sequential.subjects.push_back(
        {Backing::kKernel4K, task(Operation::kEager, kFolioPages, threads)});
    sequential.lines.push_back(
        {fmt::format("store sequential small/4K-refault {}t", threads), 0, refault, "store_ns"});
    cases_.push_back(std::move(sequential));
    cases_.push_back(on_all_backings("store runs=64", task(Operation::kStore, 64, threads)));
    cases_.push_back(on_all_backings("store random", task(Operation::kStore, 1, threads)));
    Task sparse = task(Operation::kStore, 16, threads);
    sparse.step = 16;
    cases_.push_back(on_all_backings("store every16", sparse));
  }

  void add_reclaim(unsigned threads) {
    Case whole = on_all_backings("reclaim", task(Operation::kReclaim, 0, threads));
    // What the kernel takes to forget such pages, whoever asks it to.
    whole.subjects.push_back({Backing::kKernel4K, task(Operation::kDiscard, 0, threads)});
    whole.lines.push_back({fmt::format("reclaim small/4K-discard {}t", threads),
                           static_cast<std::size_t>(Backing::kBuoySmall),
                           whole.subjects.size() - 1});
    cases_.push_back(std::move(whole));
    // A folio of 64 KiB a call, against the kernel and against our own page-by-page path.
    Case batch = on_all_backings("reclaim run=16", task(Operation::kReclaim, 16, threads));
    for (const Backing backing : {Backing::kBuoySmall, Backing::kBuoyHuge}) {
      batch.subjects.push_back({backing, task(Operation::kReclaim, 1, threads)});
      batch.lines.push_back(
          {fmt::format("reclaim run=16 {0}/{0}-by-page {1}t", name_of(backing), threads),
           static_cast<std::size_t>(backing), batch.subjects.size() - 1});
    }
    cases_.push_back(std::move(batch));
    if (threads > 1) return;
    Case limit{"reclaim-limit", kPerPage, {}, {}};
    for (const Backing backing : kBackings)
      limit.subjects.push_back(
          {backing, task(is_buoy(backing) ? Operation::kReclaim : Operation::kLimit, 0, threads)});
    for (const auto& [buoy, peer] : kPairsOfBackings)
      limit.lines.push_back(
          {fmt::format("reclaim-limit {}/{} {}t", name_of(buoy), name_of(peer), threads),
           static_cast<std::size_t>(buoy), static_cast<std::size_t>(peer)});
    cases_.push_back(std::move(limit));
  }

  void add_skip(unsigned threads) {
    Task skip = task(Operation::kSkip, 0, threads);
    skip.pages = (quick_ ? 16U : 64U) * kFolioPages;
    cases_.push_back({"skip redirtied",
                      {"ns/folio", Better::kLower},
                      {{Backing::kBuoyHuge, skip}, {Backing::kKernel2M, skip}},
                      {{fmt::format("skip redirtied huge/2M {}t", threads), 0, 1}}});
  }

  void add_eager(unsigned threads) {
    for (const std::size_t run : {64U, 512U}) {
      Case c =
          on_all_backings(fmt::format("eager run={}", run), task(Operation::kEager, run, threads));
      // Discarding 2 MiB gives the page table back, and the kernel would use larger pages then.
      if (run >= kFolioPages) drop_64k(c);
      cases_.push_back(std::move(c));
    }
  }

  static void drop_64k(Case& c) {
    const auto of_64k = static_cast<std::size_t>(Backing::kKernel64K);
    c.lines.erase(std::remove_if(c.lines.begin(), c.lines.end(),
                                 [&](const Line& line) { return line.peer == of_64k; }),
                  c.lines.end());
  }

  bool quick_;
  std::vector<Case> cases_;
};

}  // namespace

BUOY_BENCH(lazyfree,
           "marking, storing again and reclaiming lazily freed memory, on all page sizes") {
  hold_machine();
  try {
    allow_64k_pages();
  } catch (const Unavailable& e) {
    report.note(fmt::format("no 64 KiB pages: {}", e.what()));
  }
  report.note(
      "A/B: Buoy's backing / the kernel's; run=N: N pages a call; Nt: threads of the process, the "
      "second one computing; a store is one of 8 bytes");
  const Cases cases(settings);
  for (const Case& c : cases.all()) run_case(c, settings, report);
}

}  // namespace buoy::bench
