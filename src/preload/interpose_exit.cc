// The ways a process ends by itself. exit() runs destructors, ours among the last; the others do
// not, and libc's exit() does not come through the _exit here.
#include <cstdlib>

#include "base/sys.h"
#include "preload/interpose.h"
#include "preload/stats_at_exit.h"

namespace {

[[noreturn]] void end(int status) {
  buoy::preload::write_stats_at_exit();
  for (;;) buoy::sys::call(SYS_exit_group, status);
}

// Registered first, so it runs last of the quick_exit handlers.
__attribute__((constructor)) void watch_quick_exit() {
  at_quick_exit([] { buoy::preload::write_stats_at_exit(); });
}

__attribute__((destructor)) void at_normal_exit() { buoy::preload::write_stats_at_exit(); }

}  // namespace

BUOY_EXPORT void _exit(int status) { end(status); }  // NOLINT(bugprone-reserved-identifier)
BUOY_EXPORT void _Exit(int status) { end(status); }  // NOLINT(bugprone-reserved-identifier)
