// operator new and delete, over our malloc: a program that is linked with an allocator of its own
// (jemalloc, tcmalloc) would otherwise have memory of that one by new, and ours by malloc, and mixes
// them: free() of memory from new, malloc_usable_size() of it. A program that defines the operators
// itself keeps its own.
//
// When memory is short, it is the C++ runtime of the program that calls the new_handler and throws:
// this library has no exceptions, and a libstdc++ of its own would throw with another's state.
#include <dlfcn.h>

#include <cstddef>
#include <cstdlib>
#include <initializer_list>

#include "base/sys.h"
#include "preload/interpose.h"

namespace {

// The runtime's own operator `name`, which tries malloc again, and so on. Null: there is none.
void* of_runtime(const char* name) {
  for (const char* library : {"libstdc++.so.6", "libc++.so.1", "libc++abi.so.1"}) {
    void* handle = dlopen(library, RTLD_LAZY | RTLD_NOLOAD);
    if (handle == nullptr) continue;
    if (void* found = dlsym(handle, name); found != nullptr) return found;
  }
  return nullptr;
}

[[noreturn]] void no_memory() {
  buoy::sys::complain("operator new: no memory, and no C++ runtime that could say so");
  abort();
}

__attribute__((noinline)) void* fail(const char* name, size_t size) {
  auto* own = reinterpret_cast<void* (*)(size_t)>(of_runtime(name));
  if (own == nullptr) no_memory();
  return own(size);
}
__attribute__((noinline)) void* fail_aligned(const char* name, size_t size, size_t alignment) {
  auto* own = reinterpret_cast<void* (*)(size_t, size_t)>(of_runtime(name));
  if (own == nullptr) no_memory();
  return own(size, alignment);
}
__attribute__((noinline)) void* fail_quietly(const char* name, size_t size, const void* tag) {
  auto* own = reinterpret_cast<void* (*)(size_t, const void*)>(of_runtime(name));
  return own == nullptr ? nullptr : own(size, tag);
}
__attribute__((noinline)) void* fail_quietly_aligned(const char* name, size_t size,
                                                     size_t alignment, const void* tag) {
  auto* own = reinterpret_cast<void* (*)(size_t, size_t, const void*)>(of_runtime(name));
  return own == nullptr ? nullptr : own(size, alignment, tag);
}

}  // namespace

// The program's malloc and free, by name: those of an allocator inside it, if it has one.
#define BUOY_NEW(NAME)                           \
  BUOY_EXPORT void* NAME(size_t size) {          \
    void* const p = malloc(size);                \
    return p != nullptr ? p : fail(#NAME, size); \
  }
#define BUOY_NEW_NOTHROW(NAME)                                \
  BUOY_EXPORT void* NAME(size_t size, const void* tag) {      \
    void* const p = malloc(size);                             \
    return p != nullptr ? p : fail_quietly(#NAME, size, tag); \
  }
#define BUOY_NEW_ALIGNED(NAME)                                      \
  BUOY_EXPORT void* NAME(size_t size, size_t alignment) {           \
    void* const p = aligned_alloc(alignment, size);                 \
    return p != nullptr ? p : fail_aligned(#NAME, size, alignment); \
  }
#define BUOY_NEW_ALIGNED_NOTHROW(NAME)                                           \
  BUOY_EXPORT void* NAME(size_t size, size_t alignment, const void* tag) {       \
    void* const p = aligned_alloc(alignment, size);                              \
    return p != nullptr ? p : fail_quietly_aligned(#NAME, size, alignment, tag); \
  }
#define BUOY_DELETE(NAME, ...) \
  BUOY_EXPORT void NAME(void* p __VA_OPT__(, ) __VA_ARGS__) { free(p); }

// By their mangled names, so that no compiler thinks it knows what they do.
// NOLINTBEGIN(bugprone-reserved-identifier)
BUOY_NEW(_Znwm)
BUOY_NEW(_Znam)
BUOY_NEW_NOTHROW(_ZnwmRKSt9nothrow_t)
BUOY_NEW_NOTHROW(_ZnamRKSt9nothrow_t)
BUOY_NEW_ALIGNED(_ZnwmSt11align_val_t)
BUOY_NEW_ALIGNED(_ZnamSt11align_val_t)
BUOY_NEW_ALIGNED_NOTHROW(_ZnwmSt11align_val_tRKSt9nothrow_t)
BUOY_NEW_ALIGNED_NOTHROW(_ZnamSt11align_val_tRKSt9nothrow_t)
BUOY_DELETE(_ZdlPv)
BUOY_DELETE(_ZdaPv)
BUOY_DELETE(_ZdlPvm, size_t /*size*/)
BUOY_DELETE(_ZdaPvm, size_t /*size*/)
BUOY_DELETE(_ZdlPvRKSt9nothrow_t, const void* /*tag*/)
BUOY_DELETE(_ZdaPvRKSt9nothrow_t, const void* /*tag*/)
BUOY_DELETE(_ZdlPvSt11align_val_t, size_t /*alignment*/)
BUOY_DELETE(_ZdaPvSt11align_val_t, size_t /*alignment*/)
BUOY_DELETE(_ZdlPvmSt11align_val_t, size_t /*size*/, size_t /*alignment*/)
BUOY_DELETE(_ZdaPvmSt11align_val_t, size_t /*size*/, size_t /*alignment*/)
BUOY_DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, size_t /*alignment*/, const void* /*tag*/)
BUOY_DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, size_t /*alignment*/, const void* /*tag*/)
// NOLINTEND(bugprone-reserved-identifier)
