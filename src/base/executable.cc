#include "base/executable.h"

#include <elf.h>
#include <linux/prctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/sys.h"

namespace buoy {
namespace {

bool read_at(int fd, std::uint64_t offset, void* into, std::size_t bytes) {
  return sys::call(SYS_pread64, fd, sys::ptr(into), static_cast<long>(bytes),
                   static_cast<long>(offset)) == static_cast<long>(bytes);
}

// Is there a program header PT_INTERP? Only dynamically linked programs have one.
bool has_dynamic_linker(int fd, const Elf64_Ehdr& header) {
  for (unsigned i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (!read_at(fd, header.e_phoff + std::uint64_t{i} * header.e_phentsize, &segment,
                 sizeof segment))
      return false;
    if (segment.p_type == PT_INTERP) return true;
  }
  return false;
}

ExecutableForm form_of_elf(int fd) {
  Elf64_Ehdr header{};
  if (!read_at(fd, 0, &header, sizeof header)) return ExecutableForm::kTorn;
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
    return ExecutableForm::kOtherMachine;
  return has_dynamic_linker(fd, header) ? ExecutableForm::kDynamic : ExecutableForm::kStatic;
}

// The interpreter that a `#!` line names, up to the first blank behind it.
void copy_interpreter(const char* line, std::size_t length, char* into) {
  const auto is_blank = [](char c) { return c == ' ' || c == '\t'; };
  const char* const end = std::find_if(line, line + length, [](char c) { return c == '\n'; });
  const char* const begin = std::find_if_not(line, end, is_blank);
  const char* const stop =
      std::find_if(begin, end, [&](char c) { return is_blank(c) || c == '\r' || c == '\0'; });
  std::copy(begin, stop, into);
  into[stop - begin] = '\0';
}

}  // namespace

Executable look_at_executable(int fd) {
  Executable e;
  char head[Executable::kLine] = {};
  const long got = sys::call(SYS_pread64, fd, sys::ptr(head), sizeof head, 0);
  if (got >= SELFMAG && std::memcmp(head, ELFMAG, SELFMAG) == 0) {
    e.form = form_of_elf(fd);
  } else if (got >= 2 && head[0] == '#' && head[1] == '!') {
    e.form = ExecutableForm::kScript;
    copy_interpreter(head + 2, static_cast<std::size_t>(got) - 2, e.interpreter);
  }
  return e;
}

ExecutableRights rights_of_executable(int fd) {
  ExecutableRights rights;
  struct stat s {};
  if (sys::call(SYS_fstat, fd, sys::ptr(&s)) != 0) return rights;
  const bool sets_user = (s.st_mode & S_ISUID) != 0;
  const bool sets_group = (s.st_mode & S_ISGID) != 0;
  const bool has_capabilities =
      sys::call(SYS_fgetxattr, fd, sys::ptr("security.capability"), 0, 0) > 0;
  rights.has_any = sets_user || sets_group || has_capabilities;
  if (!rights.has_any || sys::call(SYS_prctl, PR_GET_NO_NEW_PRIVS) == 1) return rights;
  rights.is_raised_by_them =
      (sets_user && s.st_uid != static_cast<uid_t>(sys::call(SYS_geteuid))) ||
      (sets_group && s.st_gid != static_cast<gid_t>(sys::call(SYS_getegid))) ||
      (has_capabilities && sys::call(SYS_getuid) != 0);
  return rights;
}

}  // namespace buoy
