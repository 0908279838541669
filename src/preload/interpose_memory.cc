// libc's memory calls, as the program and jemalloc see them. Thin: address_space decides.
#include <sys/mman.h>
#include <sys/uio.h>
#include <cstdarg>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/gate.h"
#include "preload/address_space.h"
#include "preload/interpose.h"
#include "preload/memory_locks.h"
#include "preload/self_pidfd.h"

namespace space = buoy::preload::address_space;
using buoy::preload::libc_result;

namespace {

// Code that is made there may make system calls of its own.
long note_code(long result, int prot) {
  const bool is_error = result < 0 && result > -4096;
  if ((prot & PROT_EXEC) != 0 && !is_error) buoy::gate::note_code_made(0);
  return result;
}

long protect(void* address, size_t length, int prot, int pkey) {
  return libc_result(note_code(space::protect(address, length, prot, pkey), prot));
}

}  // namespace

BUOY_EXPORT void* mmap(void* address, size_t length, int prot, int flags, int fd, off_t offset) {
  const long result = space::map(address, length, prot, flags, fd, offset);
  return reinterpret_cast<void*>(  // NOLINT(performance-no-int-to-ptr)
      libc_result(note_code(result, prot)));
}

BUOY_EXPORT void* mmap64(void* address, size_t length, int prot, int flags, int fd,
                         off64_t offset) {
  return mmap(address, length, prot, flags, fd, offset);
}

BUOY_EXPORT int munmap(void* address, size_t length) {
  return static_cast<int>(libc_result(space::unmap(address, length)));
}

BUOY_EXPORT void* mremap(void* address, size_t old_length, size_t new_length, int flags, ...) {
  void* target = nullptr;
  if ((flags & MREMAP_FIXED) != 0) {
    va_list rest;
    va_start(rest, flags);
    target = va_arg(rest, void*);
    va_end(rest);
  }
  return reinterpret_cast<void*>(  // NOLINT(performance-no-int-to-ptr)
      libc_result(space::remap(address, old_length, new_length, flags, target)));
}

BUOY_EXPORT int mprotect(void* address, size_t length, int prot) {
  return static_cast<int>(protect(address, length, prot, -1));
}

BUOY_EXPORT int pkey_mprotect(void* address, size_t length, int prot, int pkey) {
  return static_cast<int>(protect(address, length, prot, pkey));
}

// In libc since 2.40.
BUOY_EXPORT int mseal(void* address, size_t length, unsigned long flags) {
  return static_cast<int>(libc_result(space::seal(address, length, flags)));
}

BUOY_EXPORT int madvise(void* address, size_t length, int advice) {
  return static_cast<int>(libc_result(space::advise(address, length, advice)));
}

BUOY_EXPORT int posix_madvise(void* address, size_t length, int advice) {
  // POSIX's DONTNEED must not lose data: libc does nothing for it, and so do we.
  if (advice == POSIX_MADV_DONTNEED) return 0;
  return static_cast<int>(-space::advise(address, length, advice));
}

BUOY_EXPORT ssize_t process_madvise(int pidfd, const iovec* ranges, size_t count, int advice,
                                    unsigned flags) {
  if (flags == 0 && buoy::preload::is_self_pidfd(pidfd))
    return libc_result(space::advise_vector(ranges, count, advice));
  return libc_result(buoy::gate::call(SYS_process_madvise, pidfd, buoy::sys::ptr(ranges),
                                      static_cast<long>(count), advice, flags));
}

BUOY_EXPORT int mlock(const void* address, size_t length) {
  return static_cast<int>(libc_result(space::lock(const_cast<void*>(address), length, 0)));
}

BUOY_EXPORT int mlock2(const void* address, size_t length, unsigned flags) {
  return static_cast<int>(
      libc_result(space::lock(const_cast<void*>(address), length, static_cast<int>(flags))));
}

BUOY_EXPORT int munlock(const void* address, size_t length) {
  return static_cast<int>(libc_result(space::unlock(const_cast<void*>(address), length)));
}

BUOY_EXPORT int mlockall(int flags) {
  return static_cast<int>(libc_result(buoy::preload::memory_locks::lock_all(flags)));
}

BUOY_EXPORT int munlockall() {
  return static_cast<int>(libc_result(buoy::preload::memory_locks::unlock_all()));
}

BUOY_EXPORT int mincore(void* address, size_t length, unsigned char* vec) {
  return static_cast<int>(libc_result(space::residency(address, length, vec)));
}

BUOY_EXPORT int msync(void* address, size_t length, int flags) {
  return static_cast<int>(libc_result(space::sync(address, length, flags)));
}
