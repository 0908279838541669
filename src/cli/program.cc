#include "cli/program.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/executable.h"
#include "cli/sanitizers.h"

namespace buoy::cli {
namespace {

Failure refuse(int status, const std::string& path, const std::string& why) {
  return {status, path + ": " + why};
}

bool is_directory(const std::string& path) {
  struct stat s {};
  return stat(path.c_str(), &s) == 0 && S_ISDIR(s.st_mode);
}

// Why this very file cannot be executed, or nothing.
Outcome<std::string> check_executable(const std::string& path) {
  struct stat s {};
  if (stat(path.c_str(), &s) != 0) {
    const bool missing = errno == ENOENT || errno == ENOTDIR;
    return refuse(missing ? kNotFound : kCannotExecute, path,
                  missing ? "not found" : std::strerror(errno));
  }
  if (S_ISDIR(s.st_mode)) return refuse(kCannotExecute, path, "is a directory");
  if (access(path.c_str(), X_OK) != 0) return refuse(kCannotExecute, path, std::strerror(errno));
  return path;
}

// An open file, closed at the end.
class File {
 public:
  File(const std::string& path, int flags) : fd_(open(path.c_str(), flags | O_CLOEXEC)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  int fd_;
};

bool gains_rights(const std::string& path) {
  const File readable(path, O_RDONLY);
  if (readable.is_open()) return rights_of_executable(readable.fd()).has_any;
  const File seen(path, O_PATH);
  return seen.is_open() && rights_of_executable(seen.fd()).has_any;
}

Outcome<bool> check_no_sanitizer(const std::string& path) {
  if (const std::string sanitizer = sanitizer_of(path); !sanitizer.empty())
    return refuse(kCannotExecute, path,
                  "is built with -fsanitize=" + sanitizer +
                      ", whose malloc cannot run within a budget; build it without");
  return true;
}

}  // namespace

Outcome<std::string> resolve_program(const std::string& name) {
  if (name.empty()) return Failure{kNotFound, "'': not found"};
  if (name.find('/') != std::string::npos) return check_executable(name);
  const char* variable = std::getenv("PATH");
  const std::string path = variable != nullptr ? variable : "/bin:/usr/bin";
  Failure nearest{kNotFound, name + ": not found"};
  for (std::size_t begin = 0;;) {
    const std::size_t end = path.find(':', begin);
    const std::string folder = path.substr(begin, end == std::string::npos ? end : end - begin);
    const std::string candidate = (folder.empty() ? std::string(".") : folder) + "/" + name;
    if (!is_directory(candidate)) {
      Outcome<std::string> found = check_executable(candidate);
      if (found) return found;
      if (found.failure().status == kCannotExecute && nearest.status == kNotFound)
        nearest = found.failure();
    }
    if (end == std::string::npos) break;
    begin = end + 1;
  }
  return nearest;
}

Outcome<bool> check_preloadable(const std::string& path) {
  // The kernel follows four interpreters that are scripts themselves, and gives up at the fifth.
  constexpr int kMaxScripts = 5;
  std::string current = path;
  for (int depth = 0; depth <= kMaxScripts; ++depth) {
    if (gains_rights(current))
      return refuse(kCannotExecute, current,
                    "gains rights when executed (setuid, setgid or file capabilities); the dynamic "
                    "linker would not load Buoy's library into it");
    const File file(current, O_RDONLY);
    // Executable but not readable: the kernel can run it, and we cannot look into it.
    if (!file.is_open()) return true;
    const Executable executable = look_at_executable(file.fd());
    std::string next = "/bin/sh";  // where a text without `#!` goes, as execvp has it
    switch (executable.form) {
      case ExecutableForm::kDynamic:
        return check_no_sanitizer(current);
      case ExecutableForm::kTorn:
        return refuse(kCannotExecute, current, "is not a whole ELF file");
      case ExecutableForm::kOtherMachine:
        return refuse(kCannotExecute, current,
                      "is not an x86-64 program, and so cannot load Buoy's library");
      case ExecutableForm::kStatic:
        return refuse(
            kCannotExecute, current,
            "is statically linked, and so cannot load Buoy's library; link it dynamically");
      case ExecutableForm::kScript:
        next = executable.interpreter;
        break;
      case ExecutableForm::kOther:
        break;
    }
    Outcome<std::string> interpreter = check_executable(next);
    if (!interpreter)
      return refuse(kCannotExecute, current, "interpreter " + interpreter.failure().line);
    current = next;
  }
  return refuse(kCannotExecute, path, "too many levels of interpreters");
}

}  // namespace buoy::cli
