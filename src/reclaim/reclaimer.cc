#include "reclaim/reclaimer.h"

#include <algorithm>

namespace buoy {

namespace {
// The most pages one squeeze marks at a time: what a toucher of one of them may wait for.
constexpr unsigned kMostPerSqueeze = 64;
// How many rounds of direct reclaim may free nothing before we say that nothing is left. Others
// may hold what we look for isolated for a moment, hence more than one.
constexpr unsigned kFruitlessRounds = 16;
constexpr int kKeepLimit = 4096;
// The part of the budget that stands by, resident but taken away. A page among so many is touched
// as often as any other where touches are random, and costs a fault then; the second chance needs
// no more.
constexpr std::uint64_t kStandbyShare = 32;
// A take above this (ns) pays a shootdown of another CPU.
constexpr unsigned kDearTake = 5000;
// What one is believed to cost at most: a shootdown on an idle machine. What takes longer waited for a
// CPU that is busy, and says nothing about which pages are wanted: it must not decide which ones leave.
constexpr unsigned kDearestTake = 8000;
// How many leaves may be passed over in search of a denser one.
constexpr std::size_t kMostPassedOver = 32;
// Ticks until a page ripens that is not there.
constexpr int kNever = 127;
}  // namespace

// ---- Ways in ----------------------------------------------------------------------------------

bool Reclaimer::charge(Precharge& precharge, PageCount n) {
  if (precharge.try_add(n)) {
    poke();
    return true;
  }
  while (find_more_room())
    if (precharge.try_add(n)) return true;
  context_.counters.add(Event::allocstall);
  poke();
  for (unsigned fruitless = 0; fruitless < kFruitlessRounds;) {
    const PageCount freed = reclaim(std::max(n, PageCount(squeeze_batch())), ReclaimKind::kDirect);
    if (precharge.try_add(n)) return true;
    if (find_more_room()) continue;
    if (freed.is_zero()) {
      if (find_more_room(Patience::kSome)) continue;
      if (are_last(ReclaimKind::kDirect)) break;
      ++fruitless;
      if (fruitless > 2) sys::yield();
    } else {
      fruitless = 0;
    }
  }
  context_.counters.add(Event::oom_stall);
  return false;
}

PageCount Reclaimer::most_returned() const {
  return PageCount(context_.budget.reserve().value() / 2);
}

bool Reclaimer::are_last(ReclaimKind kind) const {
  return kind != ReclaimKind::kProactive && !context_.budget.is_shrinking() &&
         context_.resident().value() <= most_returned().value() / 2;
}

bool Reclaimer::charge_return(Precharge& precharge) {
  return context_.resident() < most_returned() && precharge.try_add(PageCount(1), Charge::kReturn);
}

unsigned Reclaimer::page_out(std::optional<LockedLeaf>& locked, LeafRange range) {
  Leaf& leaf = locked->leaf();
  const bool is_isolated = context_.lru.isolate(leaf);
  if (is_isolated) (void)locked->take(range);
  locked.reset();
  if (!is_isolated) return 0;
  unsigned gone = 0;
  for (;;) {
    const unsigned n = squeeze(leaf, range, kMostPerSqueeze);
    gone += n;
    if (n == 0) break;
  }
  LockedLeaf(context_, leaf).put_back();
  return gone;
}

// ---- Sources ----------------------------------------------------------------------------------

PageCount Reclaimer::drop(PageCount goal, unsigned min_age) {
  PageCount freed;
  std::size_t tries = context_.lru.length(LeafList::kDroppable);
  while (freed < goal && tries-- > 0) {
    Leaf* leaf = context_.lru.isolate_oldest(LeafList::kDroppable);
    if (leaf == nullptr) break;
    LockedLeaf locked(context_, *leaf);
    bool is_old = false;
    for (unsigned i = 0; i < kPagesPerBlock && !is_old; ++i) {
      const Pte p = locked.get(i);
      is_old = p.state() == PteState::kMapped && !p.is_held() && is_old_enough(p, min_age);
    }
    if (is_old)
      freed += PageCount(
          locked.discard_by_reclaim(LeafRange::whole(), LockedLeaf::Discards::kOrdinaryToo).done);
    locked.put_back();
  }
  return freed;
}

bool Reclaimer::is_old_enough(Pte p, unsigned min_age) const {
  return p.has(Pte::kCold) || context_.lru.age_of(p) >= min_age;
}

PageCount Reclaimer::standby_target() const {
  return PageCount(std::max<std::uint64_t>(context_.budget.limit().value() / kStandbyShare, 64));
}

std::uint32_t Reclaimer::take_ns() const {
  return std::min(context_.mmu->costs().take_run_ns, kDearestTake);
}

unsigned Reclaimer::squeeze_batch() const {
  // One shootdown a batch: the dearer it is, the longer the batch.
  return take_ns() > kDearTake ? 32 : 16;
}

PageCount Reclaimer::squeeze_standby(PageCount goal) {
  PageCount freed;
  std::size_t tries = context_.lru.length(LeafList::kStandby) + 1;
  while (freed < goal && tries-- > 0) {
    Leaf* leaf = context_.lru.isolate_oldest(LeafList::kStandby);
    if (leaf == nullptr) break;
    const auto most =
        static_cast<unsigned>(std::min<std::uint64_t>((goal - freed).value(), kMostPerSqueeze));
    const unsigned n = squeeze(*leaf, LeafRange::whole(), std::max(most, squeeze_batch()));
    freed += PageCount(n);
    // Not done with: it stays the oldest.
    LockedLeaf(context_, *leaf).put_back(n == 0 ? 0 : Lru::bit(LeafList::kStandby));
  }
  return freed;
}

unsigned Reclaimer::squeeze(Leaf& leaf, LeafRange range, unsigned most) {
  struct Work {
    std::uint16_t page;
    swap::StoreOutcome outcome;
    swap::SwapEntry entry;
  };
  Work work[kMostPerSqueeze];
  unsigned n = 0;
  unsigned freed = 0;
  LeafRange seen = range.head(0);
  const mmu::Reservation* reservation = nullptr;
  {
    LockedLeaf locked(context_, leaf);
    freed += locked.drop_stale_shadows(range);
    // On the way to another place when it was found.
    if (locked.region().is(RegionFlags::kDroppable)) return freed + locked.drop_standby(range);
    reservation = &locked.region().reservation;
    for (unsigned i = range.first; i < range.end && n + freed < std::min(most, kMostPerSqueeze);
         ++i) {
      const Pte p = locked.get(i);
      if (p.state() != PteState::kStandby || p.is_held() || p.has(Pte::kSqueezing)) continue;
      seen.end = i + 1;
      if (locked.fall_back_on_copy(i)) {
        context_.counters.add(Event::pgcopykept);
        note_clean_let_go(1);
        ++freed;
        continue;
      }
      locked.begin_squeezing(i);
      work[n++] = {static_cast<std::uint16_t>(i), swap::StoreOutcome::kFull, {}};
    }
    if (n == 0) {
      if (!seen.is_empty()) locked.drop_stale_shadows(seen);
      return freed;
    }
  }
  bool full = false;
  for (unsigned k = 0; k < n && !full; ++k) {
    const std::byte* bytes = context_.mmu->shadow_bytes(*reservation, leaf.page(work[k].page));
    work[k].outcome = context_.swap->store(bytes, &work[k].entry);
    if (work[k].outcome == swap::StoreOutcome::kFull && context_.swap->has_file() &&
        !context_.swap->write_back(PageCount(kMostPerSqueeze)).is_zero())
      work[k].outcome = context_.swap->store(bytes, &work[k].entry);
    full = work[k].outcome == swap::StoreOutcome::kFull;
  }
  LockedLeaf locked(context_, leaf);
  unsigned stored = 0;
  for (unsigned k = 0; k < n; ++k) {
    const unsigned i = work[k].page;
    if (work[k].outcome != swap::StoreOutcome::kStored)
      locked.cancel_squeezing(i);
    else if (locked.finish_squeezing(i, work[k].entry))
      ++stored;
    else
      context_.counters.add(Event::pgsqueeze_raced);
  }
  context_.counters.add(Event::pswpout, stored);
  freed += locked.drop_stale_shadows(seen);
  locked.announce();
  return freed;
}

PageCount Reclaimer::age_out(PageCount goal, Ripe which) {
  PageCount taken;
  const std::size_t leaves = context_.lru.length(LeafList::kResident);
  const auto pass = [&](std::size_t tries, unsigned least_run) {
    while (taken < goal && tries-- > 0) {
      Leaf* leaf = context_.lru.isolate_oldest(LeafList::kResident);
      if (leaf == nullptr) break;
      const int in = context_.lru.ripens_in(*leaf);
      if (in > 0 && which == Ripe::kOnly) {  // and so is nothing behind it
        LockedLeaf(context_, *leaf).put_back();
        break;
      }
      const PageCount here = age_leaf(*leaf, std::max(in, 0), least_run);
      if (!here.is_zero()) context_.lru.note_pressed(in > 0);
      taken += here;
    }
  };
  // Where each run of pages costs a shootdown, places that are dense with old pages come first.
  if (context_.pins == mmu::Pins::kUnknown && take_ns() > kDearTake) {
    pass(std::min(leaves, kMostPassedOver), 8);
    pass(std::min(leaves, kMostPassedOver), 3);
  }
  pass(leaves, 1);
  return taken;
}

// Young pages among old ones: each run of old ones costs a flush of its own if the young ones stay,
// and each young one a touch on standby, if it is wanted, if they do not. Those that were wanted before
// will be.
bool Reclaimer::is_dearer_to_step_around(unsigned runs, unsigned young, unsigned raised) const {
  constexpr std::uint64_t kTouchNs = 5000;
  constexpr std::uint64_t kOneInSo = 4;  // of those that were never wanted again
  const std::uint64_t touches = (young - raised) / kOneInSo + raised;
  return std::uint64_t{runs} * take_ns() > touches * kTouchNs;
}

// Takes the pages that are ripe in `within` ticks.
PageCount Reclaimer::age_leaf(Leaf& leaf, int within, unsigned least_run) {
  LockedLeaf locked(context_, leaf);
  LockedLeaf::Marks old{};
  unsigned n_old = 0;
  unsigned n_young = 0;
  unsigned n_raised = 0;  // of the young ones, those that came back before
  unsigned runs = 0;
  bool in_run = false;
  int next = kNever;
  for (unsigned i = 0; i < kPagesPerBlock; ++i) {
    const Pte p = locked.get(i);
    const bool was_in_run = in_run;
    in_run = false;
    if ((p.state() != PteState::kMapped && p.state() != PteState::kClean) || p.is_held()) continue;
    const int left = context_.lru.ticks_left(p);
    if (left <= within) {
      old[i] = true;
      ++n_old;
      in_run = true;
      if (!was_in_run) ++runs;
    } else {
      ++n_young;
      if (p.level() != 0) ++n_raised;
      next = std::min(next, left);
    }
  }
  if (n_old < runs * least_run) {
    locked.put_back();
    return {};
  }
  context_.counters.add(Event::pgscan, n_old + n_young);
  unsigned taken = 0;
  const bool takes_all = is_dearer_to_step_around(runs, n_young, n_raised);
  if (n_old != 0) taken = locked.take(LeafRange::whole(), takes_all ? nullptr : &old).done;
  // What was refused comes up again after a round.
  context_.lru.set_ripens_in(leaf, next == kNever ? 1 : next);
  locked.put_back();
  return PageCount(taken);
}

// Compressed pages that nobody wants push out resident ones that somebody does, long before nothing
// is left to compress: with a file below, the pool may have a part of the budget and no more.
bool Reclaimer::pool_is_too_large() const {
  return context_.swap->has_file() &&
         context_.swap->frames() >
             std::min(pool_share_.most(context_.budget.limit()), context_.swap->most_frames());
}

// ---- Copies kept ------------------------------------------------------------------------------

void Reclaimer::shift_keep_balance(int by) {
  const int now = keep_balance_.load(std::memory_order_relaxed);
  keep_balance_.store(std::clamp(now + by, -kKeepLimit, kKeepLimit), std::memory_order_relaxed);
}

// ---- Background -------------------------------------------------------------------------------

namespace {
constexpr std::uint64_t kTickNs = 100'000'000;
}  // namespace

Status Reclaimer::start_background() {
  stop_.store(false, std::memory_order_relaxed);
  return thread_.start("buoy-reclaim", &background_body, this);
}

void Reclaimer::stop_background() {
  if (!thread_.is_started()) return;
  stop_.store(true, std::memory_order_relaxed);
  wake();
  thread_.join();
}

void Reclaimer::after_fork_in_child() {
  thread_.forget_after_fork();
  asleep_.store(0, std::memory_order_relaxed);
}

void Reclaimer::wake() {
  asleep_.store(0, std::memory_order_relaxed);
  wake_word_.fetch_add(1, std::memory_order_release);
  sys::futex_wake(&wake_word_, 1);
}

void Reclaimer::background_body(void* self) { static_cast<Reclaimer*>(self)->run_background(); }

void Reclaimer::beat() {
  if (heartbeat_ == nullptr) return;
  const std::uint64_t now = sys::monotonic_ns();
  if (now < next_beat_) return;
  next_beat_ = now + kTickNs;
  heartbeat_();
}

// Pages freed.
PageCount Reclaimer::background_round() {
  constexpr unsigned kRoundsPerTidy = 16;
  const GatePass pass(context_.gate);
  pool_share_.look(context_);
  if (pool_is_too_large()) (void)context_.swap->write_back(PageCount(kMostPerSqueeze));
  PageCount freed = reclaim(PageCount(kMostPerSqueeze), ReclaimKind::kBackground);
  // What the pool lost to sparse pageblocks comes back in steps, between the others.
  if (++background_rounds_ % kRoundsPerTidy == 0)
    freed += context_.arena->compactor().background_step(frames::Compactor::Pace::kBusy);
  beat();
  return freed;
}

void Reclaimer::keep_ahead() {
  bool idle = context_.budget.is_above_high();
  // Nothing to get: wait to be poked rather than spin.
  while (!idle && !stop_.load(std::memory_order_relaxed)) {
    {
      const GatePass pass(context_.gate);
      while (!context_.budget.is_above_high() && find_more_room()) {
      }
    }
    idle = context_.budget.is_above_high() || background_round().is_zero() ||
           context_.budget.is_above_high();
  }
}

void Reclaimer::run_background() {
  next_beat_ = sys::monotonic_ns() + kTickNs;
  while (!stop_.load(std::memory_order_relaxed)) {
    const std::uint32_t seen = wake_word_.load(std::memory_order_acquire);
    keep_ahead();
    if (!stop_.load(std::memory_order_relaxed)) {
      // Nobody waits for us: a bounded step, ten times a second.
      const GatePass pass(context_.gate);
      (void)context_.arena->compactor().background_step();
      beat();
    }
    pressure_.relax();
    asleep_.store(1, std::memory_order_seq_cst);
    if (!stop_.load(std::memory_order_relaxed)) sys::futex_wait(&wake_word_, seen, kTickNs);
    asleep_.store(0, std::memory_order_relaxed);
  }
}

}  // namespace buoy
