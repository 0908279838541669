// Advice: what the program says about ranges. Each follows madvise(2): holes do not stop it, the
// rest is done, and ENOMEM says that there were some; what takes memory away stops at the first
// locked page, with EINVAL.

#include <algorithm>
#include <bit>
#include <cerrno>
#include <optional>

#include "base/signals.h"
#include "pagetable/folio.h"
#include "vm/vm.h"
#include "vm/window.h"

namespace buoy {

namespace {
bool is_hole(Pte p) { return p.state() == PteState::kHole; }
bool is_mapped_page(Pte p) { return !is_hole(p); }

bool has_hole(const LockedLeaf& locked, LeafRange range) {
  return locked.count_of(PteState::kHole) != 0 &&
         run_length(locked.leaf(), range, is_mapped_page) != range.size();
}

// The range up to the first page that the program has locked.
LeafRange before_locked(const LockedLeaf& locked, LeafRange range) {
  if (locked.held() == 0) return range;
  return range.head(run_length(locked.leaf(), range, [](Pte p) { return !p.has(Pte::kLocked); }));
}
}  // namespace

template <typename Body>
Status Vm::advise(PageRun run, LockedPages locked_pages, Quiet quiet, Body body) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  bool has_holes = false;
  Vpn at = run.first;
  // Never touched, up to `end`: nothing to do but to ask whether it is mapped.
  const auto pass_over = [&](Vpn end) {
    if (at == end || has_holes) return;
    const Guard guard(context_.table.region_lock());
    has_holes = mapped_prefix_locked({at, end - at}) != end - at;
  };
  Advised advised = Advised::kAll;
  context_.table.for_each_leaf_in(run, [&](Leaf& leaf, PageRun part) {
    pass_over(part.first);
    at = part.end();
    const LeafRange range = LeafRange::of(part);
    auto locked = LockedLeaf::try_lock(context_, leaf, part.first);
    if (!locked || (quiet == Quiet::kAwaited && !locked->wait_until_quiet(range))) {
      has_holes = true;  // unmapped meanwhile
      return true;
    }
    has_holes = has_holes || has_hole(*locked, range);
    const LeafRange free =
        locked_pages == LockedPages::kToo ? range : before_locked(*locked, range);
    advised = body(locked, free);
    if (free != range) advised = Advised::kEndedByLocked;
    return advised == Advised::kAll;
  });
  if (advised == Advised::kEndedByLocked) return Error{EINVAL};
  pass_over(run.end());
  if (has_holes) return Error{ENOMEM};
  return {};
}

Status Vm::discard(PageRun run, LockedPages locked_pages) {
  record(trace::Kind::kDiscard, run);
  return advise(run, locked_pages, Quiet::kAwaited,
                [](std::optional<LockedLeaf>& locked, LeafRange range) {
                  locked->split_folios(range, Event::folio_split);
                  auto advised = Advised::kAll;
                  // What the kernel refuses is mlocked behind our back.
                  for (const LeafRange mapped : runs_where(locked->leaf(), range, is_mapped_page))
                    if (!locked->forget(mapped, PteState::kEmpty).complete())
                      advised = Advised::kEndedByLocked;
                  return advised;
                });
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
  PartialFrees(const Leaf& leaf, LeafRange range, Counters& counters)
      : leaf_(leaf), counters_(counters) {
    if (cut_folios(leaf, range) == 0) return;
    const Folio first = folio_of(leaf, range.first);
    const Folio last = folio_of(leaf, range.end - 1);
    add(first, range);
    if (last.first != first.first) add(last, range);
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
  void add(Folio folio, LeafRange range) {
    const bool is_cut = folio.first < range.first || folio.end() > range.end;
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

bool is_stored(Pte p) {
  return (p.state() == PteState::kStandby || p.state() == PteState::kSwapped ||
          p.state() == PteState::kPurged) &&
         !p.is_held();
}
bool may_be_idle(Pte p) { return may_be_freed(p) || p.state() == PteState::kEmpty; }
bool is_idle(Pte p) { return p.has(Pte::kIdle); }
}  // namespace

Status Vm::free_lazily(PageRun run, Until until) {
  record(trace::Kind::kFree, run);
  return advise(run, LockedPages::kEndIt, Quiet::kAwaited,
                [this, until](std::optional<LockedLeaf>& locked, LeafRange range) {
                  if (!range.is_empty()) free_lazily(*locked, range, until);
                  return Advised::kAll;
                });
}

// No page of the range is locked.
void Vm::free_lazily(LockedLeaf& locked, LeafRange range, Until until) {
  Leaf& leaf = locked.leaf();
  const PartialFrees partial(leaf, range, context_.counters);
  // What is only a copy of contents that may vanish goes at once.
  locked.drop_stale_shadows(range);
  for (const LeafRange stored : runs_where(leaf, range, is_stored)) {
    (void)locked.forget(stored, PteState::kEmpty);
    context_.counters.add(Event::pglazyfree, stored.size());
    context_.counters.add(Event::pglazyfreed, stored.size());
  }
  if (until == Until::kReuse) {
    for (const LeafRange run : runs_where(leaf, range, may_be_idle))
      context_.counters.add(Event::pglazyfree, locked.free_idle(run));
    return;
  }
  for (const LeafRange run : runs_where(leaf, range, is_idle)) locked.reuse_idle(run);
  note_marked(leaf);
  unsigned marked = 0;
  if (range == LeafRange::whole()) marked += locked.free_block_lazily();
  for (const LeafRange run : runs_where(leaf, range, may_be_freed))
    marked += context_.pins == mmu::Pins::kKnown ? locked.trap_stores_lazily(run).done
                                                 : locked.take_lazily(run).done;
  context_.counters.add(Event::pglazyfree, marked);
}

Status Vm::reuse(PageRun run) {
  return advise(run, LockedPages::kToo, Quiet::kAsItIs,
                [](std::optional<LockedLeaf>& locked, LeafRange range) {
                  const Leaf& leaf = locked->leaf();
                  for (const LeafRange idle : runs_where(leaf, range, is_idle))
                    locked->reuse_idle(idle);
                  // What is refused is asked for again by the next store.
                  for (const LeafRange away : runs_where(
                           leaf, range, [](Pte p) { return p.state() == PteState::kLazyAway; }))
                    (void)locked->give_back(away);
                  for (const LeafRange trapped :
                       runs_where(leaf, range, [](Pte p) { return p.traps_stores(); }))
                    (void)locked->allow_stores(trapped);
                  return Advised::kAll;
                });
}

Status Vm::cold(PageRun run) {
  record(trace::Kind::kCold, run);
  return advise(run, LockedPages::kEndIt, Quiet::kAsItIs,
                [this](std::optional<LockedLeaf>& locked, LeafRange range) {
                  locked->mark_cold(range);
                  // To the oldest end, so that reclaim comes here first.
                  constexpr auto kOldest = static_cast<std::uint8_t>(
                      Lru::bit(LeafList::kResident) | Lru::bit(LeafList::kDroppable));
                  if (context_.lru.isolate(locked->leaf())) locked->put_back(kOldest);
                  return Advised::kAll;
                });
}

Status Vm::page_out(PageRun run) {
  record(trace::Kind::kPageOut, run);
  return advise(run, LockedPages::kEndIt, Quiet::kAsItIs,
                [this](std::optional<LockedLeaf>& locked, LeafRange range) {
                  using Discards = LockedLeaf::Discards;
                  const bool droppable = locked->region().is(RegionFlags::kDroppable);
                  (void)locked->discard_by_reclaim(
                      range, droppable ? Discards::kOrdinaryToo : Discards::kLazilyFreed);
                  // What cannot be dropped just now is not to be swapped instead.
                  const bool is_left = !droppable && run_length(locked->leaf(), range, [](Pte p) {
                                                       return p.frames() == 0;
                                                     }) != range.size();
                  if (is_left) (void)reclaimer_.page_out(locked, range);
                  return Advised::kAll;
                });
}

Status Vm::will_need(PageRun run) {
  record(trace::Kind::kWillNeed, run);
  const bool is_whole = mapped_prefix(run) == run.count;
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
  if (!is_whole) return Error{ENOMEM};
  return {};
}

Status Vm::populate(PageRun run, PinFor purpose) {
  if (mapped_prefix(run) != run.count) return Error{ENOMEM};
  if (permitted_prefix(run, purpose) != run.count) return Error{EINVAL};
  record(trace::Kind::kWillNeed, run);
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

void Vm::prefill(PageRun run) {
  run.count = permitted_prefix(run, PinFor::kReading);
  for (Vpn at = run.first; at < run.end() && !context_.budget.is_below_low();) {
    const SignalBlock signals;
    const PageCount filled = fill_empty({at, run.end() - at});
    at += std::max(filled, PageCount(1));
  }
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
  auto locked = LockedLeaf::try_lock(context_, *leaf, run.first, &precharge);
  if (!locked || locked->region().is(RegionFlags::kHuge)) return PageCount();
  const unsigned n = std::min(empty_from(*leaf), static_cast<unsigned>(precharge.held().value()));
  const unsigned done = n == 0 ? 0 : locked->fill_zeros({begin, begin + n}).done;
  if (done > 1 && std::has_single_bit(done) && begin % done == 0)
    locked->join_folio(begin, Order(static_cast<unsigned>(std::countr_zero(done))));
  context_.counters.add(Event::pgfault_zero, done);
  return PageCount(done);
}

}  // namespace buoy
