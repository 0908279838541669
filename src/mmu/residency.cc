#include "mmu/residency.h"

#include <fcntl.h>

#include "base/check.h"
#include "base/descriptors.h"
#include "base/sys.h"

namespace buoy::mmu {

namespace {
// Documentation/admin-guide/mm/pagemap.rst. The swap type stands in bits 0 to 4; the kernel gives
// markers the last one.
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kSwapTypeMask = 31;
constexpr std::uint64_t kMarkerType = 31;
}  // namespace

Status Residency::open(Markers markers) {
  close();
  markers_ = markers;
  const descriptors::RoomForOne room;
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, sys::ptr("/proc/self/pagemap"), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Error{static_cast<int>(-fd)};
  fd_ = descriptors::adopt(static_cast<int>(fd));
  return {};
}

void Residency::close() {
  if (fd_ >= 0) descriptors::release(fd_);
  fd_ = -1;
}

bool Residency::query(Vpn first, PageCount count, Bits& bits) const {
  BUOY_DCHECK(count.value() <= kMaxPages);
  bits.reset();
  std::uint64_t entries[kMaxPages] = {};
  const auto bytes = static_cast<long>(count.value() * sizeof(std::uint64_t));
  const auto offset = static_cast<long>(first.value() * sizeof(std::uint64_t));
  if (fd_ < 0 || sys::call(SYS_pread64, fd_, sys::ptr(entries), bytes, offset) != bytes)
    return false;
  for (std::uint64_t i = 0; i < count.value(); ++i) {
    const std::uint64_t e = entries[i];
    const bool is_marker = markers_ == Markers::kPossible && (e & kSwapTypeMask) == kMarkerType;
    if ((e & kPresent) != 0 || ((e & kSwapped) != 0 && !is_marker)) bits[i] = true;
  }
  return true;
}

}  // namespace buoy::mmu
