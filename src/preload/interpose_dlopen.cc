// dlopen without RTLD_DEEPBIND, and dlmopen.
//
// RTLD_DEEPBIND binds a library to what it depends on before what is preloaded: it would malloc, map
// and fork through libc, past us, while libc itself and everybody else malloc here. So the flag is
// taken off. What it was asked for besides, that a symbol of the library's dependencies wins over
// one of the program's of the same name, is lost with it.
//
// dlopen looks at its caller's search path: we jump to libc's with the caller's return address.
#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include "base/sys.h"
#include "preload/interpose.h"
#include "preload/other_libc.h"

static_assert(RTLD_DEEPBIND == 8, "the code below says so, too");

extern "C" {
__attribute__((visibility("hidden"), used)) void* (*buoy_libc_dlopen)(const char*, int) = nullptr;
__attribute__((visibility("hidden"), used)) void buoy_find_libc_dlopen() {
  buoy_libc_dlopen = reinterpret_cast<void* (*)(const char*, int)>(dlsym(RTLD_NEXT, "dlopen"));
}
}

asm(R"(
  .pushsection .text,"ax",@progbits
  .globl dlopen
  .type dlopen, @function
dlopen:
  .cfi_startproc
  andl $~8, %esi
  movq buoy_libc_dlopen(%rip), %rax
  testq %rax, %rax
  jz 1f
  jmpq *%rax
1:
  pushq %rdi
  .cfi_adjust_cfa_offset 8
  pushq %rsi
  .cfi_adjust_cfa_offset 8
  pushq %rsi
  .cfi_adjust_cfa_offset 8
  call buoy_find_libc_dlopen
  popq %rsi
  .cfi_adjust_cfa_offset -8
  popq %rsi
  .cfi_adjust_cfa_offset -8
  popq %rdi
  .cfi_adjust_cfa_offset -8
  jmpq *buoy_libc_dlopen(%rip)
  .cfi_endproc
  .size dlopen, .-dlopen
  .popsection
)");

namespace {

using Dlmopen = void* (*)(Lmid_t, const char*, int);

Dlmopen libc_dlmopen() { return reinterpret_cast<Dlmopen>(dlsym(RTLD_NEXT, "dlmopen")); }

// If what was opened brought a libc of its own: its forks become ours.
void take_its_forks(void* handle) {
  void* const entry = dlsym(handle, "_Fork");
  if (entry == nullptr) {
    (void)dlerror();
    return;
  }
  if (entry == dlsym(RTLD_NEXT, "_Fork")) return;
  Dl_info info{};
  ElfW(Sym)* symbol = nullptr;
  if (dladdr1(entry, &info, reinterpret_cast<void**>(&symbol), RTLD_DL_SYMENT) == 0 ||
      symbol == nullptr)
    return;
  if (buoy::preload::redirect(entry, symbol->st_size, _Fork) != 0)
    buoy::sys::complain(
        "a second libc whose fork could not be caught: its children end at their first touch");
}

}  // namespace

BUOY_EXPORT void* dlmopen(Lmid_t namespace_id, const char* file, int mode) {
  const Dlmopen open_in = libc_dlmopen();
  if (open_in == nullptr) return nullptr;
  const bool is_ours = namespace_id == LM_ID_BASE;
  void* handle = open_in(namespace_id, file, is_ours ? mode & ~RTLD_DEEPBIND : mode);
  if (handle != nullptr && !is_ours) take_its_forks(handle);
  return handle;
}
