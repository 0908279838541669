// Advice: what the program says about ranges. Each follows madvise(2): holes do not stop it, the
// rest is done, and ENOMEM says that there were some; what takes memory away stops at the first
// locked page, with EINVAL.

#include <algorithm>
#include <bit>
#include <cerrno>

#include "base/signals.h"
#include "pagetable/folio.h"
#include "vm/vm.h"
#include "vm/window.h"

namespace buoy {

template <typename Body>
bool Vm::for_each_mapped_leaf(PageRun run, Body body) {
  bool whole = true;
  Vpn at = run.first;
  // Never touched, up to `end`: nothing to do but to ask whether it is mapped.
  const auto pass_over = [&](Vpn end) {
    if (at == end || !whole) return;
    const Guard guard(context_.table.region_lock());
    whole = mapped_prefix_locked({at, end - at}) == end - at;
  };
  bool is_ended = false;
  context_.table.for_each_leaf_in(run, [&](Leaf& leaf, PageRun part) {
    pass_over(part.first);
    at = part.end();
    const unsigned begin = part.first.in_block();
    const auto end = begin + static_cast<unsigned>(part.count.value());
    for (unsigned i = begin; i < end; ++i)
      if (leaf.get(i).state() == PteState::kHole) whole = false;
    is_ended = !body(leaf, part.first, begin, end);
    return !is_ended;
  });
  if (!is_ended) pass_over(run.end());
  return whole;
}

namespace {
Status mapped_or_hole(bool whole) {
  if (whole) return {};
  return Error{ENOMEM};
}
// The first page of [begin, end) that the program has locked; `end` if there is none.
unsigned first_locked(LockedLeaf& locked, unsigned begin, unsigned end) {
  if (locked.held() == 0) return end;
  return begin + run_length(locked.leaf(), begin, end, [](Pte p) { return !p.has(Pte::kLocked); });
}
}  // namespace

Status Vm::discard(PageRun run, LockedPages locked_pages) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  bool met_locked = false;
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        LockedLeaf locked(context_, leaf);
        if (!locked.is_of(at)) return true;
        locked.wait_until_quiet(begin, end);
        if (!locked.is_of(at)) return true;
        const unsigned last =
            locked_pages == LockedPages::kToo ? end : first_locked(locked, begin, end);
        met_locked = last != end;
        locked.split_folios(begin, last, Event::folio_split);
        for_each_run(
            leaf, begin, last, [](Pte p) { return p.state() != PteState::kHole; },
            [&](unsigned first, unsigned n) {
              if (!locked.forget(first, first + n, PteState::kEmpty)) met_locked = true;
            });
        return !met_locked;
      });
  if (met_locked) return Error{EINVAL};
  return mapped_or_hole(whole);
}

namespace {
// A pinned page stays ordinary: a trap would fail the system call it is pinned for.
bool may_be_freed(Pte p) {
  return (p.state() == PteState::kMapped || p.state() == PteState::kClean) && !p.is_held();
}
bool is_lazily_freed(Pte p) {
  return p.state() == PteState::kLazyFree || p.state() == PteState::kLazyAway;
}

// The folios that a range covers only in part, while the range is lazily freed. They are not split:
// that waits until reclaim wants the part, which may never be. Counts those that begin to wait.
class PartialFrees {
 public:
  PartialFrees(const Leaf& leaf, unsigned begin, unsigned end, Counters& counters)
      : leaf_(leaf), counters_(counters) {
    if (cut_folios(leaf, begin, end) == 0) return;
    add(folio_of(leaf, begin), begin, end);
    if (folio_of(leaf, end - 1).first != folio_of(leaf, begin).first)
      add(folio_of(leaf, end - 1), begin, end);
  }
  ~PartialFrees() {
    unsigned begin_to_wait = 0;
    for (unsigned k = 0; k < n_; ++k)
      if (is_free_in_part(folios_[k])) ++begin_to_wait;
    if (begin_to_wait != 0) counters_.add(Event::folio_split_deferred, begin_to_wait);
  }
  PartialFrees(const PartialFrees&) = delete;
  PartialFrees& operator=(const PartialFrees&) = delete;

 private:
  void add(Folio folio, unsigned begin, unsigned end) {
    const bool is_cut = folio.first < begin || folio.end() > end;
    if (is_cut && !is_free_in_part(folio)) folios_[n_++] = folio;
  }
  [[nodiscard]] bool is_free_in_part(Folio folio) const {
    bool is_free = false;
    bool is_kept = false;
    for (unsigned i = folio.first; i < folio.end(); ++i) {
      const Pte p = leaf_.get(i);
      is_free = is_free || is_lazily_freed(p);
      is_kept = is_kept || (!is_lazily_freed(p) && (p.frames() != 0 || !p.entry().is_none()));
    }
    return is_free && is_kept;
  }

  const Leaf& leaf_;
  Counters& counters_;
  Folio folios_[2];
  unsigned n_ = 0;
};

bool may_be_idle(Pte p) { return may_be_freed(p) || p.state() == PteState::kEmpty; }
bool is_idle(Pte p) { return p.has(Pte::kIdle); }
}  // namespace

Status Vm::free_lazily(PageRun run, Until until) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  bool met_locked = false;
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        LockedLeaf locked(context_, leaf);
        if (!locked.is_of(at)) return true;
        locked.wait_until_quiet(begin, end);
        if (!locked.is_of(at)) return true;
        const unsigned last = first_locked(locked, begin, end);
        met_locked = last != end;
        free_lazily(locked, begin, last, until);
        return !met_locked;
      });
  if (met_locked) return Error{EINVAL};
  return mapped_or_hole(whole);
}

// No page of the range is locked.
void Vm::free_lazily(LockedLeaf& locked, unsigned begin, unsigned end, Until until) {
  Leaf& leaf = locked.leaf();
  const PartialFrees partial(leaf, begin, end, context_.counters);
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
    for_each_run(leaf, begin, end, may_be_idle, [&](unsigned first, unsigned n) {
      context_.counters.add(Event::pglazyfree, locked.free_idle(first, n));
    });
    return;
  }
  for_each_run(leaf, begin, end, is_idle,
               [&](unsigned first, unsigned n) { locked.reuse_idle(first, n); });
  note_marked(leaf);
  unsigned marked = 0;
  if (begin == 0 && end == kPagesPerBlock) marked += locked.free_block_lazily();
  for_each_run(leaf, begin, end, may_be_freed, [&](unsigned first, unsigned n) {
    marked += context_.pins == mmu::Pins::kKnown ? locked.trap_stores_lazily(first, n)
                                                 : locked.take_lazily(first, n);
  });
  context_.counters.add(Event::pglazyfree, marked);
}

Status Vm::reuse(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        LockedLeaf locked(context_, leaf);
        if (!locked.is_of(at)) return true;
        for_each_run(leaf, begin, end, is_idle,
                     [&](unsigned first, unsigned n) { locked.reuse_idle(first, n); });
        for_each_run(
            leaf, begin, end, [](Pte p) { return p.state() == PteState::kLazyAway; },
            [&](unsigned first, unsigned n) { (void)locked.give_back(first, n); });
        for_each_run(
            leaf, begin, end, [](Pte p) { return p.traps_stores(); },
            [&](unsigned first, unsigned n) { (void)locked.allow_stores(first, n); });
        return true;
      });
  return mapped_or_hole(whole);
}

Status Vm::cold(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  bool met_locked = false;
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        {
          LockedLeaf locked(context_, leaf);
          if (!locked.is_of(at)) return true;
          const unsigned last = first_locked(locked, begin, end);
          met_locked = last != end;
          for (unsigned i = begin; i < last; ++i)
            if (leaf.get(i).is_at_address()) locked.set(i, leaf.get(i).with(Pte::kCold));
        }
        // To the oldest end, so that reclaim comes here first.
        if (context_.lru.isolate(leaf)) {
          LockedLeaf locked(context_, leaf);
          constexpr auto kOldest = static_cast<std::uint8_t>(Lru::bit(LeafList::kResident) |
                                                             Lru::bit(LeafList::kDroppable));
          context_.lru.put_back(leaf, lists_for(leaf), kOldest);
        }
        return !met_locked;
      });
  if (met_locked) return Error{EINVAL};
  return mapped_or_hole(whole);
}

Status Vm::page_out(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  bool met_locked = false;
  const bool whole =
      for_each_mapped_leaf(run, [&](Leaf& leaf, Vpn at, unsigned begin, unsigned end) {
        bool more = false;
        unsigned last = end;
        {
          LockedLeaf locked(context_, leaf);
          if (!locked.is_of(at)) return true;
          last = first_locked(locked, begin, end);
          met_locked = last != end;
          const bool droppable = locked.region().is(RegionFlags::kDroppable);
          (void)locked.discard_by_reclaim(begin, last, droppable);
          // What cannot be dropped just now is not to be swapped instead.
          for (unsigned i = begin; i < last && !more && !droppable; ++i)
            more = leaf.get(i).frames() != 0;
        }
        if (more) (void)reclaimer_.page_out(leaf, {at, PageCount(last - begin)});
        return !met_locked;
      });
  if (met_locked) return Error{EINVAL};
  return mapped_or_hole(whole);
}

Status Vm::will_need(PageRun run) {
  bool whole = true;
  {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    whole = for_each_mapped_leaf(run, [](Leaf&, Vpn, unsigned, unsigned) { return true; });
  }
  // Only as far as the budget has room: bringing in must not push out.
  context_.table.for_each_leaf_in(run, [this](Leaf& leaf, PageRun part) {
    for (Vpn at = part.first; at < part.end(); ++at) {
      const PteState s = leaf.get(at.in_block()).state();
      if (s != PteState::kSwapped && s != PteState::kStandby) continue;
      if (context_.budget.is_below_low()) return false;
      const SignalBlock signals;
      (void)make_resident(at, false);
    }
    return true;
  });
  return mapped_or_hole(whole);
}

Status Vm::populate(PageRun run, PinFor purpose) {
  if (mapped_prefix(run) != run.count) return Error{ENOMEM};
  if (!permits(run, purpose)) return Error{EINVAL};
  for (Vpn at = run.first; at < run.end();) {
    const SignalBlock signals;
    const PageCount filled = fill_empty({at, run.end() - at});
    at += filled;
    if (!filled.is_zero()) continue;
    const Leaf* leaf = context_.table.find_leaf(at);
    const Pte p = leaf == nullptr ? Pte() : leaf->get(at.in_block());
    const bool is_ready =
        p.state() == PteState::kMapped || (purpose == PinFor::kReading && p.is_at_address());
    if (!is_ready)
      if (Status s = make_resident(at, purpose == PinFor::kWriting); !s.ok()) return s;
    ++at;
  }
  return {};
}

PageCount Vm::fill_empty(PageRun run) {
  constexpr unsigned kMostAtOnce = 64;  // 256 KiB: as long as the longest fault may hold a leaf
  const unsigned begin = run.first.in_block();
  const auto most = static_cast<unsigned>(
      std::min<std::uint64_t>(run.count.value(), kMostAtOnce - begin % kMostAtOnce));
  const auto empty_from = [begin, most](const Leaf& leaf) {
    unsigned n = 0;
    while (n < most && leaf.get(begin + n).state() == PteState::kEmpty &&
           !leaf.get(begin + n).has(Pte::kInShadow))
      ++n;
    return n;
  };
  const GatePass pass(context_.gate);
  Leaf* leaf = context_.table.find_or_make_leaf(run.first);
  if (leaf == nullptr) return PageCount();
  const unsigned wanted = empty_from(*leaf);
  if (wanted == 0) return PageCount();
  Precharge precharge(context_.budget);
  if (!reclaimer_.charge(precharge, PageCount(wanted)) &&
      !reclaimer_.charge(precharge, PageCount(1)))
    return PageCount();
  LockedLeaf locked(context_, *leaf, &precharge);
  if (!locked.is_of(run.first) || locked.region().is(RegionFlags::kHuge)) return PageCount();
  const unsigned n = std::min(empty_from(*leaf), static_cast<unsigned>(precharge.held().value()));
  const unsigned done = n == 0 ? 0 : locked.fill_zeros(begin, n);
  if (done > 1 && std::has_single_bit(done) && begin % done == 0)
    locked.join_folio(begin, Order(static_cast<unsigned>(std::countr_zero(done))));
  context_.counters.add(Event::pgfault_zero, done);
  return PageCount(done);
}

}  // namespace buoy
