#include "preload/trace_file.h"

#include <fcntl.h>

#include <cstring>

#include "base/descriptors.h"
#include "base/sys.h"
#include "preload/kernel_result.h"
#include "preload/runtime.h"
#include "vm/recorder.h"

namespace buoy::preload {
namespace {

constinit Recorder recorder;
constinit bool is_wanted = false;
constinit int kept = -1;  // the file

// Whose file it is: all processes of a run know its first.
std::uint64_t run_number() { return static_cast<std::uint64_t>(settings().first_pid); }

// Did a process of this run write it?
bool is_of_this_run(int fd) {
  trace::Header there{};
  const long n = sys::call(SYS_pread64, fd, sys::ptr(&there), sizeof there, 0);
  return n == static_cast<long>(sizeof there) &&
         std::memcmp(there.magic, trace::kMagic, sizeof there.magic) == 0 &&
         there.run == run_number();
}

// -errno: it cannot be had.
long open_file() {
  char name[4096];
  const Status s = path_of_this_process(settings().trace, settings().first_pid, name, sizeof name);
  if (!s) return kernel_result(s);
  const descriptors::RoomForOne room;
  const long fd = sys::call(SYS_openat, AT_FDCWD, sys::ptr(name),
                            O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0644);
  if (fd < 0) return fd;
  if (!is_of_this_run(static_cast<int>(fd))) {
    if (const long r = sys::call(SYS_ftruncate, fd, 0); r != 0) {
      sys::call(SYS_close, fd);
      return r;
    }
  }
  return descriptors::adopt(static_cast<int>(fd));
}

void complain(int error) {
  const char* name = strerrordesc_np(error);
  sys::Line()
      .text("no trace of this process, ")
      .text(settings().trace)
      .text(": ")
      .text(name != nullptr ? name : "unknown error")
      .complain();
}

void start_recording() {
  const long fd = open_file();
  kept = fd < 0 ? -1 : static_cast<int>(fd);
  trace::Header header =
      trace::make_header(trace::kFaultsOnly, static_cast<std::uint64_t>(sys::call(SYS_getpid)),
                         settings().pool.budget);
  header.run = run_number();
  const Status started = recorder.start(kept, header);
  if (fd < 0 || !started) complain(fd < 0 ? static_cast<int>(-fd) : started.code());
}

}  // namespace

void start_trace(Pool& pool) {
  if (settings().trace == nullptr) return;
  if (const Status s = recorder.create(); !s) return complain(s.code());
  pool.count_metadata(static_cast<std::ptrdiff_t>(Recorder::bytes()));
  is_wanted = true;
  start_recording();
  pool.vm().set_recorder(&recorder);
}

void trace_after_fork_in_child() {
  if (!is_wanted) return;
  if (kept >= 0) descriptors::release(kept);
  start_recording();
}

void flush_trace() {
  if (is_wanted && is_own_process()) recorder.flush();
}

}  // namespace buoy::preload
