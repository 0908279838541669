// mlockall: what is mapped now, and what will be, stays resident, if the budget can hold it.
//
// The kernel is not asked to lock everything: it would lock our reservations and their shadows, too,
// out of which no page could be moved any more. Managed memory is locked by the pool; the rest mapping
// by mapping, as /proc/self/maps lists them, and new mappings as they are made.
//
// Not here: single mlock and munlock, which address_space cuts into stretches.
#pragma once

#include <cstddef>

namespace buoy::preload::memory_locks {

// Flags of mlockall(2). EINVAL; EPERM and ENOMEM as natively by RLIMIT_MEMLOCK, for what the kernel
// keeps; ENOMEM: the budget cannot hold what is mapped. Nothing is locked then.
long lock_all(int flags);
long unlock_all();

// A mapping was made, or became accessible. False: it is to be locked, and cannot be: mmap's EAGAIN.
[[nodiscard]] bool lock_new(void* address, std::size_t length, int prot);

// A child has no locks.
void after_fork_in_child();

}  // namespace buoy::preload::memory_locks
