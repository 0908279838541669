// Calls that close descriptors or put others in their place: a program that does so to all of them,
// or under a number that it has not from us, does not mean the engine's.
//
// To the program our numbers are like those beyond its limit of open files: closed already, and not
// to be had.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "base/descriptors.h"
#include "base/sys.h"
#include "preload/guarded_descriptors.h"
#include "preload/interpose.h"

namespace guarded = buoy::preload::guarded_descriptors;
using buoy::preload::libc_result;

// libc's own names: close() is a cancellation point, so it is libc's that is called.
extern "C" int __close(int fd);           // NOLINT(bugprone-reserved-identifier)
extern "C" int __dup2(int from, int to);  // NOLINT(bugprone-reserved-identifier)

BUOY_EXPORT int close(int fd) {
  if (!buoy::descriptors::is_own(fd)) return __close(fd);
  errno = EBADF;
  return -1;
}

BUOY_EXPORT int dup2(int from, int to) {
  if (!buoy::descriptors::is_own(to)) return __dup2(from, to);
  errno = EBADF;
  return -1;
}

BUOY_EXPORT int dup3(int from, int to, int flags) {
  return static_cast<int>(libc_result(guarded::duplicate(from, to, flags)));
}

BUOY_EXPORT int close_range(unsigned first, unsigned last, int flags) {
  return static_cast<int>(libc_result(guarded::close_range(first, last, flags)));
}

BUOY_EXPORT void closefrom(int first) {
  const auto from = static_cast<unsigned>(first < 0 ? 0 : first);
  if (guarded::close_range(from, UINT_MAX, 0) == 0) return;
  // Before 5.9, or filtered: one by one, as far as descriptors can go.
  const long end = sysconf(_SC_OPEN_MAX);
  for (long fd = first < 0 ? 0 : first; fd < end; ++fd)
    if (!buoy::descriptors::is_own(static_cast<int>(fd))) buoy::sys::call(SYS_close, fd);
}
