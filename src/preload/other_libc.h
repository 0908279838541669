// A second libc in the process, in a namespace of its own (dlmopen): nothing of it is bound to us. Its
// malloc and its mappings are its own, outside the budget. Its fork would give a child
// without managed memory, so its _Fork, in which all of its forks clone, goes to ours.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace buoy::preload {

// `entry`: that libc's _Fork. From now on it is `ours`. Nobody may be inside of it.
// EOPNOTSUPP: it is too short; or what mprotect says.
[[nodiscard]] int redirect(void* entry, std::size_t size, pid_t (*ours)());

}  // namespace buoy::preload
