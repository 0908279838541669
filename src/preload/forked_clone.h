// A clone that copies the address space, with the pool's work done on both sides of it.
//
//   parent                                   child
//   close the gate, ranges become inheritable
//   clone  --------------------------------> registers the ranges, starts its handler threads
//   open the gate                            goes on, before any libc code has run
//
// The work runs on a stack of its own: the caller's may lie in managed memory, and a fault while
// the gate is closed would wait for itself. One fork at a time; the child starts unlocked.
#pragma once

namespace buoy::preload {

// A system call that is fork, or clone/clone3 without CLONE_VM.
struct CloneCall {
  long number;
  long arguments[5];
};

// Does this system call make a child with a copy of our memory?
[[nodiscard]] bool copies_address_space(long number, const long* arguments);

// Makes the call; the kernel's result, twice. The child must start on a copy of the caller's stack
// (EINVAL for one that brings its own), and the caller has all signals blocked.
long forked_clone(const CloneCall& call);

// libc's clone(), for a child with a stack of its own that runs `body(argument)` and ends.
struct CloneWithStack {
  int (*body)(void*);
  void* argument;
  void* stack;
  int flags;
  int* parent_word;  // CLONE_PARENT_SETTID or CLONE_PIDFD
  void* tls;
  int* child_word;
};

// The child's id, or -errno. Blocks signals itself; the child starts with the caller's mask.
long forked_clone_with_stack(const CloneWithStack& request);

}  // namespace buoy::preload
