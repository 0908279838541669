#include "base/thread.h"

#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/check.h"
#include "base/sys.h"
#include "base/units.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define BUOY_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define BUOY_SANITIZED 1
#endif
#endif

namespace buoy {

namespace {
void block_all_signals(std::uint64_t* saved) {
  const std::uint64_t all = ~std::uint64_t{0};
  sys::call(SYS_rt_sigprocmask, SIG_SETMASK, sys::ptr(&all), sys::ptr(saved), 8);
}
void restore_signals(const std::uint64_t& saved) {
  sys::call(SYS_rt_sigprocmask, SIG_SETMASK, sys::ptr(&saved), 0, 8);
}
}  // namespace

BareThread::~BareThread() { BUOY_DCHECK(!is_started()); }

int BareThread::trampoline(void* self) {
  auto* thread = static_cast<BareThread*>(self);
  sys::call(SYS_prctl, PR_SET_NAME, sys::ptr(thread->name_));
  thread->body_(thread->argument_);
  return 0;
}

void* BareThread::pthread_trampoline(void* self) {
  auto* thread = static_cast<BareThread*>(self);
  sys::call(SYS_prctl, PR_SET_NAME, sys::ptr(thread->name_));
  thread->tid_.store(sys::gettid(), std::memory_order_release);
  thread->body_(thread->argument_);
  return nullptr;
}

#ifdef BUOY_SANITIZED

Status BareThread::start(const char* name, Body body, void* argument) {
  BUOY_CHECK(!is_started());
  name_ = name;
  body_ = body;
  argument_ = argument;
  std::uint64_t saved = 0;
  block_all_signals(&saved);
  tid_.store(0, std::memory_order_relaxed);
  const int rc = pthread_create(&pthread_, nullptr, &pthread_trampoline, this);
  restore_signals(saved);
  if (rc != 0) {
    pthread_ = 0;
    return Error{rc};
  }
  // Until it is past what a sanitizer does for it, under locks of its allocator: a fork would copy
  // them as they are.
  while (tid_.load(std::memory_order_acquire) == 0) sys::yield();
  return {};
}

void BareThread::join() {
  if (pthread_ != 0) pthread_join(pthread_, nullptr);
  pthread_ = 0;
  tid_.store(0, std::memory_order_release);
}

void BareThread::forget_after_fork() {
  pthread_ = 0;
  tid_.store(0, std::memory_order_release);
}

#else

namespace {
// Layout of a bare thread's memory, low to high:
//   [guard page | stack 256 KiB | zeroed static TLS 64 KiB | thread control block 1 page]
// FS points at the control block. The x86-64 ABI keeps a pointer to itself in its first word and
// the stack protector's canary at 0x28; initial-exec TLS variables lie below it, all zero.
constexpr std::size_t kGuard = kPageSize;
constexpr std::size_t kStack = 256 * 1024;
constexpr std::size_t kTls = 64 * 1024;
constexpr std::size_t kControl = kPageSize;
constexpr std::size_t kTotal = kGuard + kStack + kTls + kControl;
}  // namespace

Status BareThread::start(const char* name, Body body, void* argument) {
  BUOY_CHECK(!is_started());
  auto memory = sys::reserve(kTotal, kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  std::byte* base = *memory;
  sys::call(SYS_mprotect, sys::ptr(base), kGuard, PROT_NONE);
  // What a fork child inherits of it is freed there by forget_after_fork().
  name_ = name;
  body_ = body;
  argument_ = argument;
  memory_ = base;

  std::byte* control = base + kGuard + kStack + kTls;
  const auto self = reinterpret_cast<std::uintptr_t>(control);
  std::memcpy(control, &self, sizeof self);         // %fs:0, the TLS self pointer
  std::memcpy(control + 0x10, &self, sizeof self);  // header.self of glibc's struct pthread
  const std::uint64_t canary = (sys::monotonic_ns() * 0x9e3779b97f4a7c15U) & ~std::uint64_t{0xff};
  std::memcpy(control + 0x28, &canary, sizeof canary);

  // tid_ is written by the kernel before the clone returns (PARENT_SETTID), and cleared with a
  // futex wake when the thread has left the address space (CHILD_CLEARTID).
  constexpr unsigned long kFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND |
                                   CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS |
                                   CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  std::uint64_t saved = 0;
  block_all_signals(&saved);
  auto* stack_top = reinterpret_cast<std::uint64_t*>(base + kGuard + kStack);
  *--stack_top = reinterpret_cast<std::uint64_t>(this);
  *--stack_top = reinterpret_cast<std::uint64_t>(&BareThread::trampoline);
  long ret;
  {
    register long r10 __asm__("r10") = sys::ptr(&tid_);        // child_tid
    register long r8 __asm__("r8") = static_cast<long>(self);  // tls
    __asm__ volatile(
        "syscall\n\t"
        "test %%rax, %%rax\n\t"
        "jnz 1f\n\t"
        "xor %%ebp, %%ebp\n\t"
        "pop %%rax\n\t"    // trampoline
        "pop %%rdi\n\t"    // this
        "call *%%rax\n\t"  // the stack is 16-byte aligned here, as the ABI wants before a call
        "xor %%edi, %%edi\n\t"
        "mov %[exit], %%eax\n\t"
        "syscall\n\t"
        "hlt\n\t"
        "1:\n\t"
        : "=a"(ret)
        : "a"(static_cast<long>(SYS_clone)), "D"(static_cast<long>(kFlags)), "S"(stack_top),
          "d"(&tid_), "r"(r10), "r"(r8), [exit] "i"(SYS_exit)
        : "rcx", "r11", "memory");
  }
  restore_signals(saved);
  if (ret < 0) {
    sys::unmap(base, kTotal);
    memory_ = nullptr;
    return Error{static_cast<int>(-ret)};
  }
  return {};
}

void BareThread::join() {
  if (memory_ == nullptr) return;
  for (;;) {
    const std::int32_t tid = tid_.load(std::memory_order_acquire);
    if (tid == 0) break;
    // CHILD_CLEARTID wakes a shared futex, not a private one.
    sys::call(SYS_futex, sys::ptr(&tid_), 0 /* FUTEX_WAIT */, tid, 0);
  }
  sys::unmap(memory_, kTotal);
  memory_ = nullptr;
}

void BareThread::forget_after_fork() {
  if (memory_ != nullptr) sys::unmap(memory_, kTotal);
  memory_ = nullptr;
  tid_.store(0, std::memory_order_release);
}

#endif

}  // namespace buoy
