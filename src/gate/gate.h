// The system call gate: every system call of the program passes here, on its way to the kernel.
//
// In signal delivery a touch of a page that is not resident is resolved in the thread that touches
// it; but a system call on such memory fails, deep inside libc, too. So the code of libc, of the
// dynamic linker and of whatever else makes system calls is patched (sites.h, stubs.h), and each call
// that touches managed memory is made so that it does not matter (call.h).
//
//   libc                 stub                          here
//   mov $0,%eax          is %rsi managed? no: call     in_front(): special? plain? else made here
//   syscall      <-----  yes: entry ----------------->
//   cmp ...              EFAULT, or short?  ---------> behind(): bring in, make it again, go on
//
// The calls of this library itself do not pass: they are made by base/sys.h, from its own text.
#pragma once

#include "base/result.h"
#include "vm/vm.h"

namespace buoy::gate {

// What the layer above does with a call of Class::kSpecial (or one that only it knows to be special).
enum class Routed : std::uint8_t {
  kNotSpecial,  // by the table
  kInPlace,     // to be made where the program makes it, whatever its arguments
  kDone,        // made; the result is stored
};
using Router = Routed (*)(long number, const long* arguments, long* result);

// Patches what is loaded. Once, by one thread, before any managed memory exists. An error says why
// signal delivery cannot be used: ENOTSUP, no libc that can be patched; ENOMEM, no room within reach;
// EACCES and others, the system lets no code be changed; what was patched before that turned out makes
// its calls as natively. `others`: whether code of other objects may be left that makes system calls and
// can be neither patched nor caught (a Go program's, where there is no Syscall User Dispatch); where it
// may not, ENOEXEC.
enum class OutOfReach : std::uint8_t { kRefused, kAllowed };
[[nodiscard]] Status install(Vm& vm, Router router, OutOfReach others);
[[nodiscard]] bool is_installed();

// Code that comes later (dlopen) is patched when its loader has mapped all of it, which it says by
// closing the file: so the router tells of every file that is mapped, and of every close.
struct MappedFile {
  long offset = 0;
  bool is_fixed = false;
  bool is_executable = false;
};
void note_mapped(int fd, std::uintptr_t address, const MappedFile& how);
void note_closed(int fd);

// Executable memory was made by code at `by`: what will stand there is caught, if the dynamic linker is
// not who made it (see dispatch.h).
void note_code_made(std::uintptr_t by);

// From now on, the router sees what is opened for reading. (Else an open is made where it stands.)
void route_opens();

void after_fork_in_child();

}  // namespace buoy::gate
