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
  const SignalBlock signals;
  // A pin that can never fit must not push everything else out first.
  if (!fits_held(run.count)) return Error{EAGAIN};
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
          auto locked = LockedLeaf::try_lock(context_, *leaf, at);
          const Pte p = locked ? locked->get(i) : Pte();
          if (p.is_at_address() &&
              (purpose == PinFor::kReading || p.state() == PteState::kMapped)) {
            if (locked->pin(i))
              done += PageCount(1);
            else
              result = Error{EAGAIN};
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
    auto locked = LockedLeaf::try_lock(context_, *leaf, at);
    if (!locked) continue;
    if (dirtied == Dirtied::kYes && locked->get(i).traps_stores()) locked->dirty(i);
    locked->unpin(i);
  }
  return {};
}

// As the kernel does it: first all that is mapped up to a hole is marked, then, if there was none, it
// is made resident, up to the first page that the program may not touch.
Status Vm::lock(PageRun run, bool on_fault_only) {
  const PageRun mapped{run.first, mapped_prefix(run)};
  // What can never fit is not begun, be it terabytes.
  if (!on_fault_only && mapped.count > context_.budget.limit()) return Error{ENOMEM};
  const SignalBlock signals;
  {
    // What may be purged cannot be kept. Marks to come will ask anew whether they find locks.
    const MarksPass pass(context_.gate, volatile_.lock());
    if (volatile_.has_marks(run)) return Error{EINVAL};
    if (Status s = volatile_.prepare(); !s) return s;
    volatile_.forget(run);
  }
  for (Vpn at = mapped.first; at < mapped.end();) {
    const PageRun part = part_in_block({at, mapped.end() - at});
    const GatePass pass(context_.gate);
    Leaf* leaf = context_.table.find_or_make_leaf(at);
    if (leaf == nullptr) return Error{ENOMEM};
    if (auto locked = LockedLeaf::try_lock(context_, *leaf, at))
      mark_locked(*locked, LeafRange::of(part));
    at = part.end();
  }
  if (mapped.count != run.count) return Error{ENOMEM};
  if (on_fault_only) return {};
  const PageRun permitted{run.first, permitted_prefix(run, PinFor::kReading)};
  for (Vpn at = permitted.first; at < permitted.end(); ++at) {
    const Leaf* leaf = context_.table.find_leaf(at);
    if (leaf == nullptr) continue;
    const Pte p = leaf->get(at.in_block());
    if (!p.has(Pte::kLocked) || p.is_at_address()) continue;
    if (Status s = make_resident(at, false); !s) {
      (void)unlock(run);
      return Error{ENOMEM};
    }
  }
  return permitted.count == run.count ? Status() : Status(Error{ENOMEM});
}

// What may be dropped at any time cannot be kept: the kernel says yes to that, and does nothing.
void Vm::mark_locked(LockedLeaf& locked, LeafRange range) {
  if (locked.region().is(RegionFlags::kDroppable)) return;
  for (unsigned i = range.first; i < range.end; ++i)
    if (locked.get(i).state() != PteState::kHole) locked.mlock(i);
}

Status Vm::unlock(PageRun run) {
  const PageCount mapped = mapped_prefix(run);
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  for_each_locked_leaf(context_, {run.first, mapped}, [](LockedLeaf& locked, LeafRange range) {
    locked.munlock(range);
    return true;
  });
  return mapped == run.count ? Status() : Status(Error{ENOMEM});
}

// ---- Everything -------------------------------------------------------------------------------

namespace {
// Every page that a program can have.
constexpr PageRun kEverywhere{Vpn(1), PageCount((std::uint64_t{1} << 35) - 1)};

bool has_contents(Pte p) {
  const PteState s = p.state();
  return s == PteState::kMapped || s == PteState::kClean || s == PteState::kStandby ||
         s == PteState::kSwapped || s == PteState::kLoading;
}
}  // namespace

PageCount Vm::lockable_pages() {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  std::uint64_t n = 0;
  for (const auto [region, part] : context_.table.regions_in(kEverywhere)) {
    if (region.is(RegionFlags::kDroppable)) continue;  // the kernel does not lock it either
    if (region.is(RegionFlags::kOwnersPromise))
      context_.table.for_each_leaf_in(part, [&n](Leaf& leaf, PageRun pages) {
        const LeafRange range = LeafRange::of(pages);
        for (unsigned i = range.first; i < range.end; ++i) n += has_contents(leaf.get(i)) ? 1 : 0;
        return true;
      });
    else
      region.extents.for_each_in(part, [&n](PageRun run, mmu::Access access) {
        if (access != mmu::Access::kNone) n += run.count.value();
      });
  }
  return PageCount(n);
}

Vm::Lockable Vm::next_lockable(Vpn at) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  Lockable found;
  for (const auto [region, part] : context_.table.regions_in({at, kEverywhere.end() - at})) {
    if (region.is(RegionFlags::kDroppable)) continue;
    found.has_owner = region.is(RegionFlags::kOwnersPromise);
    region.extents.for_each_in(part, [&found](PageRun run, mmu::Access access) {
      if (access != mmu::Access::kNone && found.run.count.is_zero()) found.run = run;
    });
    if (!found.run.count.is_zero()) break;
  }
  return found;
}

Status Vm::lock_contents(PageRun run, bool on_fault_only) {
  for (Vpn at = run.first; at < run.end();) {
    const PageRun part = part_in_block({at, run.end() - at});
    at = part.end();
    const Leaf* leaf = context_.table.find_leaf(part.first);
    if (leaf == nullptr) continue;
    const LeafRange range = LeafRange::of(part);
    for (unsigned i = range.first; i < range.end; ++i)
      if (has_contents(leaf->get(i)))
        if (Status s = lock({part.first + PageCount(i - range.first), PageCount(1)}, on_fault_only);
            !s)
          return s;
  }
  return {};
}

bool Vm::fits_held(PageCount count) {
  for (;;) {
    // Something must be left to work in.
    const PageCount most = context_.budget.limit() - context_.budget.reserve();
    if (count + PageCount(kPagesPerBlock) <= most) return true;
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    if (!reclaimer_.find_more_room()) return false;
  }
}

Status Vm::lock_all(bool on_fault_only) {
  if (!fits_held(lockable_pages())) return Error{ENOMEM};
  for (Lockable next = next_lockable(kEverywhere.first); !next.run.count.is_zero();
       next = next_lockable(next.run.end())) {
    const Status s =
        next.has_owner ? lock_contents(next.run, on_fault_only) : lock(next.run, on_fault_only);
    // Unmapped or marked volatile meanwhile, it is not there to be locked.
    if (s.ok() || s.code() == EINVAL || mapped_prefix(next.run) != next.run.count) continue;
    unlock_all();
    return s;
  }
  return {};
}

void Vm::unlock_all() {
  if (context_.held_pages.load(std::memory_order_relaxed) == 0) return;
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  for_each_locked_leaf(context_, kEverywhere, [](LockedLeaf& locked, LeafRange range) {
    locked.munlock(range);
    return true;
  });
}

PageCount Vm::unlocked_prefix(PageRun run) const {
  if (context_.held_pages.load(std::memory_order_relaxed) == 0) return run.count;
  PageCount unlocked = run.count;
  context_.table.for_each_leaf_in(run, [&](Leaf& leaf, PageRun part) {
    const LeafRange range = LeafRange::of(part);
    const unsigned n = run_length(leaf, range, [](Pte p) { return !p.has(Pte::kLocked); });
    if (n == range.size()) return true;
    unlocked = part.first + PageCount(n) - run.first;
    return false;
  });
  return unlocked;
}

bool Vm::has_mlocked(PageRun run) { return has_locked(run) || context_.mmu->is_mlocked(run); }

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
    const PageCount n = part_in_block({first, run.count - done}).count;
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
