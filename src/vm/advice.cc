// Advice: what the program says about ranges. Each follows madvise(2): holes do not stop it, the
// rest is done, and ENOMEM says that there were some.

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"
#include "vm/window.h"

namespace buoy {

template <typename Body>
bool Vm::for_each_mapped_leaf(PageRun run, Body body) {
  bool whole = true;
  for (Vpn at = run.first; at < run.end();) {
    const Vpn next = std::min(run.end(), at.block_start() + PageCount(kPagesPerBlock));
    const PageRun part{at, next - at};
    at = next;
    Leaf* leaf = context_.table.find_leaf(part.first);
    if (leaf == nullptr) {
      // Never touched: nothing to do but to ask whether it is mapped.
      const Guard guard(context_.table.region_lock());
      const Region* region = context_.table.find_region(part.first);
      if (region == nullptr || !region->extents.covers(part)) whole = false;
      continue;
    }
    const unsigned begin = part.first.in_block();
    const auto end = begin + static_cast<unsigned>(part.count.value());
    for (unsigned i = begin; i < end; ++i)
      if (leaf->get(i).state() == PteState::kHole) whole = false;
    body(*leaf, part.first, begin, end);
  }
  return whole;
}

namespace {
Status mapped_or_hole(bool whole) {
  if (whole) return {};
  return Error{ENOMEM};
}
}  // namespace

Status Vm::discard(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  bool locked_pages = false;
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        LockedLeaf locked(context_, leaf);
        if (!locked.is_of(at)) return;
        locked.wait_until_quiet(begin, end);
        if (!locked.is_of(at)) return;
        for_each_run(
            leaf, begin, end,
            [](Pte p) { return p.state() != PteState::kHole && !p.has(Pte::kLocked); },
            [&](unsigned first, unsigned n) {
              if (!locked.forget(first, first + n, PteState::kEmpty)) locked_pages = true;
            });
        for (unsigned i = begin; i < end; ++i)
          if (leaf.get(i).has(Pte::kLocked)) locked_pages = true;
      });
  if (locked_pages) return Error{EINVAL};
  return mapped_or_hole(whole);
}

namespace {
// A pinned page stays ordinary: a trap would fail the system call it is pinned for.
bool may_be_freed(Pte p) {
  return (p.state() == PteState::kMapped || p.state() == PteState::kClean) && !p.is_held();
}
bool is_idle(Pte p) { return p.state() == PteState::kLazyFree && p.has(Pte::kIdle); }
}  // namespace

Status Vm::free_lazily(PageRun run, Until until) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  bool locked_pages = false;
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        LockedLeaf locked(context_, leaf);
        if (!locked.is_of(at)) return;
        locked.wait_until_quiet(begin, end);
        if (!locked.is_of(at)) return;
        for (unsigned i = begin; i < end && leaf.held != 0; ++i)
          if (leaf.get(i).has(Pte::kLocked)) locked_pages = true;
        const unsigned cut = split_at(leaf, begin, end);
        if (cut != 0) context_.counters.add(Event::folio_split, cut);
        // What is only a copy of contents that may vanish goes at once.
        locked.drop_stale_shadows(begin, end);
        for_each_run(
            leaf, begin, end,
            [](Pte p) {
              return (p.state() == PteState::kStandby || p.state() == PteState::kSwapped ||
                      p.state() == PteState::kPurged) &&
                     !p.is_held();
            },
            [&](unsigned first, unsigned n) {
              (void)locked.forget(first, first + n, PteState::kEmpty);
              context_.counters.add(Event::pglazyfree, n);
              context_.counters.add(Event::pglazyfreed, n);
            });
        if (until == Until::kReuse) {
          for_each_run(leaf, begin, end, may_be_freed, [&](unsigned first, unsigned n) {
            locked.free_idle(first, n);
            context_.counters.add(Event::pglazyfree, n);
          });
          return;
        }
        for_each_run(leaf, begin, end, is_idle,
                     [&](unsigned first, unsigned n) { locked.reuse_idle(first, n); });
        note_marked(leaf);
        if (begin == 0 && end == kPagesPerBlock) {
          const unsigned marked = locked.free_block_lazily();
          if (marked != 0) {
            context_.counters.add(Event::pglazyfree, marked);
            return;
          }
        }
        for_each_run(leaf, begin, end, may_be_freed, [&](unsigned first, unsigned n) {
          const unsigned marked = locked.trap_stores_lazily(first, n);
          context_.counters.add(Event::pglazyfree, marked);
        });
      });
  if (locked_pages) return Error{EINVAL};
  return mapped_or_hole(whole);
}

Status Vm::reuse(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        LockedLeaf locked(context_, leaf);
        if (!locked.is_of(at)) return;
        for_each_run(leaf, begin, end, is_idle,
                     [&](unsigned first, unsigned n) { locked.reuse_idle(first, n); });
        for_each_run(
            leaf, begin, end, [](Pte p) { return p.state() == PteState::kLazyAway; },
            [&](unsigned first, unsigned n) { (void)locked.give_back(first, n); });
        for_each_run(
            leaf, begin, end, [](Pte p) { return p.traps_stores(); },
            [&](unsigned first, unsigned n) { (void)locked.allow_stores(first, n); });
      });
  return mapped_or_hole(whole);
}

Status Vm::cold(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        {
          LockedLeaf locked(context_, leaf);
          if (!locked.is_of(at)) return;
          for (unsigned i = begin; i < end; ++i)
            if (leaf.get(i).is_at_address()) locked.set(i, leaf.get(i).with(Pte::kCold));
        }
        // To the oldest end, so that reclaim comes here first.
        if (context_.lru.isolate(leaf)) {
          LockedLeaf locked(context_, leaf);
          context_.lru.put_back(leaf, lists_for(leaf), Lru::bit(LeafList::kResident));
        }
      });
  return mapped_or_hole(whole);
}

Status Vm::page_out(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        bool more = false;
        {
          LockedLeaf locked(context_, leaf);
          if (!locked.is_of(at)) return;
          (void)locked.discard_by_reclaim(begin, end, locked.region().is(RegionFlags::kDroppable));
          for (unsigned i = begin; i < end && !more; ++i) more = leaf.get(i).frames() != 0;
        }
        if (more) (void)reclaimer_.page_out(leaf, {at, PageCount(end - begin)});
      });
  return mapped_or_hole(whole);
}

Status Vm::will_need(PageRun run) {
  bool whole = true;
  {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    whole = for_each_mapped_leaf(run, [](Leaf&, Vpn, unsigned, unsigned) {});
  }
  // Only as far as the budget has room: bringing in must not push out.
  for (Vpn at = run.first; at < run.end(); ++at) {
    const Leaf* leaf = context_.table.find_leaf(at);
    if (leaf == nullptr) continue;
    const PteState s = leaf->get(at.in_block()).state();
    if (s != PteState::kSwapped && s != PteState::kStandby) continue;
    if (context_.budget.is_below_low()) break;
    const SignalBlock signals;
    (void)make_resident(at, false);
  }
  return mapped_or_hole(whole);
}

}  // namespace buoy
