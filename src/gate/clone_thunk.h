// A clone that shares memory (a thread, a vfork), for code whose own system calls are caught: both sides
// return to where the call stands, and neither may pass through frames of ours, which they share.
#pragma once

#include <cstdint>

namespace buoy::gate {

// Code of this library that makes a system call and goes on at `site`; null: there are too many sites.
[[nodiscard]] const char* clone_thunk_for(std::uintptr_t site);

}  // namespace buoy::gate
