// Event counters with names, sharded so that threads do not share cache lines.
//
// Counters only grow; reading sums the shards (each shard exact, the sum a moment's snapshot).
// Names are those of /proc/vmstat where the kernel has a twin. Async-signal-safe.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/sys.h"

namespace buoy {

// How long faults took, each counted in the bucket of its length: from so many microseconds to twice as
// many. In the order of their lengths; see fault_time_bucket().
#define BUOY_FAULT_TIMES(X)                                        \
  X(fault_us_0, "faults that took less than a microsecond")        \
  X(fault_us_1, "faults that took 1 microsecond, and less than 2") \
  X(fault_us_2, "and so on: 2 to 4")                               \
  X(fault_us_4, "4 to 8")                                          \
  X(fault_us_8, "8 to 16")                                         \
  X(fault_us_16, "16 to 32")                                       \
  X(fault_us_32, "32 to 64")                                       \
  X(fault_us_64, "64 to 128")                                      \
  X(fault_us_128, "128 to 256")                                    \
  X(fault_us_256, "256 to 512")                                    \
  X(fault_us_512, "512 to 1024")                                   \
  X(fault_us_1024, "1 to 2 milliseconds")                          \
  X(fault_us_2048, "2 to 4")                                       \
  X(fault_us_4096, "4 to 8")                                       \
  X(fault_us_8192, "8 to 16")                                      \
  X(fault_us_16384, "16 milliseconds and more")

#define BUOY_EVENTS(X)                                                                      \
  X(pgfault, "faults that reached us")                                                      \
  X(fault_ns, "nanoseconds that they took, summed over all threads")                        \
  BUOY_FAULT_TIMES(X)                                                                       \
  X(pgmajfault, "faults that had to decompress or read the backing file")                   \
  X(pgfault_zero, "pages filled with zeros on a fault")                                     \
  X(pgfault_standby, "faults answered from standby")                                        \
  X(pgfault_protect, "store faults on pages that were write-protected")                     \
  X(pswpin, "pages brought in from a swap tier")                                            \
  X(pswpin_file, "of these: from the backing file")                                         \
  X(workingset_activate, "of these: right after they had left")                             \
  X(pswpout, "pages sent to a swap tier")                                                   \
  X(pgswapahead, "pages brought in beside the one that faulted")                            \
  X(pgsteal_direct, "pages reclaimed by a thread that needed memory")                       \
  X(pgsteal_proactive, "pages reclaimed ahead of need, or to shrink")                       \
  X(pgsteal_background, "pages reclaimed by the background reclaimer")                      \
  X(pgscan, "pages looked at by reclaim")                                                   \
  X(pgdeactivate, "pages put on standby")                                                   \
  X(pgactivate, "pages taken back from standby")                                            \
  X(pgcopykept, "clean pages let go because their compressed copy was still there")         \
  X(pgsqueeze_raced, "compressions dropped because the page was touched meanwhile")         \
  X(allocstall, "direct reclaims")                                                          \
  X(oom_stall, "times nothing could be reclaimed")                                          \
  X(pglazyfree, "pages marked lazily freed")                                                \
  X(pglazyfreed, "lazily freed pages that reclaim discarded")                               \
  X(pglazyunfreed, "lazily freed pages that a store made ordinary again")                   \
  X(pglazydropped, "lazily freed pages that were unmapped, discarded or wiped by the user") \
  X(pgdropped, "pages of droppable regions that reclaim discarded")                         \
  X(pgpurged, "volatile pages that reclaim purged")                                         \
  X(pgvolatile, "pages marked volatile")                                                    \
  X(pgnonvolatile, "pages whose volatile mark was withdrawn")                               \
  X(folio_split, "folios split because a part of them was discarded or unmapped")           \
  X(folio_split_deferred, "folios left whole when a part of them was lazily freed")         \
  X(folio_split_reclaim, "folios split because reclaim discarded a part of them")           \
  X(thp_fault_alloc, "2 MiB folios that one fault filled")                                  \
  X(swap_file_write, "bytes written to the backing file")                                   \
  X(swap_file_read, "bytes read from the backing file")                                     \
  X(swap_corrupt, "pages whose checksum or read failed")                                    \
  X(tlb_flush_calls, "system calls that took translations away")                            \
  X(mmu_take_calls, "calls that took pages away")                                           \
  X(mmu_install_calls, "calls that brought pages in")                                       \
  X(mmu_busy, "pages that the kernel held")                                                 \
  X(compact_migrate_scanned, "frames looked at by the migrate scanner")                     \
  X(compact_free_scanned, "frames looked at by the free scanner")                           \
  X(compact_isolated, "frames isolated for migration")                                      \
  X(compact_stall, "direct compactions")                                                    \
  X(compact_fail, "direct compactions that gave nothing")                                   \
  X(compact_success, "direct compactions that gave the block asked for")                    \
  X(compact_daemon_wake, "background compactions")                                          \
  X(pgmigrate_success, "frames migrated")                                                   \
  X(pgmigrate_fail, "frames that would not migrate")                                        \
  X(balloon_inflate, "frames given back to the operating system")                           \
  X(balloon_deflate, "frames taken back from the operating system")                         \
  X(balloon_migrate, "balloon frames migrated")                                             \
  X(fork_calls, "forks")                                                                    \
  X(gate_enter, "system calls that the gate looked at")                                     \
  X(gate_copy, "of these: made on a copy of the program's memory")                          \
  X(gate_bounced_bytes, "bytes copied for that, there and back")                            \
  X(gate_pin, "of these: made on pinned pages")                                             \
  X(gate_retry, "of these: made again, after a page was brought in")                        \
  X(gate_continue, "times a transfer that had stopped at a missing page went on")           \
  X(gate_unknown_calls, "system calls that the gate's table does not have")                 \
  X(gate_dispatched, "system calls of code that is not patched, by a signal")               \
  X(gate_sites_patched, "system call instructions that the gate has patched")               \
  X(gate_sites_left, "byte pairs that may be one, left as they are")                        \
  X(cma_alloc_success, "contiguous allocations served")                                     \
  X(cma_alloc_fail, "contiguous allocations refused")                                       \
  X(cma_fail_budget, "of these: the budget had no room, and reclaim made none")             \
  X(cma_fail_pinned, "of these: a page that stays was in the way")

enum class Event : std::uint8_t {
#define BUOY_EVENT_ENUM(name, text) name,
  BUOY_EVENTS(BUOY_EVENT_ENUM)
#undef BUOY_EVENT_ENUM
      kCount
};

inline constexpr std::size_t kEventCount = static_cast<std::size_t>(Event::kCount);

[[nodiscard]] std::string_view event_name(Event e);

inline constexpr unsigned kFaultTimeBuckets = 16;
static_assert(static_cast<unsigned>(Event::fault_us_16384) ==
              static_cast<unsigned>(Event::fault_us_0) + kFaultTimeBuckets - 1);
// The i-th of BUOY_FAULT_TIMES.
[[nodiscard]] constexpr Event fault_time_bucket(unsigned i) {
  return static_cast<Event>(static_cast<unsigned>(Event::fault_us_0) + i);
}
// Where that bucket begins, in nanoseconds; it ends where the next begins.
[[nodiscard]] constexpr std::uint64_t fault_time_from_ns(unsigned i) {
  return i == 0 ? 0 : 1000ULL << (i - 1);
}
[[nodiscard]] constexpr unsigned bucket_of_fault_time(std::uint64_t ns) {
  const std::uint64_t us = ns / 1000;
  if (us == 0) return 0;
  const unsigned bucket = 64U - static_cast<unsigned>(__builtin_clzll(us));
  return bucket < kFaultTimeBuckets ? bucket : kFaultTimeBuckets - 1;
}

class Counters {
 public:
  void add(Event e, std::uint64_t n = 1) {
    shards_[sys::current_cpu() % kShards].values[static_cast<std::size_t>(e)].fetch_add(
        n, std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t read(Event e) const {
    std::uint64_t sum = 0;
    for (const Shard& s : shards_)
      sum += s.values[static_cast<std::size_t>(e)].load(std::memory_order_relaxed);
    return sum;
  }
  // For a fork child, whose history starts anew. No other thread may run.
  void reset() {
    for (Shard& s : shards_)
      for (auto& v : s.values) v.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr std::size_t kShards = 8;
  struct alignas(128) Shard {
    std::array<std::atomic<std::uint64_t>, kEventCount> values{};
  };
  std::array<Shard, kShards> shards_{};
};

}  // namespace buoy
