#include "lazyfree_ops.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <numeric>
#include <random>
#include <vector>

#include "child.h"
#include "machine.h"

namespace buoy::bench {
namespace {

// The time this thread ran, in the kernel and in handlers too. No operation here waits for another
// thread, so it is what the operation costs, with what else the machine does left out.
double cpu_nanoseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

Span everything(const LazyMemory& memory) { return {0, memory.pages()}; }

template <typename Body>
void for_each_run(const LazyMemory& memory, std::size_t run, Body body) {
  for (std::size_t first = 0; first < memory.pages(); first += run)
    body(Span{first, std::min(run, memory.pages() - first)});
}

// The file of a cgroup, version 1 or 2.
std::string cgroup_file(const std::string& folder, const char* v1, const char* v2) {
  const std::string old = folder + "/" + v1;
  return file_exists(old) ? old : folder + "/" + v2;
}

// Lowers the limit below what is used, by nearly all of the memory. Nanoseconds a page that went.
double lower_limit(const Task& task) {
  const std::string limit = cgroup_file(task.cgroup, "memory.limit_in_bytes", "memory.max");
  const std::string usage = cgroup_file(task.cgroup, "memory.usage_in_bytes", "memory.current");
  const auto used = [&usage] { return std::stoull(read_file(usage)); };
  constexpr double kPart = 0.9;
  const auto before = used();
  const auto wanted =
      before - static_cast<std::uint64_t>(kPart * static_cast<double>(task.pages * kPageBytes));
  const double start = cpu_nanoseconds();
  write_file(limit, std::to_string(wanted));
  const double taken = cpu_nanoseconds() - start;
  const auto after = used();
  write_file(limit, limit.back() == 'x' ? "max" : "-1");
  if (after > wanted) throw Unavailable("the limit was not held");
  return taken / (static_cast<double>(before - after) / static_cast<double>(kPageBytes));
}

// The last pages are not asked for: the kernel may have them in a batch of one CPU still, of which
// MADV_PAGEOUT does not know.
void expect_gone(const LazyMemory& memory) {
  constexpr std::size_t kBatch = 64;
  for (std::size_t page = 0; page + kBatch < memory.pages(); page += memory.pages() / 7)
    if (memory.load(page) != 0) throw Unavailable(fmt::format("page {} was not reclaimed", page));
}

void expect_there(const LazyMemory& memory, std::size_t step) {
  for (std::size_t page = 0; page < memory.pages(); page += step)
    if (memory.load(page) != page + 1) throw Unavailable(fmt::format("page {} is lost", page));
}

class Round {
 public:
  Round(const Task& task, LazyMemory& memory) : task_(task), memory_(memory) {
    starts_.resize(memory.pages() / run());
    for (std::size_t i = 0; i < starts_.size(); ++i) starts_[i] = i * run();
  }

  // One round, timed. The memory is populated and ordinary before.
  Sample run_once() {
    switch (task_.operation) {
      case Operation::kMark:
        return {{"ns", per_page(timed([&] {
                   for_each_run(memory_, run(), [&](Span span) { memory_.mark(span); });
                 }))}};
      case Operation::kStore:
        return store_again();
      case Operation::kReclaim:
        return reclaim();
      case Operation::kLimit: {
        memory_.mark(everything(memory_));
        return {{"ns", lower_limit(task_)}};
      }
      case Operation::kSkip:
        return skip();
      case Operation::kEager:
        return discard_and_refault();
      case Operation::kDiscard:
        return {{"ns", per_page(discard())}};
    }
    return {};
  }

 private:
  [[nodiscard]] std::size_t run() const { return task_.run == 0 ? memory_.pages() : task_.run; }
  [[nodiscard]] double per_page(double ns) const {
    return ns / static_cast<double>(memory_.pages());
  }
  template <typename Body>
  static double timed(Body body) {
    const double start = cpu_nanoseconds();
    body();
    return cpu_nanoseconds() - start;
  }

  Sample store_again() {
    memory_.mark(everything(memory_));
    std::shuffle(starts_.begin(), starts_.end(), random_);
    const double ns = timed([&] {
      for (const std::size_t first : starts_) {
        memory_.before_stores({first, run()});
        for (std::size_t page = first; page < first + run(); page += task_.step)
          memory_.store(page);
      }
    });
    expect_there(memory_, task_.step);
    const double each = per_page(ns) * static_cast<double>(task_.step);
    return {{"ns", each}, {"store_ns", each}};
  }

  Sample reclaim() {
    memory_.mark(everything(memory_));
    const double ns = timed([&] {
      if (task_.run == 0)
        memory_.reclaim(memory_.pages());
      else
        for_each_run(memory_, run(), [&](Span span) { memory_.reclaim_range(span); });
    });
    expect_gone(memory_);
    return {{"ns", per_page(ns)}};
  }

  // What meeting the folios costs: less what the call costs without them.
  Sample skip() {
    memory_.mark_one_more();
    const double nothing = timed([&] { memory_.reclaim(1); });
    memory_.mark(everything(memory_));
    for (std::size_t page = 0; page < memory_.pages(); page += kFolioPages) memory_.store(page);
    memory_.mark_one_more();
    const double all = timed([&] { memory_.reclaim(1); });
    expect_there(memory_, kFolioPages);
    const double met = memory_.can_mark_one_more() ? all - nothing : all;
    return {{"ns", met * kFolioPages / static_cast<double>(memory_.pages())}};
  }

  double discard() {
    return timed([&] { for_each_run(memory_, run(), [&](Span span) { memory_.discard(span); }); });
  }

  Sample discard_and_refault() {
    const double discarded = discard();
    const double refaulted = timed([&] { memory_.store_everywhere(); });
    return {{"ns", per_page(discarded + refaulted)}, {"store_ns", per_page(refaulted)}};
  }

  const Task& task_;
  LazyMemory& memory_;
  std::vector<std::size_t> starts_;
  std::mt19937_64 random_{1};
};

constexpr std::pair<Operation, const char*> kWords[] = {
    {Operation::kMark, "mark"},      {Operation::kStore, "store"}, {Operation::kReclaim, "reclaim"},
    {Operation::kLimit, "limit"},    {Operation::kSkip, "skip"},   {Operation::kEager, "eager"},
    {Operation::kDiscard, "discard"}};

}  // namespace

Sample run_task(const Task& task, LazyMemory& memory) {
  Round round(task, memory);
  std::map<std::string, std::vector<double>> taken;
  for (std::size_t i = 0; i <= task.rounds; ++i) {
    memory.store_everywhere();
    const Sample sample = round.run_once();
    if (i == 0) continue;
    for (const auto& [quantity, value] : sample) taken[quantity].push_back(value);
  }
  Sample medians;
  for (auto& [quantity, values] : taken) medians[quantity] = median(std::move(values));
  return medians;
}

Arguments to_arguments(const Task& task) {
  std::string word;
  for (const auto& [operation, each] : kWords)
    if (operation == task.operation) word = each;
  return {{"operation", word},
          {"run", std::to_string(task.run)},
          {"step", std::to_string(task.step)},
          {"pages", std::to_string(task.pages)},
          {"threads", std::to_string(task.threads)},
          {"rounds", std::to_string(task.rounds)},
          {"cgroup", task.cgroup}};
}

Task task_of(const Arguments& arguments) {
  const auto count = [&](const char* key) {
    return static_cast<std::size_t>(number_of(arguments, key));
  };
  Operation operation = Operation::kMark;
  for (const auto& [each, word] : kWords)
    if (text_of(arguments, "operation") == word) operation = each;
  return {operation,
          count("run"),
          count("step"),
          count("pages"),
          static_cast<unsigned>(count("threads")),
          count("rounds"),
          text_of(arguments, "cgroup")};
}

}  // namespace buoy::bench
