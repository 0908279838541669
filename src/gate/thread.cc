#include "gate/thread.h"

#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/parts.h"
#include "gate/scratch.h"

namespace buoy::gate::thread {

namespace {

// Room for the frames of all signals that may arrive at once, and a fault on top.
constexpr std::size_t kStackBytes = std::size_t{256} << 10;

constexpr int kDisarms = static_cast<int>(1U << 31);  // SS_AUTODISARM
constexpr std::size_t kSmallest = 2048;               // the kernel's MINSIGSTKSZ

struct OwnStack {
  std::byte* base = nullptr;
  bool is_prepared = false;
  int tid = 0;
  stack_t programs{nullptr, SS_DISABLE, 0};  // the alternate stack that the program has set
  Bytes running;  // of a stack in managed memory, the part in use, held in place
};
thread_local constinit OwnStack own;
// Has a thread been made that uses its maker's storage?
constinit std::atomic<bool> is_storage_shared{false};

Bytes at(std::uintptr_t address, std::size_t length) { return {address, length}; }

long kernel_stack(const stack_t* fresh, stack_t* old) {
  return sys::call(SYS_sigaltstack, sys::ptr(fresh), sys::ptr(old));
}

// Tops of stacks that are held until the threads that begin there have a stack of ours. One for which
// there is no place is held for good.
constexpr std::size_t kBeginnings = 64;
struct Beginning {
  std::atomic<std::uintptr_t> top{0};
  std::atomic<std::size_t> length{0};
};
constinit Beginning beginnings[kBeginnings];

void note_beginning(Bytes stack) {
  for (Beginning& b : beginnings) {
    std::uintptr_t none = 0;
    if (!b.top.compare_exchange_strong(none, 1)) continue;
    b.length.store(stack.length);
    b.top.store(stack.address + stack.length);
    return;
  }
}

void let_go_of_beginning(Memory& memory, std::uintptr_t sp) {
  for (Beginning& b : beginnings) {
    std::uintptr_t top = b.top.load(std::memory_order_acquire);
    const std::size_t length = b.length.load();
    if (top <= sp || top - sp > length || !b.top.compare_exchange_strong(top, 1)) continue;
    memory.unpin(at(top - length, length), PinFor::kWriting);
    b.top.store(0);
    return;
  }
}

}  // namespace

void prepare(Memory& memory) {
  if (own.is_prepared) return;
  own.is_prepared = true;
  own.tid = sys::gettid();
  const long got = sys::call(SYS_mmap, 0, kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (got < 0) return;
  auto* const base = reinterpret_cast<std::byte*>(got);  // NOLINT(performance-no-int-to-ptr)
  const stack_t fresh{base, 0, kStackBytes};
  stack_t present{};
  if (kernel_stack(&fresh, &present) != 0) {  // in a handler on a stack that the program has set
    sys::call(SYS_munmap, got, kStackBytes);
    return;
  }
  own.base = base;
  own.programs = present;
  let_go_of_beginning(memory, reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)));
}

std::span<std::byte> own_stack() { return {own.base, own.base == nullptr ? 0 : kStackBytes}; }

bool is_on_own_stack(std::uintptr_t sp) {
  const auto base = reinterpret_cast<std::uintptr_t>(own.base);
  return base != 0 && sp > base && sp - base <= kStackBytes;
}

stack_t alternate_stack() { return own.programs; }

void note_handler_entered() {
  if ((own.programs.ss_flags & kDisarms) != 0) own.programs = {nullptr, SS_DISABLE, 0};
}

namespace {

bool is_on_alternate_stack(std::uintptr_t sp) {
  const auto base = reinterpret_cast<std::uintptr_t>(own.programs.ss_sp);
  return (own.programs.ss_flags & (SS_DISABLE | kDisarms)) == 0 && sp > base &&
         sp - base <= own.programs.ss_size;
}

// The kernel's sigaltstack(2): the same checks in the same order (kernel/signal.c).
long check_alternate_stack(const stack_t& fresh, std::uintptr_t sp) {
  const int mode = fresh.ss_flags & ~kDisarms;
  if (is_on_alternate_stack(sp)) return -EPERM;
  if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0) return -EINVAL;
  if (mode != SS_DISABLE && fresh.ss_size < kSmallest) return -ENOMEM;
  return 0;
}

void set_programs_stack(const stack_t& fresh) {
  own.programs = fresh;
  if ((fresh.ss_flags & SS_DISABLE) != 0) own.programs = {nullptr, fresh.ss_flags, 0};
  own.programs.ss_flags &= ~SS_ONSTACK;
}

}  // namespace

void restore_alternate_stack(const stack_t& before, std::uintptr_t sp) {
  if (check_alternate_stack(before, sp) == 0) set_programs_stack(before);
}

bool has_own_storage() {
  return !is_storage_shared.load(std::memory_order_relaxed) || own.tid == sys::gettid();
}

void after_fork_in_child() {
  if (own.is_prepared) own.tid = sys::gettid();
}

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

namespace {

// A thread without storage of its own has in the kernel what it has set. It stays in place.
long set_kernels_stack(Memory& memory, const stack_t* fresh, stack_t* present) {
  const bool is_set = fresh != nullptr && (fresh->ss_flags & SS_DISABLE) == 0;
  const Bytes stack =
      is_set ? at(reinterpret_cast<std::uintptr_t>(fresh->ss_sp), fresh->ss_size) : Bytes();
  const bool is_held = is_set && memory.is_managed(stack);
  if (is_held && memory.pin(stack, PinFor::kWriting) == Had::kFull) return -ENOMEM;
  const long rc = kernel_stack(fresh, present);
  if (rc != 0 && is_held) memory.unpin(stack, PinFor::kWriting);
  return rc;
}

}  // namespace

long set_alternate_stack(Memory& memory, const long* a, std::uintptr_t sp) {
  stack_t fresh{};
  stack_t present{};
  const auto wanted = static_cast<std::uintptr_t>(a[0]);
  const auto told = static_cast<std::uintptr_t>(a[1]);
  if (wanted != 0 && !read_program(memory, &fresh, at(wanted, sizeof fresh))) return -EFAULT;
  if (own.base == nullptr || !has_own_storage()) {
    const long rc = set_kernels_stack(memory, wanted != 0 ? &fresh : nullptr, &present);
    if (rc != 0) return rc;
  } else {
    present = own.programs;
    if (is_on_alternate_stack(sp)) present.ss_flags |= SS_ONSTACK;
    if (wanted != 0) {
      if (const long rc = check_alternate_stack(fresh, sp); rc != 0) return rc;
      set_programs_stack(fresh);
    }
  }
  if (told == 0) return 0;
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
  if ((t.flags & CLONE_VFORK) != 0) return;
  const bool has_storage = (t.flags & CLONE_SETTLS) != 0;
  if (!has_storage) is_storage_shared.store(true);
  if (t.stack.length == 0 || !memory.is_managed(t.stack)) return;
  // Without storage of its own it never has a stack of ours: all of its own has to stay.
  const std::size_t most = std::size_t{has_storage ? 64U : 8192U} << 10;
  const Bytes held = t.stack.after(t.stack.length - std::min(t.stack.length, most));
  if (memory.pin(held, PinFor::kWriting) == Had::kFull) return;
  if (has_storage) note_beginning(held);
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
  if (own.running.length != 0) memory.unpin(own.running, PinFor::kWriting);
  own.running = Bytes();
  if (own.base == nullptr) return;
  stack_t none{};
  none.ss_flags = SS_DISABLE;
  if (kernel_stack(&none, nullptr) != 0) return;
  sys::call(SYS_munmap, sys::ptr(own.base), kStackBytes);
  own = OwnStack{nullptr, true, own.tid, {nullptr, SS_DISABLE, 0}, {}};
}

}  // namespace buoy::gate::thread
