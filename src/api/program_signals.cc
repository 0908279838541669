// sigaction and its relatives, for the library and the preload library alike: a program that sets
// its own SIGBUS action after the first pool exists must not take ours away. Its actions for SIGBUS
// are kept beside the engine's handler where there is one, and passed to the kernel where there is
// none. A handler for SIGSEGV gets the engine's correction in front of it. All other signals are
// libc's.
#include "api/program_signals.h"

#include <cerrno>
#include <csignal>
#include <cstring>

#include "mmu/signal_delivery.h"

#define BUOY_EXPORT extern "C" __attribute__((visibility("default"), used))

// libc's own name for what this file defines.
extern "C" int __sigaction(int signal, const struct sigaction* action,  // NOLINT
                           struct sigaction* old);

namespace {

using buoy::mmu::KernelSigaction;

constexpr unsigned long kSaRestorer = 0x04000000;

KernelSigaction to_kernel(const struct sigaction& action) {
  KernelSigaction k;
  k.handler = reinterpret_cast<void*>(action.sa_sigaction);
  k.flags = static_cast<unsigned>(action.sa_flags) | kSaRestorer;
  k.restorer = buoy::mmu::signal_delivery::restorer();
  std::memcpy(&k.mask, &action.sa_mask, sizeof k.mask);
  return k;
}

void from_kernel(const KernelSigaction& k, struct sigaction* action) {
  std::memset(action, 0, sizeof *action);
  action->sa_sigaction = reinterpret_cast<void (*)(int, siginfo_t*, void*)>(k.handler);
  action->sa_flags = static_cast<int>(k.flags & ~kSaRestorer);
  std::memcpy(&action->sa_mask, &k.mask, sizeof k.mask);
}

using SetAction = long (*)(const KernelSigaction*, KernelSigaction*);

int set_action(SetAction set, const struct sigaction* action, struct sigaction* old) {
  KernelSigaction fresh;
  KernelSigaction before;
  if (action != nullptr) fresh = to_kernel(*action);
  const long r = set(action != nullptr ? &fresh : nullptr, old != nullptr ? &before : nullptr);
  if (r < 0) {
    errno = static_cast<int>(-r);
    return -1;
  }
  if (old != nullptr) from_kernel(before, old);
  return 0;
}

sighandler_t set_handler(int signal, sighandler_t handler, int flags) {
  struct sigaction action {};
  struct sigaction old {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  if ((flags & SA_NODEFER) == 0) sigaddset(&action.sa_mask, signal);
  if (sigaction(signal, &action, &old) != 0) return SIG_ERR;
  return old.sa_handler;
}

}  // namespace

BUOY_EXPORT int sigaction(int signal, const struct sigaction* action, struct sigaction* old) {
  namespace delivery = buoy::mmu::signal_delivery;
  if (signal == SIGBUS) return set_action(&delivery::set_program_action, action, old);
  if (signal == SIGSEGV) return set_action(&delivery::set_program_segv_action, action, old);
  return __sigaction(signal, action, old);
}

// The definition above, by a name that nothing stands before.
extern "C" __attribute__((alias("sigaction"), visibility("hidden"), leaf)) int buoy_own_sigaction(
    int signal, const struct sigaction* action, struct sigaction* old) noexcept;

bool buoy::program_signals::reach_us() {
  // Volatile: what the dynamic linker has found for the name, not what the compiler sees here.
  int (*volatile const found)(int, const struct sigaction*, struct sigaction*) = &sigaction;
  return found == &buoy_own_sigaction;
}

BUOY_EXPORT sighandler_t signal(int signal, sighandler_t handler) {
  return set_handler(signal, handler, SA_RESTART);
}

BUOY_EXPORT sighandler_t bsd_signal(int signal, sighandler_t handler) {
  return set_handler(signal, handler, SA_RESTART);
}

// System V's way: once, and deliverable while it runs.
BUOY_EXPORT sighandler_t __sysv_signal(int signal, sighandler_t handler) {  // NOLINT
  return set_handler(signal, handler, static_cast<int>(SA_RESETHAND | SA_NODEFER));
}

BUOY_EXPORT sighandler_t sysv_signal(int signal, sighandler_t handler) {
  return set_handler(signal, handler, static_cast<int>(SA_RESETHAND | SA_NODEFER));
}
