#include "swap/zram.h"

#include <utility>

namespace buoy::swap {

using zpool::PutOutcome;

namespace {
// Longer objects have a frame of the pool each, or nearly (zram's huge_class_size is the same).
constexpr std::uint32_t kGainsLittle = kPageSize * 3 / 4;
}  // namespace

PutOutcome Zram::store(const std::byte* page, zpool::Handle* handle) {
  std::uint64_t pattern = 0;
  if (PageCodec::is_same_filled(page, &pattern)) {
    if (foreign::fits(pattern)) {
      *handle = pool_.put_foreign(foreign::of_pattern(pattern));
      if (handle->is_none()) return PutOutcome::kNoHandle;
    } else {
      const PutOutcome outcome =
          pool_.put(reinterpret_cast<const std::byte*>(&pattern), kPatternBytes, handle);
      if (outcome != PutOutcome::kPut) return outcome;
    }
    same_filled_.fetch_add(1, std::memory_order_relaxed);
  } else {
    const WorkAreas::Lease area(areas_);
    const EncodedPage encoded = codec_.encode(*area, page);
    // What gains little here is worth less of our memory: it goes to the file first.
    const bool as_it_is = encoded.length == kPageSize;
    const PutOutcome outcome = pool_.put(encoded.data, encoded.length, handle,
                                         encoded.length > kGainsLittle ? 0 : kMarkYoung);
    if (outcome != PutOutcome::kPut) return outcome;
    if (as_it_is) incompressible_.fetch_add(1, std::memory_order_relaxed);
  }
  pages_.fetch_add(1, std::memory_order_relaxed);
  return PutOutcome::kPut;
}

bool Zram::load(const zpool::Zpool::Pinned& object, std::byte* out) {
  if (object.is_foreign()) {
    PageCodec::fill(out, foreign::value(object.payload()));
    return true;
  }
  const std::byte* data = object.in_place();
  if (data != nullptr && codec_.decodes_without_work())
    return codec_.decode(nullptr, data, object.length(), out);
  const WorkAreas::Lease area(areas_);
  if (data == nullptr) {
    object.copy_out(area->scratch);
    data = area->scratch;
  }
  return codec_.decode(area->state, data, object.length(), out);
}

void Zram::forget(const zpool::Zpool::Pinned& object) {
  pages_.fetch_sub(1, std::memory_order_relaxed);
  if (object.is_foreign() || object.length() == kPatternBytes)
    same_filled_.fetch_sub(1, std::memory_order_relaxed);
  else if (object.length() == kPageSize)
    incompressible_.fetch_sub(1, std::memory_order_relaxed);
}

PageCount Zram::free(zpool::Zpool::Pinned&& object) {
  forget(object);
  return pool_.free(std::move(object));
}

}  // namespace buoy::swap
