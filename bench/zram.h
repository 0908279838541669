// The peer's swap: a zram device of its own as the machine's preferred swap, undone at the end.
#pragma once

#include <cstdint>
#include <string>

namespace buoy::bench {

// The fields of /sys/block/zramN/mm_stat that are compared, all in bytes.
struct ZramUse {
  std::uint64_t original = 0;    // orig_data_size: pages held, uncompressed
  std::uint64_t compressed = 0;  // compr_data_size: their stored size
  std::uint64_t memory = 0;      // mem_used_total: that with the allocator's waste
  std::uint64_t peak = 0;        // mem_used_max: the most of it since forget_peak()
};

class ZramSwap {
 public:
  // Adds a device (hot_add; else an unused /dev/zram0) with this compressor and size, and swaps to
  // it. Holds the machine. Throws Unavailable.
  ZramSwap(const std::string& compressor, std::uint64_t size);
  ZramSwap(const ZramSwap&) = delete;
  ZramSwap& operator=(const ZramSwap&) = delete;

  [[nodiscard]] ZramUse use() const;
  void forget_peak();

 private:
  std::string sysfs_;
};

// vm.page-cluster: swap-in reads 2^value pages at once. Restored at the end. Throws Unavailable.
void set_page_cluster(unsigned value);

// Writes the header of a swap area over the start of a device or file of `size` bytes.
void make_swap_area(const std::string& path, std::uint64_t size);

}  // namespace buoy::bench
