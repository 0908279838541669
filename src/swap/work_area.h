// Work areas: what a thread needs to compress or to put a page together, lent for one call.
//
//   | compressor's state | output: one page | scratch: some pages |
//
// An area belongs to whoever locked it. A thread tries the area of its CPU first and then the
// others, so that it waits only when every area is in use. An area's lock has the rank kSwapFile:
// its holder takes class locks, and never the backing file's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/lock.h"
#include "base/result.h"
#include "base/units.h"
#include "swap/compressor.h"

namespace buoy::swap {

struct WorkArea {
  std::byte* state = nullptr;
  std::byte* output = nullptr;   // kPageSize bytes
  std::byte* scratch = nullptr;  // as many pages as create() was told, page-aligned
};

class WorkAreas {
 public:
  static constexpr unsigned kMaxAreas = 64;

  WorkAreas() = default;
  WorkAreas(const WorkAreas&) = delete;
  WorkAreas& operator=(const WorkAreas&) = delete;
  ~WorkAreas();

  // ENOMEM; EINVAL: the compressor's library does not fit. At most kMaxAreas.
  [[nodiscard]] Status create(const Compressor& compressor, unsigned count,
                              PageCount scratch = PageCount(1));
  [[nodiscard]] ByteSize bytes() const { return bytes_; }

  // An area for a scope.
  class Lease {
   public:
    explicit Lease(WorkAreas& areas) : areas_(areas), index_(areas.acquire()) {}
    ~Lease() { areas_.release(index_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    const WorkArea& operator*() const { return areas_.slots_[index_].area; }
    const WorkArea* operator->() const { return &**this; }

   private:
    WorkAreas& areas_;
    unsigned index_;
  };

 private:
  struct alignas(64) Slot {
    SpinMutex lock;
    WorkArea area;
  };
  [[nodiscard]] unsigned acquire() BUOY_NO_TSA;
  void release(unsigned index) BUOY_NO_TSA { slots_[index].lock.unlock(LockRank::kSwapFile); }

  Slot slots_[kMaxAreas];
  unsigned count_ = 0;
  std::byte* memory_ = nullptr;
  ByteSize bytes_ = 0;
};

}  // namespace buoy::swap
