#include "swap_workload.h"

#include <fmt/format.h>

#include <atomic>
#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "child.h"
#include "histogram.h"
#include "machine.h"
#include "page_data.h"

namespace buoy::bench {
namespace {

constexpr std::uint64_t kCheckedPart = 8;  // every 8th page is compared whole at the end

struct alignas(128) Thread {
  Histogram slow;
  std::uint64_t accesses = 0;
  double seconds = 0;
  std::uint64_t wrong_pages = 0;
};

class Runner {
 public:
  Runner(const Workload& workload, std::uint64_t* memory)
      : workload_(workload),
        memory_(memory),
        pages_(workload.set_bytes / kPageBytes),
        start_(static_cast<std::ptrdiff_t>(workload.threads)) {}

  // One thread's share: warm-up, then the measured part, which begins for all together.
  void run(unsigned index, Thread& self) {
    AccessStream stream(workload_.pattern, pages_, index, workload_.threads);
    start_.arrive_and_wait();
    touch_for(workload_.warm_seconds, index, stream, self);
    const std::uint64_t wrong = self.wrong_pages;
    self = {};
    self.wrong_pages = wrong;
    start_.arrive_and_wait();
    touch_for(workload_.timed_seconds, index, stream, self);
  }

 private:
  void touch_for(double seconds, unsigned index, AccessStream& stream, Thread& self) {
    const double rate = ticks_per_microsecond();
    const auto slow = static_cast<std::uint64_t>(kSlowMicroseconds * rate);
    const std::uint64_t first = ticks();
    const std::uint64_t end = first + static_cast<std::uint64_t>(seconds * 1e6 * rate);
    std::uint64_t now = first;
    while (now < end) {
      const Access access = stream.next();
      volatile std::uint64_t* page = memory_ + access.page * kPageWords;
      const std::uint64_t before = ticks();
      if (access.store) page[kFirstCounter + index] = page[kFirstCounter + index] + 1;
      self.wrong_pages += page[0] != access.page ? 1 : 0;
      now = ticks();
      if (now - before > slow) self.slow.add(now - before);
      ++self.accesses;
    }
    self.seconds = static_cast<double>(now - first) / rate / 1e6;
  }

  const Workload& workload_;
  std::uint64_t* const memory_;
  const std::uint64_t pages_;
  std::barrier<> start_;
};

}  // namespace

Sample run_workload(const Workload& workload, std::uint64_t* memory) {
  const PageData data(workload.stored);
  const std::uint64_t pages = workload.set_bytes / kPageBytes;
  for (std::uint64_t page = 0; page < pages; ++page) data.fill(memory + page * kPageWords, page);

  (void)ticks_per_microsecond();
  const auto threads = std::make_unique<Thread[]>(workload.threads);
  Runner runner(workload, memory);
  {
    std::vector<std::jthread> running;
    for (unsigned i = 0; i < workload.threads; ++i)
      running.emplace_back([&, i] { runner.run(i, threads[i]); });
  }

  std::uint64_t wrong = 0;
  for (std::uint64_t page = 0; page < pages; page += kCheckedPart)
    wrong += data.matches(memory + page * kPageWords, page) ? 0 : 1;
  double per_second = 0;
  double accesses = 0;
  Histogram slow;
  for (unsigned i = 0; i < workload.threads; ++i) {
    wrong += threads[i].wrong_pages;
    per_second += static_cast<double>(threads[i].accesses) / threads[i].seconds;
    accesses += static_cast<double>(threads[i].accesses);
    slow.merge(threads[i].slow);
  }
  if (wrong != 0) throw Unavailable(fmt::format("{} pages had wrong contents", wrong));
  const auto microseconds = [&](double part) {
    return static_cast<double>(slow.quantile(part)) / ticks_per_microsecond();
  };
  return {{"accesses_per_second", per_second},
          {"slow_part", static_cast<double>(slow.count()) / accesses},
          {"p50_us", microseconds(0.5)},
          {"p99_us", microseconds(0.99)},
          {"p999_us", microseconds(0.999)}};
}

Arguments to_arguments(const Workload& w) {
  return {
      {"pattern", std::string(name_of(w.pattern))}, {"set", std::to_string(w.set_bytes)},
      {"stored", fmt::format("{}", w.stored)},      {"threads", std::to_string(w.threads)},
      {"warm", fmt::format("{}", w.warm_seconds)},  {"timed", fmt::format("{}", w.timed_seconds)}};
}

Workload workload_of(const Arguments& a) {
  const auto pattern = pattern_named(text_of(a, "pattern"));
  if (!pattern) throw Unavailable("unknown pattern " + text_of(a, "pattern"));
  return {*pattern,
          static_cast<std::size_t>(number_of(a, "set")) / kPageBytes * kPageBytes,
          number_of(a, "stored"),
          static_cast<unsigned>(number_of(a, "threads")),
          number_of(a, "warm"),
          number_of(a, "timed")};
}

}  // namespace buoy::bench
