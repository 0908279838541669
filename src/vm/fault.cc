// Faults: what a touch of a page that is not there, or not storable, does.
//
// A fault charges the budget first, reclaiming if it must, with no lock held; then it locks the
// leaf, looks at what the page has become meanwhile, and does the one thing that fits. Larger
// windows are charged under the lock, but only if that needs no reclaim.

#include <algorithm>
#include <cerrno>

#include "mmu/call_cost.h"
#include "mmu/signal_delivery.h"
#include "vm/vm.h"

namespace buoy {

namespace {

// The part of the aligned window around page i whose pages all pass the test.
template <typename Test>
LeafRange around(const Leaf& leaf, unsigned i, Order order, Test test) {
  const unsigned size = 1U << order.value();
  const unsigned window_first = i & ~(size - 1);
  LeafRange r = LeafRange::one(i);
  while (r.first > window_first && test(leaf.get(r.first - 1))) --r.first;
  while (r.end < window_first + size && test(leaf.get(r.end))) ++r.end;
  return r;
}

// Shrinks the range around i, to one page at least, until it can be charged without reclaim.
LeafRange affordable(LeafRange r, unsigned i, Precharge& precharge) {
  while (r.size() > 1 && r.size() > precharge.held().value()) {
    if (precharge.try_add(PageCount(r.size()) - precharge.held())) break;
    const unsigned half = r.size() / 2;
    if (i < r.first + half)
      r.end = r.first + half;
    else
      r.first += half;
  }
  return r;
}

// Does the toucher of this page need a frame that it has not got yet?
bool needs_frame(Pte p) {
  switch (p.state()) {
    case PteState::kEmpty:
    case PteState::kPurged:
      return true;
    case PteState::kSwapped:
      return !p.has(Pte::kInShadow) || p.has(Pte::kSqueezing);
    case PteState::kStandby:
      return p.has(Pte::kSqueezing);
    default:
      return false;
  }
}

bool has_contents(Pte p) {
  return p.state() == PteState::kSwapped || p.state() == PteState::kStandby;
}

// Counts how long the fault took, from here to the end of the scope.
class FaultTimer {
 public:
  explicit FaultTimer(Counters& counters) : counters_(counters) {}
  ~FaultTimer() {
    const std::uint64_t ns = mmu::TscScale::to_ns(mmu::read_tsc() - start_);
    counters_.add(Event::fault_ns, ns);
    counters_.add(fault_time_bucket(bucket_of_fault_time(ns)));
  }
  FaultTimer(const FaultTimer&) = delete;
  FaultTimer& operator=(const FaultTimer&) = delete;

 private:
  Counters& counters_;
  std::uint64_t start_ = mmu::read_tsc();
};

constexpr std::uint64_t kWaitForMemoryNs = 5'000'000;

// How often a page is asked for that is refused for another reason than want of memory: at once,
// because what was in the way may have been passing, then waiting, for a second.
constexpr unsigned kMostRefusalsAtOnce = 8;
constexpr unsigned kMostRefusals = kMostRefusalsAtOnce + 200;

// Does `bring(range)` for the window, or, if that does not get as far as the page that is wanted, for
// that page alone; which it was, and how far that went.
struct Brought {
  LeafRange window;
  LockedLeaf::Progress progress;
};
template <typename Bring>
Brought bring_at_least(unsigned i, LeafRange window, Bring bring) {
  const LockedLeaf::Progress progress = bring(window);
  if (window.head(progress.done).contains(i)) return {window, progress};
  return {LeafRange::one(i), bring(LeafRange::one(i))};
}
// Of the page that is wanted. What was refused behind it is its own toucher's business.
Step step_of(const Brought& brought, unsigned i) {
  if (brought.window.head(brought.progress.done).contains(i)) return Step::End::kDone;
  return Step::of(brought.progress.outcome);
}

}  // namespace

// For users of the library. A stack in managed memory (of a coroutine): the kernel puts signals' frames
// there, and ends the program where a page for them is missing. So what lies below is brought in with a
// page that is missing. (Under the gate, signals arrive on stacks that are not managed.)
void Vm::make_room_for_signals(std::uintptr_t stack) {
  constexpr PageCount kRoom(8);
  if (stack == 0 || !holds(Vpn::of_address(stack))) return;
  for (PageCount i; i <= kRoom; i += PageCount(1)) {
    const PageRun page{Vpn::of_address(stack - i.bytes()), PageCount(1)};
    if (permitted_prefix(page, PinFor::kWriting) != page.count) return;
    if (!is_ready(page.first, PinFor::kWriting) && !populate(page, PinFor::kWriting)) return;
  }
}

mmu::Verdict Vm::on_fault(const mmu::Fault& fault) {
  context_.counters.add(Event::pgfault);
  const FaultTimer timer(context_.counters);
  const Step step = serve_and_record(fault);
  const mmu::Verdict verdict = step.verdict();
  if (verdict == mmu::Verdict::kResolved)
    make_room_for_signals(mmu::signal_delivery::stack_of_toucher());
  const char* reason = verdict == mmu::Verdict::kBusError ? reason_for_bus_error(step) : nullptr;
  if (reason != nullptr) {
    sys::Line line;
    line.text("SIGBUS at ").hex(fault.address).text(": ").text(reason);
    if (step.end == Step::End::kExhausted) tell_what_is_full(line);
    line.complain();
  }
  return verdict;
}

void Vm::tell_what_is_full(sys::Line& line) const {
  line.text(" (KiB: budget ");
  const auto add = [&line](const char* name, std::uint64_t pages) {
    line.text(name).number(PageCount(pages).bytes() >> 10);
  };
  add("", context_.budget.limit().value());
  add(", used ", context_.budget.used().value());
  add(", mapped ", context_.pages_in(PteState::kMapped) + context_.pages_in(PteState::kClean));
  add(", lazily freed ", context_.lazyfree_pages());
  add(", standing by ", context_.pages_in(PteState::kStandby));
  add(", pinned or locked ", static_cast<std::uint64_t>(context_.held_pages));
  add(", arena ", context_.arena->taken().value());
  if (const PageCount most = context_.swap->most_frames(); most < context_.budget.limit())
    add(", compressed at most ", most.value());
  line.text(")");
}

Step Vm::serve_and_record(const mmu::Fault& fault) {
  const Step step = serve(fault);
  if (step.end != Step::End::kForeign)
    record(fault.is_store ? trace::Kind::kStore : trace::Kind::kLoad, {fault.vpn, PageCount(1)});
  return step;
}

Step Vm::serve(const mmu::Fault& fault) {
  unsigned exhausted = 0;
  unsigned refusals = 0;
  for (unsigned waits = 0;; ++waits) {
    const GatePass pass(context_.gate, fault.tid);
    Leaf* leaf = context_.table.find_or_make_leaf(fault.vpn);
    if (leaf == nullptr)
      return context_.table.find_region(fault.vpn) == nullptr ? Step::End::kForeign
                                                              : Step::End::kNoMetadata;
    Precharge precharge(context_.budget);
    // Where nothing can be reclaimed, what is resident can still be given back or stored to.
    (void)reclaimer_.charge(precharge, PageCount(1));
    const Step step = resolve(*leaf, fault, precharge);
    if (step.end == Step::End::kAgain) continue;
    if (step.is_for_want_of_memory()) {
      // It may come back: others free memory, the disk gets room. While the budget shrinks it does:
      // either the room is found, or the old budget stays. And whoever holds leaves isolated,
      // perhaps without a CPU, puts them back.
      const bool is_passing =
          context_.budget.is_shrinking() ||
          (context_.lru.has_isolated() && waits < context_.most_waits_for_others);
      if (on_exhausted_ != OnExhausted::kWait && !is_passing && ++exhausted > 3) return step;
    } else if (step.end == Step::End::kRefused) {
      if (++refusals > kMostRefusals) return step;
      if (refusals <= kMostRefusalsAtOnce) continue;
    } else {
      return step;
    }
    precharge.give_back();
    std::uint32_t never = 0;
    sys::futex_wait(&never, 0, kWaitForMemoryNs);
  }
}

Step Vm::resolve(Leaf& leaf, const mmu::Fault& fault, Precharge& precharge) {
  const unsigned i = fault.vpn.in_block();
  {
    auto found = LockedLeaf::try_lock(context_, leaf, fault.vpn, &precharge);
    if (!found) return Step::End::kAgain;
    LockedLeaf& locked = *found;
    leaf.faults.store(leaf.faults.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    const Pte p = locked.get(i);
    if (precharge.held().is_zero() && needs_frame(p) &&
        !(has_contents(p) && reclaimer_.charge_return(precharge)))
      return Step::End::kExhausted;
    switch (p.state()) {
      case PteState::kHole:
        return Step::End::kForeign;
      case PteState::kEmpty:
        return fill(locked, i, precharge);
      case PteState::kMapped:
        // Somebody was faster. A leftover trap is undone; a late message only needs the wake-up.
        if (fault.is_protection) locked.end_leftover_trap(i);
        return Step::End::kDone;
      case PteState::kLazyFree:
      case PteState::kClean:
        return fault.is_store ? allow_stores(locked, i) : Step::End::kDone;
      case PteState::kStandby:
        return bring_in(locked, i, precharge);
      case PteState::kLazyAway:
        return un_free(locked, i, precharge);
      case PteState::kSwapped:
        if (p.has(Pte::kInShadow)) return bring_in(locked, i, precharge);
        if (!context_.swap->is_slow(p.entry())) return load(locked, i, fault.is_store, precharge);
        break;
      case PteState::kLoading:
        (void)locked.wait_until_quiet(LeafRange::one(i));
        return Step::End::kAgain;
      case PteState::kPurged:
        if (!locked.region().is(RegionFlags::kPurgedReadsZero)) {
          // Here, where nobody can be withdrawing the mark: the poison must go with the state.
          return locked.poison(i) ? Step::End::kPoisoned : Step::End::kPurged;
        }
        if (const auto gone = locked.forget(LeafRange::one(i), PteState::kEmpty); !gone.complete())
          return Step::of(gone.outcome);
        return fill(locked, i, precharge);
      case PteState::kCount:
        break;
    }
  }
  return load_slowly(leaf, fault.vpn, fault.is_store, precharge);
}

Step Vm::fill(LockedLeaf& locked, unsigned i, Precharge& precharge) {
  Leaf& leaf = locked.leaf();
  // What its owner keeps idle beside it is wanted by nobody, but for the sake of a huge page.
  bool fills_idle = locked.region().is(RegionFlags::kHuge);
  const auto is_empty = [&fills_idle](Pte p) {
    return p.state() == PteState::kEmpty && !p.has(Pte::kInShadow) &&
           (fills_idle || !p.has(Pte::kIdle));
  };
  Order order =
      plan_window(context_.table, leaf, i, WindowKind::kZeroFill, context_.lru.generation());
  if (locked.region().is(RegionFlags::kHuge)) order = Order(kMaxOrder);
  LeafRange window = around(leaf, i, order, is_empty);
  if (fills_idle && window.size() < kPagesPerBlock) {
    fills_idle = false;
    window = around(leaf, i, order, is_empty);
  }
  const LeafRange whole = window;
  window = affordable(window, i, precharge);
  if (locked.region().is(RegionFlags::kHuge) && window.size() < whole.size()) {
    // No room for a huge page: fall back to the ordinary window inside what we can afford.
    order = Order(4);
    fills_idle = false;
    window = around(leaf, i, order, is_empty);
    window = affordable(window, i, precharge);
  }
  const Brought brought =
      bring_at_least(i, window, [&](LeafRange r) { return locked.fill_zeros(r); });
  const unsigned done = brought.progress.done;
  if (brought.window.size() == (1U << order.value()) && done == brought.window.size()) {
    locked.join_folio(brought.window.first, order);
    if (order.value() == kMaxOrder) context_.counters.add(Event::thp_fault_alloc);
  }
  context_.counters.add(Event::pgfault_zero, done);
  return step_of(brought, i);
}

Step Vm::bring_in(LockedLeaf& locked, unsigned i, Precharge& precharge) {
  Leaf& leaf = locked.leaf();
  const bool squeezing = leaf.get(i).has(Pte::kSqueezing);
  const auto in_shadow = [squeezing](Pte p) {
    return (p.state() == PteState::kStandby ||
            (p.state() == PteState::kSwapped && p.has(Pte::kInShadow))) &&
           p.has(Pte::kSqueezing) == squeezing;
  };
  const Order order =
      plan_window(context_.table, leaf, i, WindowKind::kSwapIn, context_.lru.generation());
  LeafRange window = around(leaf, i, order, in_shadow);
  // Copying back needs a second frame for each page; moving needs none.
  const PageCount n(window.size());
  if (squeezing || context_.mmu->preferred_return(n) == mmu::Return::kCopied)
    window = affordable(window, i, precharge);
  const Brought brought =
      bring_at_least(i, window, [&](LeafRange r) { return locked.give_back(r); });
  const Step step = step_of(brought, i);
  if (step.end == Step::End::kDone) context_.counters.add(Event::pgfault_standby);
  context_.counters.add(Event::pgactivate, brought.progress.done);
  return step;
}

Step Vm::un_free(LockedLeaf& locked, unsigned i, Precharge& precharge) {
  Leaf& leaf = locked.leaf();
  const Order order = plan_unfree(context_.table, leaf, i, leaf.get(i).order());
  LeafRange window = around(leaf, i, order, [](Pte p) { return p.state() == PteState::kLazyAway; });
  // Moving back needs no second frame, copying back one for each page.
  if (context_.mmu->preferred_return(PageCount(window.size())) == mmu::Return::kCopied)
    window = affordable(window, i, precharge);
  return step_of(bring_at_least(i, window, [&](LeafRange r) { return locked.give_back(r); }), i);
}

Step Vm::load(LockedLeaf& locked, unsigned i, bool is_store, Precharge& precharge) {
  Leaf& leaf = locked.leaf();
  const auto loadable = [this](Pte p) {
    return p.state() == PteState::kSwapped && !p.has(Pte::kInShadow) &&
           !context_.swap->is_slow(p.entry());
  };
  const Order order =
      plan_window(context_.table, leaf, i, WindowKind::kSwapIn, context_.lru.generation());
  LeafRange window = affordable(around(leaf, i, order, loadable), i, precharge);
  const ScratchPool::Borrowed scratch(scratch_);
  unsigned loaded = 0;
  for (; loaded < window.size(); ++loaded) {
    const unsigned page = window.first + loaded;
    if (context_.swap->load(leaf.get(page).entry(), scratch.page(loaded)) ==
        swap::LoadOutcome::kLoaded)
      continue;
    if (page != i && loaded <= i - window.first && page < i) {
      // A neighbour is unreadable: that is its own toucher's business.
      window = LeafRange::one(i);
      loaded = 0;
      if (context_.swap->load(leaf.get(i).entry(), scratch.page(0)) != swap::LoadOutcome::kLoaded) {
        context_.counters.add(Event::swap_corrupt);
        return Step::End::kUnreadable;
      }
      loaded = 1;
      break;
    }
    if (page == i) {
      context_.counters.add(Event::swap_corrupt);
      return Step::End::kUnreadable;
    }
    break;
  }
  const auto are_small = [&] {
    ByteSize stored = 0;
    for (unsigned k = 0; k < loaded; ++k)
      stored += context_.swap->stored_bytes(leaf.get(window.first + k).entry());
    return stored <= loaded * context_.most_kept;
  };
  const bool keep = !is_store && reclaimer_.keeps_copies() && are_small();
  const LockedLeaf::Progress installed = locked.install(
      window.head(loaded), scratch.page(0), keep ? mmu::Stores::kTrapped : mmu::Stores::kAllowed);
  const Step step = step_of({window, installed}, i);
  if (step.end != Step::End::kDone) return step;
  context_.counters.add(Event::pgmajfault);
  context_.counters.add(Event::pswpin, installed.done);
  if (installed.done > 1) context_.counters.add(Event::pgswapahead, installed.done - 1);
  return step;
}

Step Vm::load_slowly(Leaf& leaf, Vpn vpn, bool is_store, Precharge& precharge) {
  const unsigned i = vpn.in_block();
  const ScratchPool::Borrowed scratch(scratch_);
  swap::PageLoad loads[ScratchPool::kPages];
  LeafRange window = LeafRange::one(i);
  {
    auto locked = LockedLeaf::try_lock(context_, leaf, vpn, &precharge);
    if (!locked || locked->get(i).state() != PteState::kSwapped) return Step::End::kAgain;
    const Order order =
        plan_window(context_.table, leaf, i, WindowKind::kSwapIn, context_.lru.generation());
    const auto loadable = [](Pte p) {
      return p.state() == PteState::kSwapped && !p.has(Pte::kInShadow);
    };
    window = affordable(around(leaf, i, order, loadable), i, precharge);
    for (unsigned page = window.first; page < window.end; ++page) {
      const unsigned k = page - window.first;
      loads[k] = {locked->begin_loading(page), scratch.page(k)};
    }
  }
  context_.swap->load_many(loads, window.size());
  LockedLeaf locked(context_, leaf, &precharge);
  // kLoading keeps everybody off the pages: they are still ours.
  const bool keep = !is_store;  // writing it to the file again is dearer than a store fault
  const auto is_loaded = [&](unsigned page) {
    return loads[page - window.first].outcome == swap::LoadOutcome::kLoaded;
  };
  Step step = Step::End::kUnreadable;
  unsigned done = 0;
  for (unsigned first = window.first; first < window.end;) {
    LeafRange run{first, first};
    while (run.end < window.end && is_loaded(run.end)) ++run.end;
    first = run.end + 1;
    if (run.is_empty()) continue;
    const LockedLeaf::Progress finished =
        locked.finish_loading(run, scratch.page(run.first - window.first),
                              keep ? mmu::Stores::kTrapped : mmu::Stores::kAllowed);
    done += finished.done;
    if (run.contains(i)) step = step_of({run, finished}, i);
  }
  locked.cancel_loading(window);
  locked.announce();
  context_.counters.add(Event::pswpin, done);
  context_.counters.add(Event::pswpin_file, done);
  // An unreadable neighbour is its own toucher's business.
  if (step.end != Step::End::kDone) return step;
  context_.counters.add(Event::pgmajfault);
  if (done > 1) context_.counters.add(Event::pgswapahead, done - 1);
  return step;
}

Step Vm::allow_stores(LockedLeaf& locked, unsigned i) {
  Leaf& leaf = locked.leaf();
  context_.counters.add(Event::pgfault_protect);
  const PteState state = leaf.get(i).state();
  LeafRange window = LeafRange::one(i);
  if (state == PteState::kLazyFree) {
    const Order order = plan_unfree(context_.table, leaf, i, leaf.get(i).order());
    // What an owner keeps idle beside it has nothing to do with this store.
    const bool idle = leaf.get(i).has(Pte::kIdle);
    window = around(leaf, i, order, [idle](Pte p) {
      return p.state() == PteState::kLazyFree && p.has(Pte::kIdle) == idle;
    });
  } else {
    reclaimer_.note_clean_stored();
  }
  return step_of(bring_at_least(i, window, [&](LeafRange r) { return locked.allow_stores(r); }), i);
}

Status Vm::make_resident(Vpn vpn, bool for_store) {
  mmu::Fault fault;
  fault.vpn = vpn;
  fault.address = vpn.address();
  fault.is_store = for_store;
  return serve_and_record(fault).status();
}

}  // namespace buoy
