#include "reclaim/notifier.h"

#include <fcntl.h>
#include <sys/eventfd.h>

#include <algorithm>

#include "base/sys.h"

namespace buoy {

namespace {
constexpr unsigned kFieldBits = 20;
constexpr std::uint64_t kFieldMask = (std::uint64_t{1} << kFieldBits) - 1;
// So many notices at most go by before the fields are looked after; half of what one can hold.
constexpr std::uint32_t kTellsBetweenLooks = 1U << (kFieldBits - 1);

constexpr std::uint64_t one_of(Notice notice) {
  return std::uint64_t{1} << (static_cast<unsigned>(notice) * kFieldBits);
}

Result<int> make_descriptor() {
  const long fd = sys::call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return Error{static_cast<int>(-fd)};
  return static_cast<int>(fd);
}

void add(int fd, std::uint64_t value) {
  // It can only fail when nobody has read for ages; then they know enough.
  sys::call(SYS_write, fd, sys::ptr(&value), sizeof value);
}
}  // namespace

Notifier::~Notifier() {
  const int fd = fd_.load(std::memory_order_relaxed);
  if (fd >= 0) sys::call(SYS_close, fd);
}

Result<int> Notifier::descriptor() {
  int fd = fd_.load(std::memory_order_acquire);
  if (fd >= 0) return fd;
  auto made = make_descriptor();
  if (!made) return made;
  if (fd_.compare_exchange_strong(fd, *made, std::memory_order_acq_rel)) return made;
  sys::call(SYS_close, *made);
  return fd;
}

void Notifier::tell(Notice notice) {
  const int fd = fd_.load(std::memory_order_acquire);
  if (fd < 0) return;
  add(fd, one_of(notice));
  if (told_.fetch_add(1, std::memory_order_relaxed) % kTellsBetweenLooks == kTellsBetweenLooks - 1)
    keep_fields_apart(fd);
}

// A field that nobody reads must not run over into the next: it stops at half of what it can hold.
void Notifier::keep_fields_apart(int fd) {
  std::uint64_t value = 0;
  if (sys::call(SYS_read, fd, sys::ptr(&value), sizeof value) != sizeof value) return;
  std::uint64_t kept = 0;
  for (unsigned field = 0; field < 3; ++field) {
    const std::uint64_t n = (value >> (field * kFieldBits)) & kFieldMask;
    kept |= std::min<std::uint64_t>(n, kFieldMask / 2 - 1) << (field * kFieldBits);
  }
  add(fd, kept);
}

void Notifier::after_fork_in_child() {
  const int fd = fd_.load(std::memory_order_relaxed);
  if (fd < 0) return;
  auto fresh = make_descriptor();
  if (!fresh) return;
  sys::call(SYS_dup3, *fresh, fd, O_CLOEXEC);
  sys::call(SYS_close, *fresh);
  told_.store(0, std::memory_order_relaxed);
}

}  // namespace buoy
