// Programs that a program in a budget executes, and that cannot have one: those into which the dynamic
// linker would not load our library.
//
// Usable between vfork and exec: no allocation, no lock.
#pragma once

namespace buoy::preload {

// Is this to be executed? Says on stderr if not, or, where `--unmanaged-exec allow` has it so, that it
// runs without a budget. What cannot be looked at is the kernel's to refuse. False: EACCES.
[[nodiscard]] bool may_execute(int folder, const char* path, int execveat_flags);
// The same of what a shell would execute for `file`, for calls whose system call nobody sees: true at
// once where the gate does.
[[nodiscard]] bool may_execute_unseen(const char* file);

}  // namespace buoy::preload
