// Executable: what the kernel would load for a file, as far as that decides whether our library comes
// with it.
//
// Raw system calls and the caller's stack only: asked between vfork and exec, too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace buoy {

enum class ExecutableForm : std::uint8_t {
  kDynamic,       // x86-64, with a dynamic linker, which loads what is preloaded
  kStatic,        // no dynamic linker
  kOtherMachine,  // i386 and the like
  kTorn,          // begins like an ELF file, and is no whole one
  kScript,        // #!
  kOther,         // a text, or what only the kernel knows (binfmt_misc)
};

struct Executable {
  static constexpr std::size_t kLine = 256;  // BINPRM_BUF_SIZE: what the kernel reads of a script
  ExecutableForm form = ExecutableForm::kOther;
  char interpreter[kLine] = {};  // of a script; empty if it names none
};

// The open file's. It stays where it is.
[[nodiscard]] Executable look_at_executable(int fd);

// Does it bring rights with it: setuid, setgid, file capabilities? The dynamic linker then ignores what
// is preloaded, but for a caller who has those rights already.
struct ExecutableRights {
  bool has_any = false;
  bool is_raised_by_them = false;  // for this process as it is now
};
[[nodiscard]] ExecutableRights rights_of_executable(int fd);

}  // namespace buoy
