#include "cli/program.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

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

// A file that is read in pieces, closed at the end.
class File {
 public:
  explicit File(const std::string& path) : fd_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  // All of it, or false.
  [[nodiscard]] bool read_at(off_t offset, void* into, std::size_t bytes) const {
    return pread(fd_, into, bytes, offset) == static_cast<ssize_t>(bytes);
  }
  // Up to `bytes`, from the start.
  [[nodiscard]] std::string head(std::size_t bytes) const {
    std::string text(bytes, '\0');
    const ssize_t got = pread(fd_, text.data(), bytes, 0);
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
  }

 private:
  int fd_;
};

bool gains_rights(const std::string& path) {
  struct stat s {};
  if (stat(path.c_str(), &s) == 0 && (s.st_mode & (S_ISUID | S_ISGID)) != 0) return true;
  return getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
}

// Is there a program header PT_INTERP? Only dynamically linked programs have one.
bool has_dynamic_linker(const File& file, const Elf64_Ehdr& header) {
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    const auto offset = static_cast<off_t>(header.e_phoff + std::uint64_t{i} * header.e_phentsize);
    if (!file.read_at(offset, &segment, sizeof segment)) return false;
    if (segment.p_type == PT_INTERP) return true;
  }
  return false;
}

Outcome<bool> check_elf(const std::string& path, const File& file) {
  Elf64_Ehdr header{};
  if (!file.read_at(0, &header, sizeof header))
    return refuse(kCannotExecute, path, "is not a whole ELF file");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
    return refuse(kCannotExecute, path,
                  "is not an x86-64 program, and so cannot load Buoy's library");
  if (!has_dynamic_linker(file, header))
    return refuse(kCannotExecute, path,
                  "is statically linked, and so cannot load Buoy's library; link it dynamically");
  if (const std::string sanitizer = sanitizer_of(path); !sanitizer.empty())
    return refuse(kCannotExecute, path,
                  "is built with -fsanitize=" + sanitizer +
                      ", whose malloc cannot run within a budget; build it without");
  return true;
}

// The interpreter that a `#!` line names.
std::string interpreter_of(const std::string& head) {
  const std::size_t line_end = head.find('\n');
  const std::string line = head.substr(2, line_end == std::string::npos ? line_end : line_end - 2);
  const std::size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string::npos) return {};
  return line.substr(begin, line.find_first_of(" \t\r", begin) - begin);
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
  constexpr std::size_t kScriptLine = 256;  // BINPRM_BUF_SIZE
  std::string current = path;
  for (int depth = 0; depth <= kMaxScripts; ++depth) {
    if (gains_rights(current))
      return refuse(kCannotExecute, current,
                    "gains rights when executed (setuid, setgid or file capabilities); the dynamic "
                    "linker would not load Buoy's library into it");
    const File file(current);
    // Executable but not readable: the kernel can run it, and we cannot look into it.
    if (!file.is_open()) return true;
    const std::string head = file.head(kScriptLine);
    if (head.compare(0, SELFMAG, ELFMAG) == 0) return check_elf(current, file);
    // A text without `#!` goes to the shell, as execvp has it.
    const std::string next = head.compare(0, 2, "#!") == 0 ? interpreter_of(head) : "/bin/sh";
    Outcome<std::string> interpreter = check_executable(next);
    if (!interpreter)
      return refuse(kCannotExecute, current, "interpreter " + interpreter.failure().line);
    current = next;
  }
  return refuse(kCannotExecute, path, "too many levels of interpreters");
}

}  // namespace buoy::cli
