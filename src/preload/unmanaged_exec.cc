#include "preload/unmanaged_exec.h"

#include <fcntl.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <cstring>

#include "base/descriptors.h"
#include "base/executable.h"
#include "base/sys.h"
#include "gate/call.h"
#include "gate/gate.h"
#include "preload/runtime.h"

namespace buoy::preload {
namespace {

// A file that is looked at and closed again. Paths are the program's: the kernel reads them.
class Opened {
 public:
  Opened(int folder, const char* path) {
    const descriptors::RoomForOne room;  // or whoever has all numbers in use would not be looked at
    constexpr int kFlags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    fd_ = gate::call(SYS_openat, folder, sys::ptr(path), O_RDONLY | kFlags);
    // Executable and not readable: its rights can be seen, what is in it only by the kernel.
    if (fd_ == -EACCES) fd_ = gate::call(SYS_openat, folder, sys::ptr(path), O_PATH | kFlags);
  }
  ~Opened() {
    if (fd_ >= 0) sys::call(SYS_close, fd_);
  }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] int fd() const { return static_cast<int>(fd_); }

 private:
  long fd_;
};

// Why our library would not be loaded, or null. `next`: the interpreter to look at in its place.
const char* obstacle(int fd, char (&next)[Executable::kLine]) {
  next[0] = '\0';
  if (rights_of_executable(fd).is_raised_by_them)
    return "gains rights when executed (setuid, setgid or file capabilities)";
  const Executable e = look_at_executable(fd);
  switch (e.form) {
    case ExecutableForm::kStatic:
      return "is statically linked";
    case ExecutableForm::kOtherMachine:
      return "is not an x86-64 program";
    case ExecutableForm::kScript:
      std::memcpy(next, e.interpreter, sizeof next);
      break;
    case ExecutableForm::kDynamic:
    case ExecutableForm::kTorn:
    case ExecutableForm::kOther:
      break;
  }
  return nullptr;
}

bool decide(const char* path, const char* why) {
  const bool is_allowed = settings().unmanaged_exec == UnmanagedExec::kAllow;
  sys::Line line;
  line.text(is_allowed ? "runs without a budget: " : "not executed: ")
      .text(path)
      .text(" ")
      .text(why)
      .text(", and so cannot load Buoy's library");
  if (!is_allowed) line.text("; `buoy run --unmanaged-exec allow` runs it without a budget");
  line.complain();
  return is_allowed;
}

// The file behind a descriptor, even one that cannot be read from.
void name_descriptor(int fd, char (&into)[Executable::kLine]) {
  sys::Line name;
  name.text("/proc/self/fd/").number(static_cast<std::uint64_t>(fd));
  const auto text = name.view();
  text.copy(into, sizeof into - 1);
  into[text.size()] = '\0';
}

}  // namespace

bool may_execute(int folder, const char* path, int execveat_flags) {
  constexpr int kMostScripts =
      5;  // the kernel follows four interpreters that are scripts themselves
  char current[Executable::kLine];
  char next[Executable::kLine];
  next[0] = '\0';
  {
    const Opened file(folder, path);
    if (file.is_open()) {
      if (const char* why = obstacle(file.fd(), next)) return decide(path, why);
    } else if ((execveat_flags & AT_EMPTY_PATH) != 0 && folder >= 0) {
      name_descriptor(folder, next);
    }
  }
  for (int i = 0; i < kMostScripts && next[0] != '\0'; ++i) {
    std::memcpy(current, next, sizeof current);
    const Opened file(AT_FDCWD, current);
    if (!file.is_open()) break;
    if (const char* why = obstacle(file.fd(), next)) return decide(current, why);
  }
  return true;
}

bool may_execute_unseen(const char* file) {
  if (gate::is_installed()) return true;
  if (std::strchr(file, '/') != nullptr) return may_execute(AT_FDCWD, file, 0);
  const char* folders = std::getenv("PATH");
  if (folders == nullptr) folders = "/bin:/usr/bin";
  for (const char* begin = folders;;) {
    const char* const end = begin + std::strcspn(begin, ":");
    char path[PATH_MAX];
    const auto length = static_cast<std::size_t>(end - begin);
    if (length + std::strlen(file) + 2 <= sizeof path) {
      std::memcpy(path, begin, length);
      path[length] = '\0';
      if (length != 0) std::strcat(path, "/");
      std::strcat(path, file);
      if (sys::call(SYS_access, sys::ptr(path), X_OK) == 0) return may_execute(AT_FDCWD, path, 0);
    }
    if (*end == '\0') return true;
    begin = end + 1;
  }
}

}  // namespace buoy::preload
