// Holding pages in place: pins (for devices and system calls) and locks (mlock); and telling
// where pages are.

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

namespace {
// How often a page may slip away between being brought in and being held.
constexpr unsigned kMostTries = 1000;
}  // namespace

Status Vm::pin(PageRun run, PinFor purpose) {
  if (mapped_prefix(run) != run.count) return Error{ENOMEM};
  // A pin that can never fit must not push everything else out first.
  if (run.count + PageCount(kPagesPerBlock) > context_.budget.limit() - context_.budget.reserve())
    return Error{EAGAIN};
  const SignalBlock signals;
  PageCount done;
  Status result;
  while (done < run.count && result.ok()) {
    const Vpn at = run.first + done;
    const unsigned i = at.in_block();
    for (unsigned tries = 0;; ++tries) {
      {
        const GatePass pass(context_.gate);
        Leaf* leaf = context_.table.find_leaf(at);
        if (leaf != nullptr) {
          LockedLeaf locked(context_, *leaf);
          const Pte p = locked.get(i);
          const bool ready =
              p.is_at_address() && (purpose == PinFor::kReading || p.state() == PteState::kMapped);
          if (locked.is_of(at) && ready) {
            if (p.pins() == Pte::kMaxPins) {
              result = Error{EAGAIN};
            } else {
              locked.set(i, p.with_pins(p.pins() + 1));
              done += PageCount(1);
            }
            break;
          }
        }
      }
      result = make_resident(at, purpose == PinFor::kWriting);
      if (result.ok() && tries == kMostTries) result = Error{EAGAIN};
      if (!result.ok()) break;
    }
  }
  if (!result.ok() && !done.is_zero()) (void)unpin({run.first, done}, Dirtied::kNo);
  return result;
}

Status Vm::unpin(PageRun run, Dirtied dirtied) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  // Nothing is changed unless every page is pinned.
  for (Vpn at = run.first; at < run.end(); ++at) {
    const Leaf* leaf = context_.table.find_leaf(at);
    if (leaf == nullptr || leaf->get(at.in_block()).pins() == 0) return Error{EINVAL};
  }
  for (Vpn at = run.first; at < run.end(); ++at) {
    Leaf* leaf = context_.table.find_leaf(at);
    if (leaf == nullptr) continue;
    const unsigned i = at.in_block();
    LockedLeaf locked(context_, *leaf);
    if (!locked.is_of(at)) continue;
    if (dirtied == Dirtied::kYes && locked.get(i).traps_stores()) locked.dirty(i);
    const Pte p = locked.get(i);
    if (p.pins() != 0) locked.set(i, p.with_pins(p.pins() - 1));
  }
  return {};
}

Status Vm::lock(PageRun run, bool on_fault_only) {
  const PageCount mapped = mapped_prefix(run);
  const SignalBlock signals;
  {
    // What may be purged cannot be kept. Marks to come will ask anew whether they find locks.
    const MarksPass pass(context_.gate, volatile_.lock());
    if (volatile_.has_marks(run)) return Error{EINVAL};
    if (Status s = volatile_.prepare(); !s) return s;
    volatile_.forget(run);
  }
  for (Vpn at = run.first; at < run.first + mapped; ++at) {
    bool droppable = false;
    {
      const GatePass pass(context_.gate);
      Leaf* leaf = context_.table.find_or_make_leaf(at);
      if (leaf == nullptr) return Error{ENOMEM};
      LockedLeaf locked(context_, *leaf);
      const unsigned i = at.in_block();
      // What may be dropped at any time cannot be kept: the kernel says yes to that, and does nothing.
      droppable = locked.is_of(at) && locked.region().is(RegionFlags::kDroppable);
      if (locked.is_of(at) && locked.get(i).state() != PteState::kHole && !droppable)
        locked.set(i, locked.get(i).with(Pte::kLocked));
    }
    if (on_fault_only || droppable) continue;
    const Leaf* leaf = context_.table.find_leaf(at);
    if (leaf != nullptr && !leaf->get(at.in_block()).is_at_address())
      if (Status s = make_resident(at, false); !s) {
        (void)unlock({run.first, at - run.first + PageCount(1)});
        return Error{ENOMEM};
      }
  }
  if (mapped != run.count) return Error{ENOMEM};
  return {};
}

Status Vm::unlock(PageRun run) {
  const PageCount mapped = mapped_prefix(run);
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  context_.table.for_each_leaf_in({run.first, mapped}, [this](Leaf& leaf, PageRun part) {
    LockedLeaf locked(context_, leaf);
    if (!locked.is_of(part.first)) return true;
    const unsigned begin = part.first.in_block();
    const auto end = begin + static_cast<unsigned>(part.count.value());
    for (unsigned i = begin; i < end; ++i)
      if (locked.get(i).has(Pte::kLocked)) locked.set(i, locked.get(i).without(Pte::kLocked));
    return true;
  });
  return mapped == run.count ? Status() : Status(Error{ENOMEM});
}

Residency Vm::residency_of(Pte p) const {
  switch (p.state()) {
    case PteState::kMapped:
    case PteState::kClean:
      return Residency::kMapped;
    case PteState::kLazyFree:
    case PteState::kLazyAway:
      return Residency::kLazyFree;
    case PteState::kStandby:
      return Residency::kStandby;
    case PteState::kLoading:
      return Residency::kBacked;
    case PteState::kSwapped:
      return context_.swap->is_backed(p.entry()) ? Residency::kBacked : Residency::kCompressed;
    case PteState::kPurged:
      return Residency::kPurged;
    case PteState::kHole:
    case PteState::kEmpty:
    case PteState::kCount:
      break;
  }
  return Residency::kEmpty;
}

Status Vm::residency_in_block(PageRun part, unsigned char* values) {
  const std::uint64_t n = part.count.value();
  Leaf* leaf = context_.table.find_leaf(part.first);
  if (leaf == nullptr) {
    const Guard guard(context_.table.region_lock());
    if (mapped_prefix_locked(part) != part.count) return Error{ENOMEM};
    std::fill_n(values, n, static_cast<unsigned char>(Residency::kEmpty));
    return {};
  }
  // Locked, or a handler thread that the caller has just been served by may not have noted it.
  const Guard guard(leaf->lock);
  for (std::uint64_t k = 0; k < n; ++k) {
    const Pte p = leaf->get(part.first.in_block() + static_cast<unsigned>(k));
    if (p.state() == PteState::kHole) return Error{ENOMEM};
    values[k] = static_cast<unsigned char>(residency_of(p));
  }
  return {};
}

Status Vm::residency(PageRun run, unsigned char* vec) {
  for (PageCount done; done < run.count;) {
    // Collected here first: `vec` may itself be managed memory, and fault.
    unsigned char values[kPagesPerBlock];
    const Vpn first = run.first + done;
    const PageCount n(
        std::min<std::uint64_t>(kPagesPerBlock - first.in_block(), (run.count - done).value()));
    {
      const SignalBlock signals;
      const GatePass pass(context_.gate);
      if (Status s = residency_in_block({first, n}, values); !s) return s;
    }
    {
      const SignalBlock signals;
      const MarksPass pass(context_.gate, volatile_.lock());
      volatile_.for_each_volatile({first, n}, [&](PageRun part) {
        for (Vpn at = part.first; at < part.end(); ++at)
          values[(at - first).value()] |= kResidencyVolatile;
      });
    }
    std::copy_n(values, n.value(), vec + done.value());
    done += n;
  }
  return {};
}

}  // namespace buoy
