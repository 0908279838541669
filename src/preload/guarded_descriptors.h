// The system calls that close and replace descriptors, with the engine's own left alone. For the
// interposed libc functions and syscall(2). Results are the kernel's. Async-signal-safe, and right in
// a vfork child.
#pragma once

namespace buoy::preload::guarded_descriptors {

// EBADF for one of ours.
[[nodiscard]] long close(int fd);
// dup3, and dup2 where flags is 0 and the two differ: EBADF if `to` is one of ours.
[[nodiscard]] long duplicate(int from, int to, int flags);
// Steps around ours.
[[nodiscard]] long close_range(unsigned first, unsigned last, int flags);

}  // namespace buoy::preload::guarded_descriptors
