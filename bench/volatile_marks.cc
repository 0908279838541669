// Marking and purging: the primitive operations, each on memory that is wholly resident.
#include <sys/mman.h>

#include <algorithm>
#include <buoy/pool.hpp>
#include <chrono>
#include <vector>

#include "buoy/buoy.h"
#include "machine.h"
#include "volatile_work.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

namespace buoy::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kMiB = std::size_t{1} << 20;

double nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

void store_everywhere(std::byte* at, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += kPage)
    *reinterpret_cast<volatile std::byte*>(at + i) = {};
}

// The median time of one call of `body`, which is repeated for about 0.2 s.
template <typename Body>
double median_time(std::size_t calls_at_a_time, Body body) {
  std::vector<double> samples;
  const auto start = Clock::now();
  while (samples.size() < 5 || nanoseconds_since(start) < 2e8) {
    const auto before = Clock::now();
    for (std::size_t i = 0; i < calls_at_a_time; ++i) body(i);
    samples.push_back(nanoseconds_since(before) / static_cast<double>(calls_at_a_time));
  }
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

class PlainMemory {
 public:
  explicit PlainMemory(std::size_t bytes) : bytes_(bytes) {
    void* const at =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) throw Unavailable(because_errno("mmap"));
    at_ = static_cast<std::byte*>(at);
    madvise(at, bytes, MADV_NOHUGEPAGE);
    store_everywhere(at_, bytes);
  }
  PlainMemory(const PlainMemory&) = delete;
  PlainMemory& operator=(const PlainMemory&) = delete;
  ~PlainMemory() { munmap(at_, bytes_); }
  [[nodiscard]] std::byte* data() const { return at_; }
  void advise(int advice) {
    if (madvise(at_, bytes_, advice) != 0) throw Unavailable(because_errno("madvise"));
  }
  void protect(int protection) {
    if (mprotect(at_, bytes_, protection) != 0) throw Unavailable(because_errno("mprotect"));
  }

 private:
  std::byte* at_;
  std::size_t bytes_;
};

PoolOptions signal_faults() {
  PoolOptions options;
  options.faults = BUOY_FAULTS_SIGNAL;
  return options;
}

double measure_buoy_marks(std::size_t bytes) {
  // Resident as far as a budget of 64 MiB has room: what is there makes no difference to a mark.
  const Pool pool(64 * kMiB, signal_faults());
  Region region(pool, bytes);
  store_everywhere(region.data(), std::min(bytes, 32 * kMiB));
  return median_time(1000, [&](std::size_t) {
    region.mark_volatile();
    if (region.mark_nonvolatile() == Kept::kNo) throw Unavailable("something was purged");
  });
}

double measure_buoy_part(std::size_t bytes) {
  constexpr std::size_t kPart = 16 * kPage;
  const Pool pool(64 * kMiB, signal_faults());
  Region region(pool, bytes);
  store_everywhere(region.data(), std::min(bytes, 32 * kMiB));
  const std::size_t places = bytes / kPart - 2;
  std::vector<double> samples;
  for (std::size_t i = 0; i < 20'000; ++i) {
    region.mark_volatile();  // whole again
    const std::size_t part = (1 + i * 7 % places) * kPart + kPage;
    const auto start = Clock::now();
    const Kept kept = region.mark_nonvolatile(part, kPart);
    region.mark_volatile(part, kPart);
    samples.push_back(nanoseconds_since(start) / 2);
    if (kept == Kept::kNo) throw Unavailable("something was purged");
  }
  std::nth_element(samples.begin(), samples.begin() + 10'000, samples.end());
  return samples[10'000];
}

}  // namespace

Sample measure_marks(MarkBy by, std::size_t bytes) {
  if (by == MarkBy::kBuoy) return {{"ns", measure_buoy_marks(bytes)}};
  if (by == MarkBy::kBuoyPart) return {{"ns", measure_buoy_part(bytes)}};
  PlainMemory memory(bytes);
  const std::size_t calls = std::max<std::size_t>(1, kMiB / bytes);
  switch (by) {
    case MarkBy::kProtect:
      return {{"ns", median_time(calls, [&](std::size_t) {
                 memory.protect(PROT_NONE);
                 memory.protect(PROT_READ | PROT_WRITE);
               })}};
    case MarkBy::kFree:
    case MarkBy::kDiscard:
      return {{"ns", median_time(calls, [&](std::size_t) {
                 memory.advise(by == MarkBy::kFree ? MADV_FREE : MADV_DONTNEED);
                 store_everywhere(memory.data(), bytes);
               })}};
    default:
      return {};
  }
}

Sample measure_purge(std::size_t bytes, unsigned flags) {
  const Pool pool(bytes + bytes / 2 + 64 * kMiB, signal_faults());
  constexpr std::size_t kObject = 4 * kMiB;
  Region region(pool, bytes, flags);
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    store_everywhere(region.data(), bytes);
    for (std::size_t i = 0; i < bytes; i += kObject) region.mark_volatile(i, kObject);
    const std::uint64_t before = pool.stat("pgpurged");
    const auto start = Clock::now();
    if (buoy_pool_reclaim(pool.get(), bytes) < static_cast<ssize_t>(bytes))
      throw Unavailable("not all was purged");
    const double taken = nanoseconds_since(start);
    const auto pages = static_cast<double>(pool.stat("pgpurged") - before);
    if (pages < static_cast<double>(bytes / kPage)) throw Unavailable("not all was purged");
    if (round > 0 && (best == 0 || taken / pages < best)) best = taken / pages;
    for (std::size_t i = 0; i < bytes; i += kObject) (void)region.mark_nonvolatile(i, kObject);
  }
  return {{"ns", best}};
}

Sample measure_kernel_reclaim(std::size_t bytes) {
  PlainMemory memory(bytes);
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    store_everywhere(memory.data(), bytes);
    memory.advise(MADV_FREE);
    const auto start = Clock::now();
    memory.advise(MADV_PAGEOUT);
    const double taken = nanoseconds_since(start) / static_cast<double>(bytes / kPage);
    if (round > 0 && (best == 0 || taken < best)) best = taken;
  }
  return {{"ns", best}};
}

}  // namespace buoy::bench
