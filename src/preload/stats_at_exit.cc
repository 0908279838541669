#include "preload/stats_at_exit.h"

#include <fcntl.h>

#include <atomic>
#include <cstring>

#include "base/descriptors.h"
#include "base/sys.h"
#include "preload/kernel_result.h"
#include "preload/runtime.h"
#include "preload/trace_file.h"

namespace buoy::preload {
namespace {

constinit std::atomic<bool> written{false};
constinit int kept_stderr = 2;
// A number for the file, kept for the end: the program may have used up all others by then.
constinit int spare = -1;

[[nodiscard]] bool wants_stderr() {
  return settings().stats != nullptr && std::strcmp(settings().stats, "-") == 0;
}

// FILE, or FILE.PID for all but the process that `buoy run` started.
long open_stats_file() {
  char name[4096];
  const Status s = path_of_this_process(settings().stats, settings().first_pid, name, sizeof name);
  if (!s) return kernel_result(s);
  const descriptors::RoomForOne room;
  return sys::call(SYS_openat, AT_FDCWD, sys::ptr(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                   0644);
}

}  // namespace

void prepare_stats_at_exit() {
  if (settings().stats == nullptr) return;
  if (!wants_stderr()) {
    const long null = sys::call(SYS_openat, AT_FDCWD, sys::ptr("/dev/null"), O_RDONLY | O_CLOEXEC);
    if (null >= 0) spare = descriptors::adopt(static_cast<int>(null));
    return;
  }
  const descriptors::RoomForOne room;
  const long fd = sys::call(SYS_fcntl, 2, F_DUPFD_CLOEXEC, 0);
  if (fd >= 0) kept_stderr = descriptors::adopt(static_cast<int>(fd));
}

void write_stats_at_exit() {
  flush_trace();
  Pool* pool = pool_if_started();
  if (pool == nullptr || settings().stats == nullptr || !is_own_process()) return;
  if (written.exchange(true)) return;
  if (wants_stderr()) {
    pool->write_stats(kept_stderr);
    return;
  }
  if (spare >= 0) descriptors::release(spare);
  const long fd = open_stats_file();
  if (fd < 0) {
    const char* name = strerrordesc_np(static_cast<int>(-fd));
    sys::Line()
        .text("cannot write statistics to ")
        .text(settings().stats)
        .text(": ")
        .text(name != nullptr ? name : "unknown error")
        .complain();
    return;
  }
  pool->write_stats(static_cast<int>(fd));
  sys::call(SYS_close, fd);
}

void stats_at_exit_after_fork_in_child() { written.store(false); }

}  // namespace buoy::preload
