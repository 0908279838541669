#include "gate/thread.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/parts.h"
#include "gate/scratch.h"
#include "gate/signals.h"
#include "mmu/signal_delivery.h"

namespace buoy::gate::thread {

namespace {

constexpr std::size_t kStackBytes = std::size_t{64} << 10;

struct OwnStack {
  std::byte* base = nullptr;
  bool is_prepared = false;
  int tid = 0;
  Bytes programs;  // the alternate stack that the program has set, held in place
  Bytes running;   // of a stack in managed memory, the part in use, held in place
};
thread_local constinit OwnStack own;
// Has a thread been made that uses its maker's storage?
constinit std::atomic<bool> is_storage_shared{false};

Bytes at(std::uintptr_t address, std::size_t length) { return {address, length}; }

bool is_ours(const stack_t& s) { return own.base != nullptr && s.ss_sp == own.base; }

long kernel_stack(const stack_t* fresh, stack_t* old) {
  return sys::call(SYS_sigaltstack, sys::ptr(fresh), sys::ptr(old));
}

void use_own_stack() {
  stack_t fresh{};
  fresh.ss_sp = own.base;
  fresh.ss_size = kStackBytes;
  kernel_stack(&fresh, nullptr);
}

}  // namespace

void prepare() {
  if (own.is_prepared) return;
  own.is_prepared = true;
  own.tid = sys::gettid();
  const long got = sys::call(SYS_mmap, 0, kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (got < 0) return;
  own.base = reinterpret_cast<std::byte*>(got);  // NOLINT(performance-no-int-to-ptr)
  mmu::signal_delivery::set_fault_stack({own.base, kStackBytes});
  stack_t present{};
  if (kernel_stack(nullptr, &present) == 0 && (present.ss_flags & SS_DISABLE) != 0) use_own_stack();
}

bool has_own_storage() {
  return !is_storage_shared.load(std::memory_order_relaxed) || own.tid == sys::gettid();
}

void after_fork_in_child() {
  if (own.is_prepared) own.tid = sys::gettid();
}

namespace {

// The one of before is let go.
void hold_programs_stack(Memory& memory, Bytes stack) {
  if (own.programs.length != 0) memory.unpin(own.programs, PinFor::kWriting);
  own.programs = stack;
}

}  // namespace

void hold_stack(Memory& memory, std::uintptr_t here) {
  constexpr std::size_t kNeeded = std::size_t{16} << 10;
  constexpr std::size_t kHeld = std::size_t{32} << 10;
  const Bytes held = own.running;
  const bool is_managed = memory.is_managed_at(here);
  if (!is_managed && held.length == 0) return;
  if (is_managed && here - kNeeded - held.address < held.length &&
      here - held.address < held.length)
    return;
  if (!has_own_storage()) return;
  own.running = Bytes();
  if (held.length != 0) memory.unpin(held, PinFor::kWriting);
  if (!is_managed) return;
  std::uintptr_t low = (here & ~(kPageSize - 1));
  while (here - low < kHeld && memory.is_managed_at(low - 1) &&
         memory.is_permitted(at(low - 1, 1), PinFor::kWriting))
    low -= kPageSize;
  const Bytes near = at(low, (here & ~(kPageSize - 1)) + kPageSize - low);
  if (memory.pin(near, PinFor::kWriting) == Had::kAll) own.running = near;
}

void note_context_switch(Memory& memory, std::uintptr_t call, const long* a) {
  constexpr std::uintptr_t kFunctionBytes = 512;
  constexpr std::size_t kRoom = std::size_t{16} << 10;
  const auto is_in = [call](auto* function) {
    return call - reinterpret_cast<std::uintptr_t>(function) < kFunctionBytes;
  };
  if (!is_in(&::swapcontext) && !is_in(&::setcontext)) return;
  const auto mask = static_cast<std::uintptr_t>(a[1]);
  const std::uintptr_t context = mask - offsetof(ucontext_t, uc_sigmask);
  std::uint64_t stack = 0;
  const auto place = offsetof(ucontext_t, uc_mcontext.gregs) + REG_RSP * sizeof(greg_t);
  if (!read_program(memory, &stack, at(context + place, sizeof stack))) return;
  for (std::size_t below = 0; below <= kRoom && memory.is_managed_at(stack - below);
       below += kPageSize)
    (void)memory.bring_in(at(stack - below, 1), PinFor::kWriting);
}

long set_alternate_stack(Memory& memory, const long* a) {
  stack_t fresh{};
  stack_t present{};
  const auto wanted = static_cast<std::uintptr_t>(a[0]);
  const auto told = static_cast<std::uintptr_t>(a[1]);
  if (wanted != 0 && !read_program(memory, &fresh, at(wanted, sizeof fresh))) return -EFAULT;
  if (const long rc = kernel_stack(nullptr, &present); rc != 0) return rc;
  if (wanted != 0) {
    const bool ends = (fresh.ss_flags & SS_DISABLE) != 0;
    // A signal frame is written there by the kernel.
    const Bytes stack = at(reinterpret_cast<std::uintptr_t>(fresh.ss_sp), fresh.ss_size);
    const bool is_held = !ends && memory.is_managed(stack);
    if (is_held && memory.pin(stack, PinFor::kWriting) == Had::kFull) return -ENOMEM;
    if (!ends) signals::note_alternate_stack();
    if (const long rc = kernel_stack(&fresh, nullptr); rc != 0) {
      if (is_held) memory.unpin(stack, PinFor::kWriting);
      return rc;
    }
    if (has_own_storage()) {
      hold_programs_stack(memory, is_held ? stack : Bytes());
      if (ends && own.base != nullptr) use_own_stack();
    }
  }
  if (told == 0) return 0;
  if (is_ours(present)) {
    const bool is_on_it = (present.ss_flags & SS_ONSTACK) != 0;
    present = stack_t{};
    present.ss_flags = is_on_it ? SS_ONSTACK : SS_DISABLE;
  }
  return write_program(memory, at(told, sizeof present), &present) ? 0 : -EFAULT;
}

namespace {

struct NewThread {
  std::uint64_t flags = 0;
  std::uintptr_t childs_word = 0;
  std::uintptr_t parents_word = 0;
  Bytes stack;
};

NewThread read_request(Memory& memory, long number, const long* a) {
  NewThread t;
  if (number == SYS_clone3) {
    struct {
      std::uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
    } request{};
    if (static_cast<std::size_t>(a[1]) < sizeof request ||
        !read_program(memory, &request, at(static_cast<std::uintptr_t>(a[0]), sizeof request)))
      return t;
    return {request.flags, request.child_tid, request.parent_tid,
            at(request.stack, request.stack_size)};
  }
  // How far it reaches below its top is not told.
  constexpr std::size_t kHeld = std::size_t{256} << 10;
  const auto top = static_cast<std::uintptr_t>(a[1]);
  t.flags = static_cast<std::uint64_t>(a[0]);
  t.childs_word = static_cast<std::uintptr_t>(a[3]);
  t.parents_word = static_cast<std::uintptr_t>(a[2]);
  std::size_t bytes = 0;
  while (top != 0 && bytes < kHeld && memory.is_managed_at(top - bytes - 1) &&
         memory.is_permitted(at(top - bytes - 1, 1), PinFor::kWriting))
    bytes += std::min(kPageSize, top - bytes);
  t.stack = at(top - bytes, bytes);
  return t;
}

// The kernel stores there, and does not say so if it cannot.
void hold_word(Memory& memory, std::uintptr_t word) {
  if (memory.is_managed_at(word)) (void)memory.pin(at(word, sizeof(int)), PinFor::kWriting);
}

}  // namespace

void hold_for_new_thread(Memory& memory, long number, const long* a) {
  const NewThread t = read_request(memory, number, a);
  if ((t.flags & CLONE_VM) == 0) return;
  constexpr std::uint64_t kChilds = CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID;
  if ((t.flags & kChilds) != 0) hold_word(memory, t.childs_word);
  if ((t.flags & (CLONE_PARENT_SETTID | CLONE_PIDFD)) != 0) hold_word(memory, t.parents_word);
  if ((t.flags & (CLONE_SETTLS | CLONE_VFORK)) == 0) is_storage_shared.store(true);
  constexpr std::size_t kMostHeld = std::size_t{8} << 20;
  if (t.stack.length == 0 || !memory.is_managed(t.stack)) return;
  const std::size_t held = std::min(t.stack.length, kMostHeld);
  (void)memory.pin(t.stack.after(t.stack.length - held), PinFor::kWriting);
}

namespace {

// The kernel's handling of a robust list at a thread's death (kernel/futex/core.c: the same steps).
class RobustList {
 public:
  explicit RobustList(Memory& memory)
      : memory_(memory), tid_(static_cast<unsigned>(sys::gettid())) {}

  void handle() {
    robust_list_head* head = nullptr;
    std::size_t length = 0;
    if (sys::call(SYS_get_robust_list, 0, sys::ptr(&head), sys::ptr(&length)) != 0 ||
        head == nullptr || length != sizeof *head)
      return;
    const auto head_at = reinterpret_cast<std::uintptr_t>(head);
    robust_list_head list;
    if (!read_program(memory_, &list, at(head_at, sizeof list))) return;
    offset_ = list.futex_offset;
    auto entry = reinterpret_cast<std::uintptr_t>(list.list.next);
    const auto pending = reinterpret_cast<std::uintptr_t>(list.list_op_pending);
    constexpr unsigned kMost = 2048;  // ROBUST_LIST_LIMIT
    for (unsigned i = 0; i < kMost && (entry & ~kPi) != head_at && (entry & ~kPi) != 0; ++i) {
      std::uintptr_t next = 0;
      const bool could = read_program(memory_, &next, at(entry & ~kPi, sizeof next));
      if ((entry & ~kPi) != (pending & ~kPi)) owner_died(entry);
      if (!could) return;
      entry = next;
    }
    if ((pending & ~kPi) != 0) owner_died(pending);
  }

 private:
  static constexpr std::uintptr_t kPi = 1;

  void owner_died(std::uintptr_t entry) {
    const std::uintptr_t word = (entry & ~kPi) + static_cast<std::uintptr_t>(offset_);
    const Bytes place = at(word, sizeof(std::uint32_t));
    // The kernel finds what is unmanaged; a lock with inheritance is the kernel's to hand on.
    if (!memory_.is_managed(place) || !memory_.is_permitted(place, PinFor::kWriting)) return;
    if ((entry & kPi) != 0) {
      (void)memory_.pin(place, PinFor::kWriting);
      return;
    }
    auto* const futex = reinterpret_cast<std::uint32_t*>(word);  // NOLINT
    std::uint32_t seen = __atomic_load_n(futex, __ATOMIC_RELAXED);
    do {
      if ((seen & FUTEX_TID_MASK) != tid_) return;
    } while (!__atomic_compare_exchange_n(futex, &seen, (seen & FUTEX_WAITERS) | FUTEX_OWNER_DIED,
                                          true, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    // Not private: robust mutexes wait that way.
    if ((seen & FUTEX_WAITERS) != 0) call(SYS_futex, static_cast<long>(word), FUTEX_WAKE, 1);
  }

  Memory& memory_;
  unsigned tid_;
  long offset_ = 0;
};

}  // namespace

void before_exit(Memory& memory) {
  RobustList(memory).handle();
  if (!has_own_storage()) return;
  Scratch::forget_thread();
  hold_programs_stack(memory, Bytes());
  if (own.running.length != 0) memory.unpin(own.running, PinFor::kWriting);
  own.running = Bytes();
  if (own.base == nullptr) return;
  stack_t present{};
  if (kernel_stack(nullptr, &present) != 0 || (present.ss_flags & SS_ONSTACK) != 0) return;
  if (is_ours(present)) {
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    kernel_stack(&none, nullptr);
  }
  mmu::signal_delivery::set_fault_stack({});
  sys::call(SYS_munmap, sys::ptr(own.base), kStackBytes);
  own = OwnStack{nullptr, true, own.tid, {}, {}};
}

}  // namespace buoy::gate::thread
