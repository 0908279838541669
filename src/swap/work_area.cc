#include "swap/work_area.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/sys.h"

namespace buoy::swap {

Status WorkAreas::create(const Compressor& compressor, unsigned count, PageCount scratch) {
  const std::size_t state = (compressor.work_bytes() + kPageSize - 1) & ~(kPageSize - 1);
  const std::size_t stride = state + kPageSize + scratch.bytes();
  count = std::min(kMaxAreas, count);
  auto memory = sys::reserve(stride * count, kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  memory_ = *memory;
  bytes_ = stride * count;
  count_ = count;
  for (unsigned i = 0; i < count; ++i) {
    std::byte* at = memory_ + i * stride;
    slots_[i].area = {at, at + state, at + state + kPageSize};
    if (state != 0 && !compressor.prepare(at)) return Error{EINVAL};
  }
  return {};
}

WorkAreas::~WorkAreas() {
  if (memory_ != nullptr) sys::unmap(memory_, bytes_);
}

unsigned WorkAreas::acquire() {
  const unsigned mine = sys::current_cpu() % count_;
  for (unsigned i = 0; i < count_; ++i) {
    const unsigned index = (mine + i) % count_;
    if (slots_[index].lock.try_lock(LockRank::kSwapFile)) return index;
  }
  slots_[mine].lock.lock(LockRank::kSwapFile);
  return mine;
}

}  // namespace buoy::swap
