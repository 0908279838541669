// Threads by bare clone, for the engine's own work inside a stranger's process.
//
// A bare thread shares memory, files and signal handlers with the process, has its own stack and
// its own zeroed TLS block, runs with every signal blocked, and is unknown to libc: it must call
// nothing that needs libc's idea of a thread (malloc, stdio, pthread_*), only raw system calls
// and pure functions. Under sanitizers, which must know every thread, it is a pthread instead.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"

namespace buoy {

class BareThread {
 public:
  using Body = void (*)(void* argument);

  BareThread() = default;
  BareThread(const BareThread&) = delete;
  BareThread& operator=(const BareThread&) = delete;
  ~BareThread();

  // Starts `body(argument)`. `name` is what ps and gdb show (15 characters at most).
  // EAGAIN or ENOMEM when the system gives no thread.
  [[nodiscard]] Status start(const char* name, Body body, void* argument);
  // Waits until the body has returned, and frees the stack.
  void join();
  // In a fork child: the thread does not exist here; forgets it and frees its stack.
  void forget_after_fork();
  [[nodiscard]] bool is_started() const { return memory_ != nullptr || pthread_ != 0; }
  [[nodiscard]] int tid() const { return tid_.load(std::memory_order_acquire); }

 private:
  static int trampoline(void* self);
  static void* pthread_trampoline(void* self);

  Body body_ = nullptr;
  void* argument_ = nullptr;
  const char* name_ = nullptr;
  std::byte* memory_ = nullptr;  // guard page, stack, TLS block
  unsigned long pthread_ = 0;
  std::atomic<std::int32_t> tid_{0};  // cleared and woken by the kernel at the thread's end
};

}  // namespace buoy
