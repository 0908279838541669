// The peer of `swap` and `run`: a memory cgroup whose members are swapped to zram.
//
// It is charged as Buoy is: the cgroup's limit plus what zram holds (mem_used_total) comes to what
// Buoy used, so the limit is found by trying.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "cgroup.h"
#include "child.h"
#include "samples.h"
#include "zram.h"

namespace buoy::bench {

// Runs a side in a new cgroup and adds to its sample: cgroup_peak_bytes. `limit` may be kNoLimit.
// `look` is called while the process holds its memory.
[[nodiscard]] Sample run_side_in_cgroup(Command command, std::uint64_t limit,
                                        const std::function<void(Sample&)>& look = {});

class KernelSwap {
 public:
  // Sets up zram with `compressor`, room for `size` bytes. Throws Unavailable.
  KernelSwap(const std::string& compressor, std::uint64_t size);

  // Runs a side that answers. Adds to its sample zram_bytes (mem_used_total),
  // zram_compressed_bytes, zram_original_bytes, and charged_bytes = limit + zram_bytes. Throws
  // Unavailable.
  //
  // The kernel kills a member now and then although there is swap enough; such a run is repeated,
  // and counted in oom_kills().
  [[nodiscard]] Sample run_side(const Command& command, std::uint64_t limit);
  [[nodiscard]] unsigned oom_kills() const { return oom_kills_; }

  // Waits until the slots of the processes before are free.
  void settle();
  [[nodiscard]] ZramSwap& zram() { return zram_; }

 private:
  ZramSwap zram_;
  unsigned oom_kills_ = 0;
};

// The cgroup limit at which the peer is charged `total` bytes, within that part of it, found by
// trying: `run(limit)` gives a sample with charged_bytes, zram_bytes and zram_original_bytes. Throws
// Unavailable if there is none.
[[nodiscard]] std::uint64_t calibrate_limit(const std::function<Sample(std::uint64_t)>& run,
                                            std::uint64_t total, double tolerance = 0.01);

}  // namespace buoy::bench
