// dlsym of a handle: what a program looks up in libc's own handle (ctypes, JNA, foreign functions of
// any language) is ours where we have it, as it is for who is linked with libc. Otherwise memory of
// ours would reach libc's free, and a fork would go past us.
//
// For RTLD_DEFAULT and RTLD_NEXT dlsym looks at its caller: we jump to libc's with the caller's
// return address. What they find is ours already, or meant to be libc's.
#include <dlfcn.h>
#include <elf.h>

#include <cstdint>

#include "preload/interpose.h"

extern "C" {
// This library's image, by the linker.
extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));  // NOLINT
extern const char _end[] __attribute__((visibility("hidden")));              // NOLINT

__attribute__((visibility("hidden"), used)) void* (*buoy_libc_dlsym)(void*, const char*) = nullptr;
__attribute__((visibility("hidden"), used)) void buoy_find_libc_dlsym() {
  void* found = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
  if (found == nullptr) found = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");  // in libdl then
  buoy_libc_dlsym = reinterpret_cast<void* (*)(void*, const char*)>(found);
}
__attribute__((visibility("hidden"), used)) void* buoy_dlsym_of_handle(void*, const char*);
}

static_assert(RTLD_DEFAULT == nullptr, "the code below says so, too; RTLD_NEXT is -1");

asm(R"(
  .pushsection .text,"ax",@progbits
  .globl dlsym
  .type dlsym, @function
dlsym:
  .cfi_startproc
  movq buoy_libc_dlsym(%rip), %rax
  testq %rax, %rax
  jz 2f
1:
  leaq 1(%rdi), %rdx
  cmpq $1, %rdx
  ja buoy_dlsym_of_handle
  jmpq *%rax
2:
  pushq %rdi
  .cfi_adjust_cfa_offset 8
  pushq %rsi
  .cfi_adjust_cfa_offset 8
  pushq %rsi
  .cfi_adjust_cfa_offset 8
  call buoy_find_libc_dlsym
  popq %rsi
  .cfi_adjust_cfa_offset -8
  popq %rsi
  .cfi_adjust_cfa_offset -8
  popq %rdi
  .cfi_adjust_cfa_offset -8
  movq buoy_libc_dlsym(%rip), %rax
  jmp 1b
  .cfi_endproc
  .size dlsym, .-dlsym
  .popsection
)");

namespace {

bool is_in_this_library(const void* p) {
  return p >= static_cast<const void*>(&__ehdr_start) && p < static_cast<const void*>(_end);
}

const void* image_of(const void* p) {
  Dl_info info{};
  return dladdr(p, &info) != 0 ? info.dli_fbase : nullptr;
}

// Null before this library is known to the dynamic linker by its name.
void* own_handle() {
  static void* handle = nullptr;
  Dl_info info{};
  if (handle == nullptr && dladdr(&__ehdr_start, &info) != 0)
    handle = dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  return handle;
}

bool is_of_libc(const void* p) {
  static const void* libc = nullptr;
  if (libc == nullptr) libc = image_of(buoy_libc_dlsym(RTLD_NEXT, "gnu_get_libc_version"));
  return libc != nullptr && image_of(p) == libc;
}

}  // namespace

extern "C" void* buoy_dlsym_of_handle(void* handle, const char* name) {
  void* const found = buoy_libc_dlsym(handle, name);
  // In this order: a look-up that fails would leave its error for the caller's dlerror().
  if (found == nullptr || !is_of_libc(found)) return found;
  void* const own = own_handle();
  void* const ours = own != nullptr ? buoy_libc_dlsym(own, name) : nullptr;
  return is_in_this_library(ours) ? ours : found;
}
