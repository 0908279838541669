// syscall(2): programs that go past libc's wrappers (runtimes, jemalloc, sandboxes) reach the same
// calls as those that use them. Everything else is made as it is.
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdarg>

#include "gate/call.h"
#include "gate/signals.h"
#include "preload/address_space.h"
#include "preload/interpose.h"
#include "preload/route.h"

namespace {

// The kernel's result, from us or from the kernel.
long make(long number, const long* a) {
  namespace gate = buoy::gate;
  if (gate::is_installed() && gate::signals::has_mask(number))
    return gate::signals::call_with_mask(*gate::memory_if_set(), number, a);
  if (number == SYS_mmap)
    return buoy::preload::address_space::map(
        reinterpret_cast<void*>(a[0]), static_cast<std::size_t>(a[1]),  // NOLINT
        static_cast<int>(a[2]), static_cast<int>(a[3]), static_cast<int>(a[4]), a[5]);
  long result = 0;
  if (buoy::preload::route(number, a, &result) == gate::Routed::kDone) return result;
  return gate::call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // namespace

// libc declares it with "...": the arguments are in the same registers and stack slots.
BUOY_EXPORT long syscall(long number, ...) {
  long a[6];
  va_list rest;
  va_start(rest, number);
  for (long& each : a) each = va_arg(rest, long);
  va_end(rest);
  return buoy::preload::libc_result(make(number, a));
}
