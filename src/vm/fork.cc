// fork: the gate closes, so that no half-done transition is copied; the child goes on with its
// copy of the metadata, its own registrations and its own budget.

#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

void Vm::close_for_all() {
  if (try_close_for_all()) return;
  volatile_.lock().begin_trying();
  while (!try_close_for_all()) sys::yield();
  volatile_.lock().end_trying();
}

bool Vm::try_close_for_all() {
  context_.gate.close();
  // Never waited for inside: whoever holds it may have a fault to answer first.
  if (volatile_.lock().try_lock_for_all()) return true;
  context_.gate.open();
  return false;
}

void Vm::open_for_all() {
  volatile_.lock().unlock_for_all();
  context_.gate.open();
}

Status Vm::before_fork() {
  close_for_all();
  if (const Status s = context_.mmu->before_fork(); !s) {
    open_for_all();
    return s;
  }
  context_.counters.add(Event::fork_calls);
  context_.swap->before_fork();
  return {};
}

void Vm::after_fork_in_parent() {
  context_.mmu->after_fork_in_parent();
  context_.swap->after_fork_in_parent();
  open_for_all();
}

void Vm::wait_for_handlers() { context_.gate.wait_until_empty(); }

Status Vm::after_fork_in_child() {
  context_.gate.after_fork_in_child();
  context_.budget.after_fork_in_child();
  reclaimer_.after_fork_in_child();
  context_.swap->after_fork_in_child();
  const Status status = context_.mmu->after_fork_in_child();
  if (!status) return status;
  // Store traps do not survive the fork. A lazily freed page gets its trap again; a clean one
  // becomes ordinary, its compressed copy goes; droppable memory is wiped.
  bool wiped = true;
  context_.table.for_each_leaf([this, &wiped](Leaf& leaf) {
    context_.lru.after_fork_in_child_release(leaf);
    leaf.waiters.store(0, std::memory_order_relaxed);
    LockedLeaf locked(context_, leaf);
    if (locked.region().is(RegionFlags::kDroppable)) {
      for (const LeafRange mapped :
           runs_where(leaf, LeafRange::whole(), [](Pte p) { return p.state() != PteState::kHole; }))
        wiped = wiped && locked.forget(mapped, PteState::kEmpty).complete();
      return;
    }
    for (const LeafRange clean :
         runs_where(leaf, LeafRange::whole(), [](Pte p) { return p.state() == PteState::kClean; }))
      (void)locked.allow_stores(clean);
    for (const LeafRange trapped : runs_where(leaf, LeafRange::whole(), [](Pte p) {
           return p.state() == PteState::kLazyFree && !p.has(Pte::kIdle);
         }))
      locked.trap_again(trapped);
  });
  if (Status s = keep_promises_in_child(); !s) return s;
  // What the child must not see it shall not run with.
  if (!wiped) return Error{EPERM};
  context_.counters.reset();
  // What is lazily freed now counts as marked here: the identity of validate() holds anew.
  context_.counters.add(Event::pglazyfree, context_.lazyfree_pages());
  volatile_.after_fork_in_child();
  context_.counters.add(Event::pgvolatile, volatile_.volatile_pages().value());
  context_.notifier.after_fork_in_child();
  open_for_all();
  return {};
}

}  // namespace buoy
