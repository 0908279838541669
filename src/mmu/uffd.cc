#include "mmu/uffd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/resource.h>

#include <atomic>
#include <cerrno>

#include "base/descriptors.h"
#include "base/sys.h"
#include "mmu/uffd_abi.h"

namespace buoy::mmu {

namespace {
constinit std::atomic<int> the_source{-1};

long control(int fd, unsigned long request, const void* argument) {
  return sys::call(SYS_ioctl, fd, static_cast<long>(request), sys::ptr(argument));
}

// The kernel writes bytes done or -errno to `field`, and returns -EAGAIN for a partial success.
Uffd::Reach reach_of(long rc, std::int64_t field, std::size_t whole) {
  if (rc == 0) return {whole, 0};
  const auto error = static_cast<int>(-rc);
  return {field > 0 ? static_cast<std::uint64_t>(field) : 0, error};
}

long handshake(int fd, std::uint64_t* features) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = *features;
  const long rc = control(fd, UFFDIO_API, &api);
  *features = api.features;
  return rc;
}
}  // namespace

void Uffd::set_source(int fd) { the_source.store(fd, std::memory_order_relaxed); }
int Uffd::source() { return the_source.load(std::memory_order_relaxed); }

Result<int> Uffd::open_raw(Modes modes) {
  const descriptors::RoomForOne room;
  const int flags = O_CLOEXEC | (modes == Modes::kUserOnly ? abi::kUserModeOnly : 0);
  long fd = sys::call(SYS_userfaultfd, flags);
  // Before 5.11 the flag is unknown, and every descriptor serves user mode at least.
  if (fd == -EINVAL && modes == Modes::kUserOnly) fd = sys::call(SYS_userfaultfd, O_CLOEXEC);
  if (fd >= 0) return static_cast<int>(fd);
  if (source() >= 0 && descriptors::is_intact(source())) {
    const long from_source =
        sys::call(SYS_ioctl, source(), static_cast<long>(abi::kIoctlNew), flags);
    if (from_source >= 0) return static_cast<int>(from_source);
  }
  const long device =
      sys::call(SYS_openat, AT_FDCWD, sys::ptr("/dev/userfaultfd"), O_RDWR | O_CLOEXEC);
  if (device < 0) return Error{static_cast<int>(-fd)};
  const long from_device = sys::call(SYS_ioctl, device, static_cast<long>(abi::kIoctlNew), flags);
  sys::call(SYS_close, device);
  if (from_device < 0) return Error{static_cast<int>(-fd)};
  return static_cast<int>(from_device);
}

std::uint64_t Uffd::kernel_features() {
  auto fd = open_raw(Modes::kUserOnly);
  if (!fd) fd = open_raw(Modes::kUserAndKernel);
  if (!fd) return 0;
  std::uint64_t features = 0;
  const long rc = handshake(*fd, &features);
  sys::call(SYS_close, *fd);
  return rc == 0 ? features : 0;
}

Status Uffd::open(Modes modes, std::uint64_t features) {
  auto fd = open_raw(modes);
  if (!fd) return fd.error();
  std::uint64_t wanted = features;
  const long rc = handshake(*fd, &wanted);
  if (rc != 0) {
    sys::call(SYS_close, *fd);
    return Error{static_cast<int>(-rc)};
  }
  fd_ = descriptors::adopt(*fd);
  return {};
}

void Uffd::close() {
  if (fd_ >= 0) descriptors::release(fd_);
  fd_ = -1;
}

Status Uffd::enroll(std::uintptr_t start, std::size_t bytes, Trap trap) const {
  uffdio_register request{};
  request.range = {start, bytes};
  request.mode = UFFDIO_REGISTER_MODE_WP;
  if (trap == Trap::kMissingAndProtected) request.mode |= UFFDIO_REGISTER_MODE_MISSING;
  const long rc = control(fd_, UFFDIO_REGISTER, &request);
  if (rc != 0) return Error{static_cast<int>(-rc)};
  return {};
}

Uffd::Reach Uffd::copy(std::uintptr_t to, const void* from, std::size_t bytes,
                       Writable writable) const {
  uffdio_copy request{};
  request.dst = to;
  request.src = reinterpret_cast<std::uintptr_t>(from);
  request.len = bytes;
  request.mode = UFFDIO_COPY_MODE_DONTWAKE | (writable == Writable::kNo ? UFFDIO_COPY_MODE_WP : 0);
  const long rc = control(fd_, UFFDIO_COPY, &request);
  return reach_of(rc, request.copy, bytes);
}

Uffd::Reach Uffd::move(std::uintptr_t to, std::uintptr_t from, std::size_t bytes,
                       Holes holes) const {
  abi::Move request{};
  request.dst = to;
  request.src = from;
  request.len = bytes;
  request.mode = abi::kMoveDontWake | (holes == Holes::kAllowed ? abi::kMoveAllowHoles : 0);
  const long rc = control(fd_, abi::kIoctlMove, &request);
  return reach_of(rc, request.move, bytes);
}

int Uffd::write_protect(std::uintptr_t start, std::size_t bytes, std::uint64_t mode) const {
  uffdio_writeprotect request{};
  request.range = {start, bytes};
  request.mode = mode;
  long rc = -EAGAIN;
  while (rc == -EAGAIN) rc = control(fd_, UFFDIO_WRITEPROTECT, &request);
  return static_cast<int>(-rc);
}

int Uffd::protect(std::uintptr_t start, std::size_t bytes) const {
  return write_protect(start, bytes, UFFDIO_WRITEPROTECT_MODE_WP);
}

int Uffd::unprotect(std::uintptr_t start, std::size_t bytes) const {
  return write_protect(start, bytes, UFFDIO_WRITEPROTECT_MODE_DONTWAKE);
}

int Uffd::poison(std::uintptr_t start, std::size_t bytes) const {
  abi::Poison request{};
  request.range = {start, bytes};
  return static_cast<int>(-control(fd_, abi::kIoctlPoison, &request));
}

void Uffd::wake(std::uintptr_t start, std::size_t bytes) const {
  const uffdio_range range{start, bytes};
  control(fd_, UFFDIO_WAKE, &range);
}

}  // namespace buoy::mmu
