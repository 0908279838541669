// Zram: tier 1. Pages compressed into a zpool, same-filled ones into their handle's word.
//
// Knows nothing of the file: a handle whose word is foreign and not a pattern is not its business.
// Thread-safe; the caller orders load and free of one handle.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "swap/foreign_word.h"
#include "swap/page_codec.h"
#include "swap/work_area.h"
#include "zpool/zpool.h"

namespace buoy::swap {

// A handle's marks (six bits that the zpool carries for us).
inline constexpr unsigned kMarkYoung = 1;  // stored since the write-back clock last passed
// A copy is on its way to the backing file, in this one of the two batches that may be in flight:
// a handle that is freed and used anew may be collected again while its first copy is under way.
inline constexpr unsigned kMarkWriteBack[] = {2, 4};
inline constexpr unsigned kMarkAnyWriteBack = 2 | 4;

class Zram {
 public:
  Zram(zpool::Zpool& pool, const PageCodec& codec, WorkAreas& areas)
      : pool_(pool), codec_(codec), areas_(areas) {}

  // kNoRoom, kNoHandle: nothing is kept.
  [[nodiscard]] zpool::PutOutcome store(const std::byte* page, zpool::Handle* handle);
  // Of a pinned object, or a pinned pattern word. False: the bytes cannot be decoded.
  [[nodiscard]] bool load(const zpool::Zpool::Pinned& object, std::byte* out);
  PageCount free(zpool::Zpool::Pinned&& object);
  // Takes a pinned object out of the counts: it goes to the file, or from it to nowhere.
  void forget(const zpool::Zpool::Pinned& object);

  [[nodiscard]] std::uint64_t pages() const { return pages_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t same_filled() const {
    return same_filled_.load(std::memory_order_relaxed);
  }
  [[nodiscard]] std::uint64_t incompressible() const {
    return incompressible_.load(std::memory_order_relaxed);
  }

 private:
  zpool::Zpool& pool_;
  const PageCodec& codec_;
  WorkAreas& areas_;
  std::atomic<std::uint64_t> pages_{0};  // same-filled and incompressible ones included
  std::atomic<std::uint64_t> same_filled_{0};
  std::atomic<std::uint64_t> incompressible_{0};
};

}  // namespace buoy::swap
