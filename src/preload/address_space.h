// The memory calls of the program, with the kernel's semantics over managed and other memory alike.
//
// A range is cut into stretches that are wholly managed or wholly not; each goes to the pool or to
// the kernel, in address order. Results are the kernel's: >= 0, or -errno, with the kernel's
// partial effects: madvise goes on past a hole and answers ENOMEM at the end, mprotect, mlock and
// mincore stop there.
//
// Async-signal-safe as far as the kernel's calls are. No lock is held, none is taken here.
#pragma once

#include <sys/types.h>
#include <sys/uio.h>

#include <cstddef>

namespace buoy::preload::address_space {

long map(void* address, std::size_t length, int prot, int flags, int fd, off_t offset);
long unmap(void* address, std::size_t length);
long remap(void* old_address, std::size_t old_length, std::size_t new_length, int flags,
           void* new_address);
// pkey -1: plain mprotect. A protection key cannot be kept by managed memory: EINVAL there.
long protect(void* address, std::size_t length, int prot, int pkey);
long advise(void* address, std::size_t length, int advice);
// mseal(2), which not every libc has.
inline constexpr long kMseal = 462;
long seal(void* address, std::size_t length, unsigned long flags);
// Bytes advised, or -errno if none were: process_madvise on this process.
long advise_vector(const iovec* ranges, std::size_t count, int advice);
long lock(void* address, std::size_t length, int mlock2_flags);
long unlock(void* address, std::size_t length);
long residency(void* address, std::size_t length, unsigned char* vec);
long sync(void* address, std::size_t length, int flags);

}  // namespace buoy::preload::address_space
