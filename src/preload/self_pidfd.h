// Does a pidfd name this process? What process_madvise needs to know, and nothing else does.
#pragma once

namespace buoy::preload {

// False also for descriptors that are no pidfds. Raw system calls only.
[[nodiscard]] bool is_self_pidfd(int fd);

}  // namespace buoy::preload
