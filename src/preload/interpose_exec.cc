// Ways to execute a program: it comes into a budget of its own, whatever environment it is given.
#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/gate.h"
#include "preload/exec_environment.h"
#include "preload/interpose.h"
#include "preload/unmanaged_exec.h"

namespace {

using buoy::preload::ExecEnvironment;
using buoy::preload::libc_result;
using buoy::preload::may_execute;
using buoy::preload::may_execute_unseen;

// libc's functions. Found before anybody can be in a vfork child, where dlsym is not to be called.
struct Libc {
  int (*execvpe)(const char*, char* const*, char* const*) = nullptr;
  int (*fexecve)(int, char* const*, char* const*) = nullptr;
  int (*spawn)(pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*,
               char* const*, char* const*) = nullptr;
  int (*spawnp)(pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*,
                char* const*, char* const*) = nullptr;
  int (*system)(const char*) = nullptr;
  FILE* (*popen)(const char*, const char*) = nullptr;
};
constinit Libc libc;

template <typename F>
void find(F& function, const char* name) {
  function = reinterpret_cast<F>(dlsym(RTLD_NEXT, name));
}

__attribute__((constructor)) void find_libc_functions() {
  find(libc.execvpe, "execvpe");
  find(libc.fexecve, "fexecve");
  find(libc.spawn, "posix_spawn");
  find(libc.spawnp, "posix_spawnp");
  find(libc.system, "system");
  find(libc.popen, "popen");
}

const Libc& libc_functions() {
  if (libc.popen == nullptr) find_libc_functions();
  return libc;
}

// As where the kernel may not read a program.
int refuse() {
  errno = EACCES;
  return -1;
}

int execute(const char* path, char* const* arguments, char* const* program) {
  if (!ExecEnvironment::is_library_in_reach() || !may_execute(AT_FDCWD, path, 0)) return refuse();
  const ExecEnvironment environment(program);
  return static_cast<int>(libc_result(buoy::gate::call(
      SYS_execve, buoy::sys::ptr(path),
      buoy::sys::ptr(arguments),             // NOLINT(bugprone-multi-level-implicit)
      buoy::sys::ptr(environment.get()))));  // NOLINT(bugprone-multi-level-implicit)
}

int execute_found(const char* file, char* const* arguments, char* const* program) {
  if (!ExecEnvironment::is_library_in_reach() || !may_execute_unseen(file)) return refuse();
  const ExecEnvironment environment(program);
  return libc_functions().execvpe(file, arguments, environment.get());
}

// libc's system and popen hand the process's environment to their shell. While one lives, that is
// the mended one; only where something was missing.
class MendedEnviron {
 public:
  MendedEnviron() : mended_(environ), before_(environ) {
    if (mended_.is_mended()) environ = const_cast<char**>(mended_.get());
  }
  ~MendedEnviron() {
    if (mended_.is_mended()) environ = before_;
  }
  MendedEnviron(const MendedEnviron&) = delete;
  MendedEnviron& operator=(const MendedEnviron&) = delete;

 private:
  ExecEnvironment mended_;
  char** before_;
};

// The arguments of execl and its kin, counted; the list ends with a null.
std::size_t count_arguments(va_list list) {
  std::size_t n = 1;
  while (va_arg(list, const char*) != nullptr) ++n;
  return n;
}

void copy_arguments(va_list list, const char* first, std::size_t n, char** into) {
  into[0] = const_cast<char*>(first);
  for (std::size_t i = 1; i <= n; ++i) into[i] = va_arg(list, char*);
}

}  // namespace

// The argument list of a variadic exec as an array on the caller's stack.
#define BUOY_COLLECT(arguments, first)                                                   \
  va_list counting;                                                                      \
  va_start(counting, first);                                                             \
  const std::size_t count = count_arguments(counting);                                   \
  va_end(counting);                                                                      \
  auto** arguments = static_cast<char**>(__builtin_alloca((count + 1) * sizeof(char*))); \
  va_list list;                                                                          \
  va_start(list, first);                                                                 \
  copy_arguments(list, first, count, arguments)

BUOY_EXPORT int execve(const char* path, char* const arguments[], char* const environment[]) {
  return execute(path, arguments, environment);
}

BUOY_EXPORT int execv(const char* path, char* const arguments[]) {
  return execute(path, arguments, environ);
}

BUOY_EXPORT int execvpe(const char* file, char* const arguments[], char* const environment[]) {
  return execute_found(file, arguments, environment);
}

BUOY_EXPORT int execvp(const char* file, char* const arguments[]) {
  return execute_found(file, arguments, environ);
}

BUOY_EXPORT int execl(const char* path, const char* first, ...) {
  BUOY_COLLECT(arguments, first);
  va_end(list);
  return execute(path, arguments, environ);
}

BUOY_EXPORT int execlp(const char* file, const char* first, ...) {
  BUOY_COLLECT(arguments, first);
  va_end(list);
  return execute_found(file, arguments, environ);
}

BUOY_EXPORT int execle(const char* path, const char* first, ...) {
  BUOY_COLLECT(arguments, first);
  char* const* const environment = va_arg(list, char* const*);
  va_end(list);
  return execute(path, arguments, environment);
}

BUOY_EXPORT int fexecve(int fd, char* const arguments[], char* const environment[]) {
  if (!ExecEnvironment::is_library_in_reach()) return refuse();
  if (!buoy::gate::is_installed() && !may_execute(fd, "", AT_EMPTY_PATH)) return refuse();
  const ExecEnvironment mended(environment);
  return libc_functions().fexecve(fd, arguments, mended.get());
}

BUOY_EXPORT int execveat(int folder, const char* path, char* const arguments[],
                         char* const environment[], int flags) {
  if (!ExecEnvironment::is_library_in_reach() || !may_execute(folder, path, flags)) return refuse();
  const ExecEnvironment mended(environment);
  return static_cast<int>(libc_result(buoy::gate::call(
      SYS_execveat, folder, buoy::sys::ptr(path), reinterpret_cast<long>(arguments),
      reinterpret_cast<long>(mended.get()), flags)));
}

BUOY_EXPORT int posix_spawn(pid_t* pid, const char* path, const posix_spawn_file_actions_t* actions,
                            const posix_spawnattr_t* attributes, char* const arguments[],
                            char* const environment[]) {
  const bool is_unseen = !buoy::gate::is_installed();
  if (!ExecEnvironment::is_library_in_reach()) return EACCES;
  if (is_unseen && !may_execute(AT_FDCWD, path, 0)) return EACCES;
  const ExecEnvironment mended(environment);
  return libc_functions().spawn(pid, path, actions, attributes, arguments, mended.get());
}

BUOY_EXPORT int posix_spawnp(pid_t* pid, const char* file,
                             const posix_spawn_file_actions_t* actions,
                             const posix_spawnattr_t* attributes, char* const arguments[],
                             char* const environment[]) {
  if (!ExecEnvironment::is_library_in_reach() || !may_execute_unseen(file)) return EACCES;
  const ExecEnvironment mended(environment);
  return libc_functions().spawnp(pid, file, actions, attributes, arguments, mended.get());
}

BUOY_EXPORT int system(const char* command) {
  const MendedEnviron mended;
  return libc_functions().system(command);
}

BUOY_EXPORT FILE* popen(const char* command, const char* mode) {
  const MendedEnviron mended;
  return libc_functions().popen(command, mode);
}
