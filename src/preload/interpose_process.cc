// libc's ways to make a process that has a copy of our memory: fork, _Fork, clone, and the two
// that fork inside libc, daemon and forkpty. vfork, posix_spawn, system and popen share the memory
// until they exec, and need nothing.
#include <dlfcn.h>
#include <fcntl.h>
#include <pty.h>
#include <sched.h>
#include <unistd.h>
#include <utmp.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>

#include "base/signals.h"
#include "base/sys.h"
#include "gate/gate.h"
#include "preload/fork_catcher.h"
#include "preload/forked_clone.h"
#include "preload/interpose.h"
#include "preload/runtime.h"

// libc's own names for what this file defines.
extern "C" pid_t __fork();                                                         // NOLINT
extern "C" int __clone(int (*fn)(void*), void* stack, int flags, void* arg, ...);  // NOLINT

namespace {

using buoy::preload::ForkCatcher;

// Runs a fork of libc's with the clone in it caught.
template <typename LibcFork>
pid_t caught(LibcFork libc_fork) {
  // Where there is a gate, the clone passes there.
  if (buoy::preload::pool_if_started() == nullptr || buoy::gate::is_installed()) return libc_fork();
  int error = 0;
  pid_t pid = -1;
  {
    const ForkCatcher catcher;
    if (catcher.is_armed()) {
      pid = libc_fork();
      error = errno;
    } else {
      buoy::sys::complain(
          "fork refused: it needs Syscall User Dispatch (Linux 5.11, and prctl allowed)");
      error = ENOSYS;
    }
  }
  errno = error;
  return pid;
}

pid_t (*libc_raw_fork)() = nullptr;

__attribute__((constructor)) void find_libc_functions() {
  libc_raw_fork = reinterpret_cast<pid_t (*)()>(dlsym(RTLD_NEXT, "_Fork"));
}

}  // namespace

BUOY_EXPORT pid_t fork() { return caught(__fork); }

BUOY_EXPORT pid_t _Fork() {  // NOLINT(bugprone-reserved-identifier)
  if (libc_raw_fork == nullptr) find_libc_functions();
  if (libc_raw_fork == nullptr) {
    errno = ENOSYS;
    return -1;
  }
  return caught(libc_raw_fork);
}

BUOY_EXPORT int clone(int (*fn)(void*), void* stack, int flags, void* arg, ...) {
  va_list rest;
  va_start(rest, arg);
  auto* parent_word = va_arg(rest, int*);
  auto* tls = va_arg(rest, void*);
  auto* child_word = va_arg(rest, int*);
  va_end(rest);
  if ((flags & CLONE_VM) != 0 || fn == nullptr || stack == nullptr ||
      buoy::preload::pool_if_started() == nullptr)
    return __clone(fn, stack, flags, arg, parent_word, tls, child_word);
  return static_cast<int>(buoy::preload::libc_result(buoy::preload::forked_clone_with_stack(
      {fn, arg, stack, flags, parent_word, tls, child_word})));
}

BUOY_EXPORT int daemon(int keep_directory, int keep_files) {
  const pid_t pid = fork();
  if (pid == -1) return -1;
  if (pid != 0) _exit(0);
  if (setsid() == -1) return -1;
  if (keep_directory == 0) (void)!chdir("/");
  if (keep_files != 0) return 0;
  const int null = open("/dev/null", O_RDWR);
  if (null == -1) return -1;
  dup2(null, STDIN_FILENO);
  dup2(null, STDOUT_FILENO);
  dup2(null, STDERR_FILENO);
  if (null > STDERR_FILENO) close(null);
  return 0;
}

BUOY_EXPORT pid_t forkpty(int* master, char* name, const termios* settings, const winsize* size) {
  int slave = -1;
  if (openpty(master, &slave, name, settings, size) == -1) return -1;
  const pid_t pid = fork();
  if (pid == -1) {
    const int error = errno;
    close(*master);
    close(slave);
    errno = error;
    return -1;
  }
  if (pid == 0) {
    close(*master);
    if (login_tty(slave) != 0) _exit(1);
    return 0;
  }
  close(slave);
  return pid;
}
