// syscall(2): programs that go past libc's wrappers (runtimes, jemalloc, sandboxes) reach the same
// calls as those that use them. Everything else is made as it is.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdarg>

#include "base/signals.h"
#include "base/sys.h"
#include "base/units.h"
#include "preload/address_space.h"
#include "preload/exec_environment.h"
#include "preload/forked_clone.h"
#include "preload/guarded_descriptors.h"
#include "preload/interpose.h"
#include "preload/runtime.h"
#include "preload/self_pidfd.h"
#include "preload/stats_at_exit.h"

namespace guarded = buoy::preload::guarded_descriptors;
namespace space = buoy::preload::address_space;

namespace {

constexpr long kCloseRange = 436;  // newer than some headers

template <typename T = void>
T* pointer(long word) {
  return reinterpret_cast<T*>(word);  // NOLINT(performance-no-int-to-ptr)
}

std::size_t size(long word) { return static_cast<std::size_t>(word); }
int integer(long word) { return static_cast<int>(word); }

// May we read there? (Else it is the kernel that says EFAULT.) Kernels that do not know the question
// do not say no to it.
bool is_readable(long address, std::size_t bytes) {
  constexpr int kPopulateRead = 22;  // MADV_POPULATE_READ
  constexpr std::size_t kMost = 4096;
  if (bytes == 0 || bytes > kMost) return false;  // no clone3 takes so much: E2BIG
  const long first = address & ~static_cast<long>(buoy::kPageSize - 1);
  const long end = address + static_cast<long>(bytes);
  if (buoy::sys::call(SYS_madvise, first, end - first, kPopulateRead) == 0) return true;
  return buoy::sys::call(SYS_madvise, 0, 0, kPopulateRead) != 0;
}

// The kernel's result, from us or from the kernel.
long route(long number, const long* a) {
  switch (number) {
    case SYS_mmap:
      return space::map(pointer(a[0]), size(a[1]), integer(a[2]), integer(a[3]), integer(a[4]),
                        a[5]);
    case SYS_munmap:
      return space::unmap(pointer(a[0]), size(a[1]));
    case SYS_mremap:
      return space::remap(pointer(a[0]), size(a[1]), size(a[2]), integer(a[3]), pointer(a[4]));
    case SYS_mprotect:
      return space::protect(pointer(a[0]), size(a[1]), integer(a[2]), -1);
    case SYS_pkey_mprotect:
      return space::protect(pointer(a[0]), size(a[1]), integer(a[2]), integer(a[3]));
    case SYS_madvise:
      return space::advise(pointer(a[0]), size(a[1]), integer(a[2]));
    case SYS_process_madvise:
      if (a[4] == 0 && buoy::preload::is_self_pidfd(integer(a[0])))
        return space::advise_vector(pointer<iovec>(a[1]), size(a[2]), integer(a[3]));
      break;
    case SYS_mlock:
      return space::lock(pointer(a[0]), size(a[1]), 0);
    case SYS_mlock2:
      return space::lock(pointer(a[0]), size(a[1]), integer(a[2]));
    case SYS_munlock:
      return space::unlock(pointer(a[0]), size(a[1]));
    case SYS_mlockall:
      return space::lock_all(integer(a[0]));
    case SYS_munlockall:
      return space::unlock_all();
    case SYS_mincore:
      return space::residency(pointer(a[0]), size(a[1]), pointer<unsigned char>(a[2]));
    case SYS_msync:
      return space::sync(pointer(a[0]), size(a[1]), integer(a[2]));
    case SYS_close:
      return guarded::close(integer(a[0]));
    case SYS_dup2:
      if (a[0] == a[1]) break;
      return guarded::duplicate(integer(a[0]), integer(a[1]), 0);
    case SYS_dup3:
      return guarded::duplicate(integer(a[0]), integer(a[1]), integer(a[2]));
    case kCloseRange:
      return guarded::close_range(static_cast<unsigned>(a[0]), static_cast<unsigned>(a[1]),
                                  integer(a[2]));
    case SYS_execve: {
      const buoy::preload::ExecEnvironment mended(pointer<char* const>(a[2]));
      return buoy::sys::call(number, a[0], a[1], reinterpret_cast<long>(mended.get()));
    }
    case SYS_execveat: {
      const buoy::preload::ExecEnvironment mended(pointer<char* const>(a[3]));
      return buoy::sys::call(number, a[0], a[1], a[2], reinterpret_cast<long>(mended.get()), a[4]);
    }
    case SYS_fork:
    case SYS_clone:
    case SYS_clone3:
      if (buoy::preload::pool_if_started() != nullptr &&
          (number != SYS_clone3 || is_readable(a[0], size(a[1]))) &&
          buoy::preload::copies_address_space(number, a)) {
        const buoy::SignalBlock block;  // the child leaves it, too
        return buoy::preload::forked_clone({number, {a[0], a[1], a[2], a[3], a[4]}});
      }
      break;
    case SYS_exit_group:
      buoy::preload::write_stats_at_exit();
      break;
    default:
      break;
  }
  return buoy::sys::call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

}  // namespace

// libc declares it with "...": the arguments are in the same registers and stack slots.
BUOY_EXPORT long syscall(long number, ...) {
  long a[6];
  va_list rest;
  va_start(rest, number);
  for (long& each : a) each = va_arg(rest, long);
  va_end(rest);
  return buoy::preload::libc_result(route(number, a));
}
