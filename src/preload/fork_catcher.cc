#include "preload/fork_catcher.h"

#include <elf.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>
#include <ucontext.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>

#include "base/sys.h"
#include "gate/clone_thunk.h"
#include "preload/forked_clone.h"
#include "preload/signal_return.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

// The way back out of a handler, which must come from this library's text as it is.
asm(R"(
  .pushsection .text,"ax",@progbits
  .globl buoy_sigreturn
  .hidden buoy_sigreturn
buoy_sigreturn:
  movq $15, %rax
  syscall
  nop
  .popsection
)");
extern "C" {
// This library's image, by the linker.
extern const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));  // NOLINT
}

namespace buoy::preload {
namespace {

constexpr long kDispatchOff = 0;
constexpr long kDispatchOn = 1;
constexpr char kAllow = 0;
constexpr char kCatch = 1;
constexpr int kUserDispatch = 2;  // si_code SYS_USER_DISPATCH
constexpr std::uint64_t kSigsysBit = std::uint64_t{1} << (SIGSYS - 1);
constexpr std::uint64_t kFaultBits =
    (std::uint64_t{1} << (SIGBUS - 1)) | (std::uint64_t{1} << (SIGSEGV - 1));

// The kernel's struct sigaction.
struct KernelAction {
  void (*handler)(int, siginfo_t*, void*);
  unsigned long flags;
  void (*restorer)();
  std::uint64_t mask;
};
constexpr unsigned long kSaRestorer = 0x04000000;

thread_local constinit bool is_user = false;  // between acquire_action() and release_action()

// Read by the kernel at each system call of a thread that is armed.
thread_local constinit volatile char selector = kAllow;
thread_local constinit bool is_caught = false;  // the clone was made, and dispatch is off again

// The SIGSYS action is the process's: the first thread to arm sets it, the last puts it back.
struct SharedAction {
  std::atomic<std::uint32_t> lock{0};
  int users = 0;
  KernelAction program{};
};
constinit SharedAction action;

void lock_action() {
  while (action.lock.exchange(1, std::memory_order_acquire) != 0) __builtin_ia32_pause();
}
void unlock_action() { action.lock.store(0, std::memory_order_release); }

// Where this library's executable segment lies: [start, start + bytes).
struct Text {
  long start;
  long bytes;
};
Text own_text() {
  const long image = reinterpret_cast<long>(&__ehdr_start);
  const auto* header = reinterpret_cast<const Elf64_Phdr*>(  // NOLINT(performance-no-int-to-ptr)
      image + static_cast<long>(__ehdr_start.e_phoff));
  for (unsigned i = 0; i < __ehdr_start.e_phnum; ++i) {
    if (header[i].p_type == PT_LOAD && (header[i].p_flags & PF_X) != 0)
      return {image + static_cast<long>(header[i].p_vaddr), static_cast<long>(header[i].p_memsz)};
  }
  return {};
}

long set_mask(int how, std::uint64_t bits, std::uint64_t* old) {
  return sys::call(SYS_rt_sigprocmask, how, sys::ptr(&bits), sys::ptr(old), sizeof bits);
}

void disarm() {
  selector = kAllow;
  sys::call(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, kDispatchOff, 0, 0, 0);
}

// rt_sigprocmask speaks of the interrupted context, not of the handler; sigreturn installs it.
// SIGSYS stays open: a dispatch to a blocked SIGSYS kills.
long emulate_sigprocmask(ucontext_t* context, const long* a) {
  auto& mask = *reinterpret_cast<std::uint64_t*>(&context->uc_sigmask);
  if (a[3] != sizeof mask) return -EINVAL;
  const std::uint64_t old = mask;
  if (a[1] != 0) {
    const std::uint64_t bits = *reinterpret_cast<const std::uint64_t*>(a[1]);  // NOLINT
    switch (a[0]) {
      case SIG_BLOCK:
        mask |= bits;
        break;
      case SIG_UNBLOCK:
        mask &= ~bits;
        break;
      case SIG_SETMASK:
        mask = bits;
        break;
      default:
        return -EINVAL;
    }
    mask &=
        ~(kSigsysBit | (std::uint64_t{1} << (SIGKILL - 1)) | (std::uint64_t{1} << (SIGSTOP - 1)));
  }
  if (a[2] != 0) *reinterpret_cast<std::uint64_t*>(a[2]) = old;  // NOLINT
  return 0;
}

// A SIGSYS of somebody else's filter in the time that ours is the action.
void hand_to_program(int signal, siginfo_t* info, void* context) {
  lock_action();
  const KernelAction program = action.program;
  unlock_action();
  if (reinterpret_cast<std::uintptr_t>(program.handler) > 1) {  // neither SIG_DFL nor SIG_IGN
    program.handler(signal, info, context);
    return;
  }
  const KernelAction fatal{};
  sys::call(SYS_rt_sigaction, SIGSYS, sys::ptr(&fatal), 0, sizeof fatal.mask);
  sys::call(SYS_tgkill, sys::call(SYS_getpid), sys::gettid(), SIGSYS);
}

void on_sigsys(int signal, siginfo_t* info, void* raw_context) {
  if (info->si_code != kUserDispatch) return hand_to_program(signal, info, raw_context);
  auto* context = static_cast<ucontext_t*>(raw_context);
  greg_t* regs = context->uc_mcontext.gregs;
  const long number = regs[REG_RAX];
  const long a[6] = {regs[REG_RDI], regs[REG_RSI], regs[REG_RDX],
                     regs[REG_R10], regs[REG_R8],  regs[REG_R9]};
  if (number == SYS_rt_sigprocmask) {
    regs[REG_RAX] = emulate_sigprocmask(context, a);
  } else if (number == SYS_rt_sigreturn) {
    // A handler of the program returns: the same stack, but by a call that is not caught.
    regs[REG_RIP] = reinterpret_cast<long>(buoy_sigreturn);
  } else if (copies_address_space(number, a)) {
    regs[REG_RAX] = forked_clone({number, {a[0], a[1], a[2], a[3], a[4]}});
    // In a child, the kernel has turned dispatch off.
    if (regs[REG_RAX] != 0) disarm();
    selector = kAllow;
    is_caught = true;
  } else if (number == SYS_clone || number == SYS_clone3 || number == SYS_vfork) {
    if (const char* thunk = gate::clone_thunk_for(static_cast<std::uintptr_t>(regs[REG_RIP]))) {
      regs[REG_RIP] = reinterpret_cast<long>(thunk);
    } else {
      regs[REG_RAX] = -EAGAIN;
    }
  } else {
    regs[REG_RAX] = sys::call(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  }
}

bool is_ours_installed() {
  KernelAction now{};
  sys::call(SYS_rt_sigaction, SIGSYS, 0, sys::ptr(&now), sizeof now.mask);
  return now.handler == on_sigsys;
}

void restore_program_action() {
  sys::call(SYS_rt_sigaction, SIGSYS, sys::ptr(&action.program), 0, sizeof action.program.mask);
}

void acquire_action() {
  lock_action();
  if (action.users++ == 0) {
    KernelAction ours{};
    ours.handler = on_sigsys;
    // NODEFER: SIGSYS must never be blocked while calls are caught.
    ours.flags = SA_SIGINFO | SA_NODEFER | kSaRestorer;
    ours.restorer = buoy_sigreturn;
    ours.mask = ~(kSigsysBit | kFaultBits);
    sys::call(SYS_rt_sigaction, SIGSYS, sys::ptr(&ours), sys::ptr(&action.program),
              sizeof ours.mask);
  }
  is_user = true;
  unlock_action();
}

void release_action() {
  lock_action();
  is_user = false;
  if (--action.users == 0) restore_program_action();
  unlock_action();
}

}  // namespace

void fork_catcher_after_fork_in_child() {
  // The lock's holder may have been between its two changes: if anybody was in, ours is the action.
  const bool was_used = action.users != 0 || action.lock.load() != 0;
  action.lock.store(0);
  action.users = is_user ? 1 : 0;
  if (was_used && !is_user && is_ours_installed()) restore_program_action();
}

ForkCatcher::ForkCatcher() {
  std::uint64_t mask = 0;
  set_mask(SIG_UNBLOCK, kSigsysBit, &mask);
  sigsys_was_blocked_ = (mask & kSigsysBit) != 0;
  acquire_action();
  selector = kAllow;
  is_caught = false;
  const Text text = own_text();
  armed_ = sys::call(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, kDispatchOn, text.start, text.bytes,
                     reinterpret_cast<long>(&selector)) == 0;
  if (armed_) selector = kCatch;
}

ForkCatcher::~ForkCatcher() {
  if (armed_ && !is_caught) disarm();  // libc gave up before it cloned
  selector = kAllow;
  release_action();
  if (sigsys_was_blocked_) set_mask(SIG_BLOCK, kSigsysBit, nullptr);
}

}  // namespace buoy::preload
