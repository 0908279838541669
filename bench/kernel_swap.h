// The peer of `swap` and `run`: a memory cgroup whose members are swapped to zram.
//
// It is charged as Buoy is: the cgroup's limit plus what zram holds (mem_used_total) comes to what
// Buoy used, so the limit is found by trying (calibrate).
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
[[nodiscard]] Sample run_in_cgroup(Command command, std::uint64_t limit,
                                   const std::function<void(Sample&)>& look = {});

class KernelSwap {
 public:
  // Sets up zram with `compressor`, room for `size` bytes. Throws Unavailable.
  KernelSwap(const std::string& compressor, std::uint64_t size);

  // Adds to the sample: zram_bytes (mem_used_total), zram_compressed_bytes, zram_original_bytes,
  // and charged_bytes = limit + zram_bytes. Throws Unavailable.
  [[nodiscard]] Sample run(const Command& command, std::uint64_t limit);

  // The limit at which `command` is charged `total` bytes, within 1 %, by running it a few times.
  // Throws Unavailable if there is none.
  [[nodiscard]] std::uint64_t calibrate(const Command& command, std::uint64_t total);

 private:
  ZramSwap zram_;
};

}  // namespace buoy::bench
