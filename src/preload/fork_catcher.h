// ForkCatcher: puts forked_clone() in place of the clone inside libc's own fork().
//
// libc's fork runs atfork handlers and takes its locks, clones by an inlined system call, and then
// writes to memory in the child, before it returns to anyone. Pages of ours that had been taken
// away would read as zeros there. So the thread that forks turns on Syscall User Dispatch for the
// time of the call: system calls from outside this library arrive as SIGSYS, the handler makes
// them on the thread's behalf, and the clone among them it makes as forked_clone().
//
//   arm ---- libc: atfork handlers, ... ---- clone -> SIGSYS -> forked_clone, disarm ---- libc ...
//
// Linux 5.11 and later. The SIGSYS action of the program is put aside meanwhile, and called for
// what is its own.
#pragma once

namespace buoy::preload {

class ForkCatcher {
 public:
  ForkCatcher();
  ~ForkCatcher();
  ForkCatcher(const ForkCatcher&) = delete;
  ForkCatcher& operator=(const ForkCatcher&) = delete;

  // False where the kernel has no dispatch or a filter forbids it: fork must not go on then. The
  // ranges are not inherited outside forked_clone(), so that a fork that escaped us would give a
  // child without memory rather than one with wrong memory.
  [[nodiscard]] bool is_armed() const { return armed_; }

 private:
  bool armed_ = false;
  bool sigsys_was_blocked_ = false;
};

// In a fork child: of the threads that were in a catcher at the clone, at most the calling one is
// here. Whatever way it cloned by, the SIGSYS action counts nobody else afterwards.
void fork_catcher_after_fork_in_child();

}  // namespace buoy::preload
