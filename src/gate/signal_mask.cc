#include "gate/signal_mask.h"

#include <atomic>

#include "base/sys.h"

namespace buoy::gate::signals {

namespace {

// Which of those that are kept open the program believes to be blocked in this thread.
thread_local constinit std::uint64_t believes_blocked = 0;
thread_local constinit bool handler_has_run = false;
constinit std::atomic<int> process_id{0};

// What it believes once the kernel has done `how`.
std::uint64_t believed_after(long how, std::uint64_t believed, std::uint64_t set) {
  if (how == SIG_BLOCK) return believed | set;
  if (how == SIG_UNBLOCK) return believed & ~set;
  return set;
}

}  // namespace

void note_masks_owner() { process_id.store(static_cast<int>(sys::call(SYS_getpid))); }

bool is_own_process() {
  return sys::call(SYS_getpid) == process_id.load(std::memory_order_relaxed);
}

long change_mask(long how, const std::uint64_t* set, std::uint64_t* old) {
  const std::uint64_t believed = believes_blocked;
  const std::uint64_t kernels = set != nullptr ? *set & ~kKeptOpen : 0;
  std::uint64_t kernels_old = 0;
  const long r = sys::call(SYS_rt_sigprocmask, how, set != nullptr ? sys::ptr(&kernels) : 0,
                           old != nullptr ? sys::ptr(&kernels_old) : 0, sizeof kernels);
  if (r != 0) return r;
  if (set != nullptr) {
    const std::uint64_t after = believed_after(how, believed, *set & kKeptOpen);
    // A vfork child has this thread's storage, but a mask of its own.
    if (after != believed && is_own_process()) believes_blocked = after;
  }
  if (old != nullptr) *old = kernels_old | believed;
  return 0;
}

void open_dispatched() {
  constexpr std::uint64_t kSys = std::uint64_t{1} << (SIGSYS - 1);
  std::uint64_t old = 0;
  sys::call(SYS_rt_sigprocmask, SIG_UNBLOCK, sys::ptr(&kSys), sys::ptr(&old), sizeof old);
  believes_blocked |= old & kSys;
}

void watch_for_handlers() { handler_has_run = false; }
void note_handler_returns() { handler_has_run = true; }
bool has_handler_run() { return handler_has_run; }

}  // namespace buoy::gate::signals
