#include "mmu/uffd_source.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <climits>
#include <cstdint>

#include "base/descriptors.h"
#include "base/digits.h"
#include "base/sys.h"
#include "mmu/uffd.h"

namespace buoy::mmu::uffd_source {
namespace {

constexpr char kSeparator = ':';

// The device's number, or 0 if the descriptor is none.
std::uint64_t device_number(int fd) {
  struct stat st {};
  if (sys::call(SYS_fstat, fd, sys::ptr(&st)) != 0 || !S_ISCHR(st.st_mode)) return 0;
  return st.st_rdev;
}

}  // namespace

Status open(char (&text)[kTextBytes]) {
  const descriptors::RoomForOne room;
  const long opened = sys::call(SYS_openat, AT_FDCWD, sys::ptr("/dev/userfaultfd"), O_RDWR);
  if (opened < 0) return Error{static_cast<int>(-opened)};
  const int fd = descriptors::adopt(static_cast<int>(opened), descriptors::OnExec::kKept);
  Uffd::set_source(fd);
  sys::Line line;
  line.number(static_cast<std::uint64_t>(fd)).text(":").number(device_number(fd));
  const auto word = line.view();
  static_assert(kTextBytes > 2 * 20 + 1);
  word.copy(text, kTextBytes - 1);
  text[word.size()] = '\0';
  return {};
}

bool accept(const char* text) {
  const std::uint64_t fd = parse_digits(&text);
  if (fd > INT_MAX || *text++ != kSeparator) return false;
  const std::uint64_t device = parse_digits(&text);
  if (*text != '\0' || device == 0 || device_number(static_cast<int>(fd)) != device) return false;
  descriptors::adopt_in_place(static_cast<int>(fd));
  Uffd::set_source(static_cast<int>(fd));
  return true;
}

}  // namespace buoy::mmu::uffd_source
