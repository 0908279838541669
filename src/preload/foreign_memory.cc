#include "preload/foreign_memory.h"

#include <dlfcn.h>

#include "base/sys.h"

namespace buoy::preload::foreign {
namespace {

// By libc's own handle, because the next free() behind ours may be that of an allocator that the
// program is linked with; with a version, because dlsym is ours (interpose_dlsym.cc).
template <typename Function>
Function* of_libc(std::atomic<Function*>& known, const char* name) {
  if (Function* f = known.load(std::memory_order_acquire); f != nullptr) return f;
  void* libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
  auto* found =
      libc != nullptr ? reinterpret_cast<Function*>(dlvsym(libc, name, "GLIBC_2.2.5")) : nullptr;
  if (found == nullptr) {
    sys::complain("a pointer that is not of this malloc, and no libc to give it to");
    for (;;) sys::call(SYS_exit_group, 2);
  }
  known.store(found, std::memory_order_release);
  return found;
}

constinit std::atomic<void (*)(void*)> libc_free{nullptr};
constinit std::atomic<std::size_t (*)(void*)> libc_usable_size{nullptr};

}  // namespace

constinit std::atomic<bool> can_tell{true};

void free(void* p) { of_libc(libc_free, "free")(p); }

std::size_t usable_size(void* p) { return of_libc(libc_usable_size, "malloc_usable_size")(p); }

}  // namespace buoy::preload::foreign
