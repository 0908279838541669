#include "preload/guarded_descriptors.h"

#include <cerrno>
#include <climits>

#include "base/descriptors.h"
#include "base/sys.h"

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

namespace buoy::preload::guarded_descriptors {

long close(int fd) { return descriptors::is_own(fd) ? -EBADF : sys::call(SYS_close, fd); }

long duplicate(int from, int to, int flags) {
  return descriptors::is_own(to) ? -EBADF : sys::call(SYS_dup3, from, to, flags);
}

long close_range(unsigned first, unsigned last, int flags) {
  const auto close = [flags](unsigned from, unsigned to) {
    return sys::call(SYS_close_range, from, to, flags);
  };
  if (first > last) return close(first, last);  // the kernel's refusal
  while (first <= last && first <= INT_MAX) {
    const int own = descriptors::next_own(static_cast<int>(first));
    if (own < 0 || static_cast<unsigned>(own) > last) break;
    if (static_cast<unsigned>(own) > first)
      if (const long r = close(first, static_cast<unsigned>(own) - 1); r != 0) return r;
    first = static_cast<unsigned>(own) + 1;
  }
  return first > last ? 0 : close(first, last);
}

}  // namespace buoy::preload::guarded_descriptors
