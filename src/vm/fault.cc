// Faults: what a touch of a page that is not there, or not storable, does.
//
// A fault charges the budget first, reclaiming if it must, with no lock held; then it locks the
// leaf, looks at what the page has become meanwhile, and does the one thing that fits. Larger
// windows are charged under the lock, but only if that needs no reclaim.

#include <algorithm>
#include <cerrno>

#include "vm/vm.h"

namespace buoy {

namespace {

struct Range {
  unsigned first;
  unsigned end;
  [[nodiscard]] unsigned size() const { return end - first; }
};

// The part of the aligned window around page i whose pages all pass the test.
template <typename Test>
Range around(const Leaf& leaf, unsigned i, Order order, Test test) {
  const unsigned size = 1U << order.value();
  const unsigned window_first = i & ~(size - 1);
  Range r{i, i + 1};
  while (r.first > window_first && test(leaf.get(r.first - 1))) --r.first;
  while (r.end < window_first + size && test(leaf.get(r.end))) ++r.end;
  return r;
}

// Shrinks the range around i, to one page at least, until it can be charged without reclaim.
Range affordable(Range r, unsigned i, Precharge& precharge) {
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

constexpr std::uint64_t kWaitForMemoryNs = 5'000'000;

// Among the reasons for a bus error, which are errno values: it is poison that will raise it.
constexpr int kPoisoned = -1;

}  // namespace

mmu::Verdict Vm::on_fault(const mmu::Fault& fault) {
  context_.counters.add(Event::pgfault);
  int lost = 0;
  const mmu::Verdict verdict = handle(fault, &lost);
  // Tried again, the access meets the poison; or memory, if the mark was withdrawn meanwhile.
  if (lost == kPoisoned) return mmu::Verdict::kResolved;
  if (verdict == mmu::Verdict::kBusError && lost != 0) {
    sys::Line line;
    line.text("SIGBUS at ").hex(fault.address);
    if (lost == EIO)
      line.text(": the page cannot be read back from the backing file");
    else
      tell_what_is_full(line);
    line.complain();
  }
  return verdict;
}

void Vm::tell_what_is_full(sys::Line& line) const {
  line.text(": the budget and every tier below it are full (KiB: budget ");
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
  line.text(")");
}

mmu::Verdict Vm::handle(const mmu::Fault& fault, int* lost) {
  unsigned exhausted = 0;
  for (unsigned waits = 0;; ++waits) {
    const GatePass pass(context_.gate, fault.tid);
    Leaf* leaf = context_.table.find_or_make_leaf(fault.vpn);
    if (leaf == nullptr) {
      if (context_.table.find_region(fault.vpn) == nullptr) return mmu::Verdict::kForeign;
      *lost = ENOMEM;
      return mmu::Verdict::kBusError;
    }
    Precharge precharge(context_.budget);
    // Where nothing can be reclaimed, what is resident can still be given back or stored to.
    (void)reclaimer_.charge(precharge, PageCount(1));
    const Step step = resolve(*leaf, fault, precharge);
    switch (step) {
      case Step::kDone:
        return mmu::Verdict::kResolved;
      case Step::kForeign:
        return mmu::Verdict::kForeign;
      case Step::kPoisoned:
        *lost = kPoisoned;
        return mmu::Verdict::kBusError;
      case Step::kPurged:
        return mmu::Verdict::kBusError;
      case Step::kLost:
        *lost = EIO;
        return mmu::Verdict::kBusError;
      case Step::kAgain:
        continue;
      case Step::kNoMemory:
        break;
    }
    // Nothing to reclaim. It may come back: others free memory, the disk gets room. While the
    // budget shrinks it does: either the room is found, or the old budget stays. And whoever holds
    // leaves isolated, perhaps without a CPU, puts them back.
    const bool is_passing = context_.budget.is_shrinking() ||
                            (context_.lru.has_isolated() && waits < context_.most_waits_for_others);
    if (on_exhausted_ == OnExhausted::kSigbus && !is_passing && ++exhausted > 3) {
      *lost = ENOMEM;
      return mmu::Verdict::kBusError;
    }
    precharge.give_back();
    std::uint32_t never = 0;
    sys::futex_wait(&never, 0, kWaitForMemoryNs);
  }
}

Vm::Step Vm::resolve(Leaf& leaf, const mmu::Fault& fault, Precharge& precharge) {
  const unsigned i = fault.vpn.in_block();
  {
    LockedLeaf locked(context_, leaf, &precharge);
    if (!locked.is_of(fault.vpn)) return Step::kAgain;
    const Pte p = locked.get(i);
    if (precharge.held().is_zero() && needs_frame(p) &&
        !(has_contents(p) && reclaimer_.charge_return(precharge)))
      return Step::kNoMemory;
    switch (p.state()) {
      case PteState::kHole:
        return Step::kForeign;
      case PteState::kEmpty:
        return fill(locked, i, precharge);
      case PteState::kMapped:
        // Somebody was faster. A leftover trap is undone; a late message only needs the wake-up.
        if (fault.is_protection)
          (void)context_.mmu->unprotect(locked.region().reservation, {fault.vpn, PageCount(1)});
        return Step::kDone;
      case PteState::kLazyFree:
      case PteState::kClean:
        return fault.is_store ? allow_stores(locked, i) : Step::kDone;
      case PteState::kStandby:
        return bring_in(locked, i, precharge);
      case PteState::kLazyAway:
        return un_free(locked, i, precharge);
      case PteState::kSwapped:
        if (p.has(Pte::kInShadow)) return bring_in(locked, i, precharge);
        if (!context_.swap->is_slow(p.entry())) return load(locked, i, fault.is_store, precharge);
        break;
      case PteState::kLoading:
        locked.wait_until_quiet(i, i + 1);
        return Step::kAgain;
      case PteState::kPurged:
        if (!locked.region().is(RegionFlags::kPurgedReadsZero)) {
          // Here, where nobody can be withdrawing the mark: the poison must go with the state.
          if (!context_.mmu->poison(locked.region().reservation, fault.vpn)) return Step::kPurged;
          locked.set(i, p.with(Pte::kPoisoned));
          return Step::kPoisoned;
        }
        if (!locked.forget(i, i + 1, PteState::kEmpty)) return Step::kNoMemory;
        return fill(locked, i, precharge);
      case PteState::kCount:
        break;
    }
  }
  return load_slowly(leaf, fault.vpn, fault.is_store, precharge);
}

Vm::Step Vm::fill(LockedLeaf& locked, unsigned i, Precharge& precharge) {
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
  Range window = around(leaf, i, order, is_empty);
  if (fills_idle && window.size() < kPagesPerBlock) {
    fills_idle = false;
    window = around(leaf, i, order, is_empty);
  }
  const Range whole = window;
  window = affordable(window, i, precharge);
  if (locked.region().is(RegionFlags::kHuge) && window.size() < whole.size()) {
    // No room for a huge page: fall back to the ordinary window inside what we can afford.
    order = Order(4);
    fills_idle = false;
    window = around(leaf, i, order, is_empty);
    window = affordable(window, i, precharge);
  }
  unsigned done = locked.fill_zeros(window.first, window.size());
  if (window.first + done <= i) {
    // The kernel had no memory for the run: the one page that is wanted.
    done = locked.fill_zeros(i, 1);
    if (done == 0) return Step::kNoMemory;
    window = {i, i + 1};
  }
  if (window.size() == (1U << order.value()) && done == window.size()) {
    locked.join_folio(window.first, order);
    if (order.value() == kMaxOrder) context_.counters.add(Event::thp_fault_alloc);
  }
  context_.counters.add(Event::pgfault_zero, done);
  return Step::kDone;
}

Vm::Step Vm::bring_in(LockedLeaf& locked, unsigned i, Precharge& precharge) {
  Leaf& leaf = locked.leaf();
  const bool squeezing = leaf.get(i).has(Pte::kSqueezing);
  const auto in_shadow = [squeezing](Pte p) {
    return (p.state() == PteState::kStandby ||
            (p.state() == PteState::kSwapped && p.has(Pte::kInShadow))) &&
           p.has(Pte::kSqueezing) == squeezing;
  };
  const Order order =
      plan_window(context_.table, leaf, i, WindowKind::kSwapIn, context_.lru.generation());
  Range window = around(leaf, i, order, in_shadow);
  // Copying back needs a second frame for each page; moving needs none.
  const PageCount n(window.size());
  if (squeezing || context_.mmu->preferred_return(n) == mmu::Return::kCopied)
    window = affordable(window, i, precharge);
  unsigned done = locked.give_back(window.first, window.size());
  if (window.first + done <= i) {
    done = locked.give_back(i, 1);
    if (done == 0) return Step::kAgain;
  }
  context_.counters.add(Event::pgfault_standby);
  context_.counters.add(Event::pgactivate, done);
  return Step::kDone;
}

Vm::Step Vm::un_free(LockedLeaf& locked, unsigned i, Precharge& precharge) {
  Leaf& leaf = locked.leaf();
  const Order order = plan_unfree(context_.table, leaf, i, leaf.get(i).order());
  Range window = around(leaf, i, order, [](Pte p) { return p.state() == PteState::kLazyAway; });
  // Moving back needs no second frame, copying back one for each page.
  if (context_.mmu->preferred_return(PageCount(window.size())) == mmu::Return::kCopied)
    window = affordable(window, i, precharge);
  unsigned done = locked.give_back(window.first, window.size());
  if (window.first + done <= i) done = locked.give_back(i, 1);
  return done == 0 ? Step::kAgain : Step::kDone;
}

Vm::Step Vm::load(LockedLeaf& locked, unsigned i, bool is_store, Precharge& precharge) {
  Leaf& leaf = locked.leaf();
  const auto loadable = [this](Pte p) {
    return p.state() == PteState::kSwapped && !p.has(Pte::kInShadow) &&
           !context_.swap->is_slow(p.entry());
  };
  const Order order =
      plan_window(context_.table, leaf, i, WindowKind::kSwapIn, context_.lru.generation());
  Range window = affordable(around(leaf, i, order, loadable), i, precharge);
  const ScratchPool::Borrowed scratch(scratch_);
  unsigned loaded = 0;
  for (; loaded < window.size(); ++loaded) {
    const unsigned page = window.first + loaded;
    if (context_.swap->load(leaf.get(page).entry(), scratch.page(loaded)) ==
        swap::LoadOutcome::kLoaded)
      continue;
    if (page != i && loaded <= i - window.first && page < i) {
      // A neighbour is unreadable: that is its own toucher's business.
      window = {i, i + 1};
      loaded = 0;
      if (context_.swap->load(leaf.get(i).entry(), scratch.page(0)) != swap::LoadOutcome::kLoaded) {
        context_.counters.add(Event::swap_corrupt);
        return Step::kLost;
      }
      loaded = 1;
      break;
    }
    if (page == i) {
      context_.counters.add(Event::swap_corrupt);
      return Step::kLost;
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
  const unsigned done = locked.install(window.first, loaded, scratch.page(0),
                                       keep ? mmu::Stores::kTrapped : mmu::Stores::kAllowed);
  if (window.first + done <= i) return Step::kNoMemory;
  context_.counters.add(Event::pgmajfault);
  context_.counters.add(Event::pswpin, done);
  if (done > 1) context_.counters.add(Event::pgswapahead, done - 1);
  return Step::kDone;
}

Vm::Step Vm::load_slowly(Leaf& leaf, Vpn vpn, bool is_store, Precharge& precharge) {
  const unsigned i = vpn.in_block();
  const ScratchPool::Borrowed scratch(scratch_);
  swap::PageLoad loads[ScratchPool::kPages];
  Range window{i, i + 1};
  {
    LockedLeaf locked(context_, leaf, &precharge);
    if (!locked.is_of(vpn) || locked.get(i).state() != PteState::kSwapped) return Step::kAgain;
    const Order order =
        plan_window(context_.table, leaf, i, WindowKind::kSwapIn, context_.lru.generation());
    const auto loadable = [](Pte p) {
      return p.state() == PteState::kSwapped && !p.has(Pte::kInShadow);
    };
    window = affordable(around(leaf, i, order, loadable), i, precharge);
    for (unsigned page = window.first; page < window.end; ++page) {
      loads[page - window.first] = {locked.get(page).entry(), scratch.page(page - window.first)};
      locked.set(page, locked.get(page).with_state(PteState::kLoading));
    }
  }
  context_.swap->load_many(loads, window.size());
  LockedLeaf locked(context_, leaf, &precharge);
  // kLoading keeps everybody off the pages: they are still ours.
  const bool keep = !is_store;  // writing it to the file again is dearer than a store fault
  const auto is_loaded = [&](unsigned page) {
    return loads[page - window.first].outcome == swap::LoadOutcome::kLoaded;
  };
  unsigned done = 0;
  for (unsigned first = window.first; first < window.end;) {
    unsigned end = first;
    while (end < window.end && is_loaded(end)) ++end;
    if (end > first)
      done += locked.install(first, end - first, scratch.page(first - window.first),
                             keep ? mmu::Stores::kTrapped : mmu::Stores::kAllowed);
    first = end + 1;
  }
  for (unsigned page = window.first; page < window.end; ++page)
    if (locked.get(page).state() == PteState::kLoading)
      locked.set(page, locked.get(page).with_state(PteState::kSwapped));
  locked.announce();
  context_.counters.add(Event::pswpin, done);
  context_.counters.add(Event::pswpin_file, done);
  // An unreadable neighbour is its own toucher's business.
  if (!is_loaded(i)) return Step::kLost;
  if (locked.get(i).state() == PteState::kSwapped) return Step::kNoMemory;
  context_.counters.add(Event::pgmajfault);
  if (done > 1) context_.counters.add(Event::pgswapahead, done - 1);
  return Step::kDone;
}

Vm::Step Vm::allow_stores(LockedLeaf& locked, unsigned i) {
  Leaf& leaf = locked.leaf();
  context_.counters.add(Event::pgfault_protect);
  const PteState state = leaf.get(i).state();
  Range window{i, i + 1};
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
  unsigned done = locked.allow_stores(window.first, window.size());
  if (window.first + done <= i) done = locked.allow_stores(i, 1);
  return done == 0 ? Step::kAgain : Step::kDone;
}

Status Vm::make_resident(Vpn vpn, bool for_store) {
  mmu::Fault fault;
  fault.vpn = vpn;
  fault.address = vpn.address();
  fault.is_store = for_store;
  int lost = 0;
  switch (handle(fault, &lost)) {
    case mmu::Verdict::kResolved:
      return {};
    case mmu::Verdict::kForeign:
      return Error{ENOMEM};
    case mmu::Verdict::kBusError:
      break;
  }
  return Error{lost == ENOMEM ? EAGAIN : EIO};
}

}  // namespace buoy
