#include "preload/route.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "base/sys.h"
#include "base/units.h"
#include "gate/call.h"
#include "gate/descriptor_kinds.h"
#include "gate/parts.h"
#include "preload/address_space.h"
#include "preload/exec_environment.h"
#include "preload/forked_clone.h"
#include "preload/guarded_descriptors.h"
#include "preload/memory_locks.h"
#include "preload/runtime.h"
#include "preload/self_pidfd.h"
#include "preload/shown_budget.h"
#include "preload/stats_at_exit.h"
#include "preload/unmanaged_exec.h"

namespace guarded = buoy::preload::guarded_descriptors;
namespace space = buoy::preload::address_space;

namespace buoy::preload {
namespace {

using gate::Routed;

constexpr long kCloseRange = 436;  // newer than some headers
constexpr long kIoUringSetup = 425;

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
  if (gate::is_installed()) {
    char copy[kMost];
    return gate::read_program(*gate::memory_if_set(), copy,
                              {static_cast<std::uintptr_t>(address), bytes});
  }
  const long first = address & ~static_cast<long>(kPageSize - 1);
  const long end = address + static_cast<long>(bytes);
  if (sys::call(SYS_madvise, first, end - first, kPopulateRead) == 0) return true;
  return sys::call(SYS_madvise, 0, 0, kPopulateRead) != 0;
}

Routed done(long* result, long value) {
  *result = value;
  return Routed::kDone;
}

// Made by libc's own code (thread stacks, the heap of a malloc that is not used) or by the program
// past libc: what may lie anywhere is not managed, as it would not be without the gate.
Routed map(const long* a, long* result) {
  const int flags = integer(a[3]);
  const bool is_fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (is_fixed)
    *result = space::map(pointer(a[0]), size(a[1]), integer(a[2]), flags, integer(a[4]), a[5]);
  else
    *result = sys::call(SYS_mmap, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (*result > 0 && !is_fixed)
    (void)memory_locks::lock_new(pointer(*result), size(a[1]), integer(a[2]));
  if (*result > 0 && (flags & MAP_ANONYMOUS) == 0)
    gate::note_mapped(integer(a[4]), static_cast<std::uintptr_t>(*result),
                      {a[5], is_fixed, (integer(a[2]) & PROT_EXEC) != 0});
  return Routed::kDone;
}

// A number means another file afterwards. Forgotten twice: whoever used it meanwhile may have asked
// again.
Routed replace_descriptors(unsigned first, unsigned last, long* result, long value) {
  gate::descriptor_kinds.forget_range(first, last);
  return done(result, value);
}

Routed close_one(int fd, long* result) {
  gate::note_closed(fd);
  gate::descriptor_kinds.forget(fd);
  const long value = guarded::close(fd);
  return replace_descriptors(static_cast<unsigned>(fd), static_cast<unsigned>(fd), result, value);
}

Routed execute(long number, const long* a, int environment, long* result) {
  const bool is_relative = number == SYS_execveat;
  const bool is_allowed = is_relative
                              ? may_execute(integer(a[0]), pointer<const char>(a[1]), integer(a[4]))
                              : may_execute(AT_FDCWD, pointer<const char>(a[0]), 0);
  if (!is_allowed || !ExecEnvironment::is_library_in_reach()) return done(result, -EACCES);
  const ExecEnvironment mended(pointer<char* const>(a[environment]));
  long changed[6];
  std::copy(a, a + 6, changed);
  changed[environment] = reinterpret_cast<long>(mended.get());
  return done(result,
              gate::call(number, changed[0], changed[1], changed[2], changed[3], changed[4]));
}

Routed make_process(long number, const long* a, long* result) {
  const bool copies = pool_if_started() != nullptr &&
                      (number != SYS_clone3 || is_readable(a[0], size(a[1]))) &&
                      copies_address_space(number, a);
  if (!copies) return Routed::kInPlace;
  const SignalBlock block;  // the child leaves it, too
  return done(result, forked_clone({number, {a[0], a[1], a[2], a[3], a[4]}}));
}

// May it be a file that tells of memory? Such are opened to be read, and nothing else.
bool opens_to_read(long flags) {
  constexpr long kOther = O_ACCMODE | O_CREAT | O_DIRECTORY | O_PATH | O_TRUNC | O_DIRECT;
  return is_budget_shown() && (flags & kOther) == O_RDONLY;
}

Routed open_to_read(long number, const long* a, long* result) {
  const long opened = gate::call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (opened >= 0) show_opened(opened);
  return done(result, opened);
}

}  // namespace

Routed route(long number, const long* a, long* result) {
  switch (number) {
    case SYS_mmap:
      return map(a, result);
    case SYS_munmap:
      return done(result, space::unmap(pointer(a[0]), size(a[1])));
    case SYS_mremap:
      return done(result, space::remap(pointer(a[0]), size(a[1]), size(a[2]), integer(a[3]),
                                       pointer(a[4])));
    case SYS_mprotect:
      return done(result, space::protect(pointer(a[0]), size(a[1]), integer(a[2]), -1));
    case SYS_pkey_mprotect:
      return done(result, space::protect(pointer(a[0]), size(a[1]), integer(a[2]), integer(a[3])));
    case SYS_madvise:
      return done(result, space::advise(pointer(a[0]), size(a[1]), integer(a[2])));
    case SYS_process_madvise:
      if (a[4] == 0 && is_self_pidfd(integer(a[0])))
        return done(result, space::advise_vector(pointer<iovec>(a[1]), size(a[2]), integer(a[3])));
      break;
    case space::kMseal:
      return done(result, space::seal(pointer(a[0]), size(a[1]), static_cast<unsigned long>(a[2])));
    case SYS_mlock:
      return done(result, space::lock(pointer(a[0]), size(a[1]), 0));
    case SYS_mlock2:
      return done(result, space::lock(pointer(a[0]), size(a[1]), integer(a[2])));
    case SYS_munlock:
      return done(result, space::unlock(pointer(a[0]), size(a[1])));
    case SYS_mlockall:
      return done(result, memory_locks::lock_all(integer(a[0])));
    case SYS_munlockall:
      return done(result, memory_locks::unlock_all());
    case SYS_mincore:
      return done(result,
                  space::residency(pointer(a[0]), size(a[1]), pointer<unsigned char>(a[2])));
    case SYS_msync:
      return done(result, space::sync(pointer(a[0]), size(a[1]), integer(a[2])));
    case SYS_close:
      return close_one(integer(a[0]), result);
    case SYS_dup2:
      if (a[0] == a[1]) break;
      return replace_descriptors(static_cast<unsigned>(a[1]), static_cast<unsigned>(a[1]), result,
                                 guarded::duplicate(integer(a[0]), integer(a[1]), 0));
    case SYS_dup3:
      return replace_descriptors(static_cast<unsigned>(a[1]), static_cast<unsigned>(a[1]), result,
                                 guarded::duplicate(integer(a[0]), integer(a[1]), integer(a[2])));
    case kCloseRange:
      gate::descriptor_kinds.forget_range(static_cast<unsigned>(a[0]), static_cast<unsigned>(a[1]));
      return replace_descriptors(static_cast<unsigned>(a[0]), static_cast<unsigned>(a[1]), result,
                                 guarded::close_range(static_cast<unsigned>(a[0]),
                                                      static_cast<unsigned>(a[1]), integer(a[2])));
    case SYS_open:
      if (opens_to_read(a[1])) return open_to_read(number, a, result);
      break;
    case SYS_openat:
      if (opens_to_read(a[2])) return open_to_read(number, a, result);
      break;
    case SYS_sysinfo:
      if (is_budget_shown()) return done(result, sysinfo_shown(a[0]));
      break;
    case SYS_execve:
      return execute(number, a, 2, result);
    case SYS_execveat:
      return execute(number, a, 3, result);
    case SYS_fork:
    case SYS_clone:
    case SYS_clone3:
      return make_process(number, a, result);
    case SYS_exit_group:
      write_stats_at_exit();
      return Routed::kInPlace;
    case kIoUringSetup:
      // Its requests touch memory when they like, in threads of the kernel's.
      if (gate::is_installed()) return done(result, -ENOSYS);
      break;
    default:
      break;
  }
  return Routed::kNotSpecial;
}

}  // namespace buoy::preload
