#include "vm/volatile_map.h"

#include <algorithm>
#include <cerrno>

namespace buoy {

namespace {
// Ends a hold that lock() began.
class BUOY_SCOPED_CAPABILITY MarksHold {
 public:
  explicit MarksHold(MarksLock& lock) BUOY_REQUIRES(lock) : lock_(lock) {}
  ~MarksHold() BUOY_RELEASE() { lock_.unlock(); }
  MarksHold(const MarksHold&) = delete;
  MarksHold& operator=(const MarksHold&) = delete;

 private:
  MarksLock& lock_;
};

// After MurmurHash3's finalizer: neighbours in the slab must not be neighbours in weight.
std::uint32_t weight(std::uint32_t index) {
  std::uint32_t h = index;
  h = (h ^ (h >> 16)) * 0x85ebca6bU;
  h = (h ^ (h >> 13)) * 0xc2b2ae35U;
  return h ^ (h >> 16);
}
}  // namespace

Status VolatileMap::create() {
  if (Status s = extents_.create(sys::most_needed(kMaxExtents, kPageSize, 64)); !s) return s;
  return hash_.create();
}

// ---- Without the lock -------------------------------------------------------------------------

void VolatileMap::add_pages(std::int64_t pages) {
  volatile_[sys::current_cpu() % kShards].pages.fetch_add(pages, std::memory_order_relaxed);
}

PageCount VolatileMap::volatile_pages() const {
  std::int64_t sum = 0;
  for (const Shard& s : volatile_) sum += s.pages.load(std::memory_order_relaxed);
  return PageCount(sum < 0 ? 0 : static_cast<std::uint64_t>(sum));
}

std::uint32_t VolatileMap::find_exact(PageRun run) const {
  const std::uint32_t i = hash_.find(run.first);
  if (i == 0 || extent(i).run() != run) return 0;
  return i;
}

bool VolatileMap::try_mark_exact(PageRun run, unsigned priority, Marked* marked) {
  const std::uint32_t i = find_exact(run);
  if (i == 0) return false;
  Extent& e = extent(i);
  const std::uint64_t stamp = next_stamp();
  std::uint64_t seen = e.word.load(std::memory_order_acquire);
  do {
    step();
    // A word that stays the same from here to the exchange vouches for the bounds between.
    if (Word(seen).has(Word::kSeized) || e.run() != run) return false;
  } while (!e.word.compare_exchange_weak(seen, Word(seen).marked(priority, stamp).bits(),
                                         std::memory_order_acq_rel, std::memory_order_acquire));
  note_marked(priority);
  marked->done = run.count;
  if (!Word(seen).has(Word::kVolatile)) {
    marked->newly = run.count;
    add_pages(static_cast<std::int64_t>(run.count.value()));
  }
  return true;
}

bool VolatileMap::try_withdraw_exact(PageRun run, Withdrawn* withdrawn) {
  const std::uint32_t i = find_exact(run);
  if (i == 0) return false;
  Extent& e = extent(i);
  std::uint64_t seen = e.word.load(std::memory_order_acquire);
  for (;;) {
    step();
    const Word word(seen);
    if (word.has(Word::kSeized) || e.run() != run) return false;
    if (word.has(Word::kPurging)) {
      await(e, Word::kPurging);
      seen = e.word.load(std::memory_order_acquire);
      continue;
    }
    if (word.has(Word::kPurged)) {
      withdrawn->outcome = Outcome::kPurged;
      return true;
    }
    if (e.word.compare_exchange_weak(seen, word.idle().bits(), std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      withdrawn->done = run.count;
      if (word.has(Word::kVolatile)) {
        withdrawn->newly = run.count;
        add_pages(-static_cast<std::int64_t>(run.count.value()));
      }
      return true;
    }
  }
}

void VolatileMap::await(Extent& e, std::uint64_t flags) {
  constexpr unsigned kSpins = 100;
  std::uint64_t seen = e.word.load(std::memory_order_acquire);
  for (unsigned spin = 0; Word(seen).has(flags);) {
    if (!Word(seen).has(Word::kAwaited)) {
      e.word.compare_exchange_weak(seen, Word(seen).with(Word::kAwaited).bits(),
                                   std::memory_order_acquire, std::memory_order_acquire);
      continue;
    }
    step(Step::kWaiting);
    if (++spin < kSpins || hook_ != nullptr)
      __builtin_ia32_pause();
    else  // a futex is 32 bits: the half with the flags, which x86-64 has first
      sys::futex_wait(&e.word, static_cast<std::uint32_t>(seen), 2'000'000);
    seen = e.word.load(std::memory_order_acquire);
  }
}

void VolatileMap::wake_waiters(const Extent& e) const { sys::futex_wake(&e.word, INT32_MAX); }

// ---- Marking ----------------------------------------------------------------------------------

VolatileMap::Marked VolatileMap::mark(PageRun run, unsigned priority) {
  Marked marked;
  if (try_mark_exact(run, priority, &marked)) return marked;
  return mark_slowly(run, priority);
}

bool VolatileMap::lock_for_change() {
  if (hook_ == nullptr) return lock_.lock();
  while (!lock_.try_lock()) {
    if (lock_.is_held_here()) return false;
    step(Step::kWaiting);
  }
  return true;
}

VolatileMap::Marked VolatileMap::mark_slowly(PageRun run, unsigned priority) {
  if (!lock_for_change()) return {{}, {}, EDEADLK};
  const MarksHold hold(lock_);
  PageCount mapped;
  if (Status s = survey(run, &mapped); !s) return {{}, {}, s.code()};
  Marked marked;
  const std::uint64_t stamp = next_stamp();
  while (marked.done < mapped && prepare().ok()) {
    const Stretch stretch = stretch_at({run.first + marked.done, mapped - marked.done});
    // Unmapped since the survey: a hole is a hole.
    if (stretch.run.count.is_zero()) break;
    marked.newly += cover(stretch, priority, stamp);
    marked.done += stretch.run.count;
  }
  if (!marked.done.is_zero()) note_marked(priority);
  if (marked.done != run.count) marked.error = ENOMEM;
  return marked;
}

VolatileMap::Withdrawn VolatileMap::withdraw(PageRun run) {
  Withdrawn withdrawn;
  if (try_withdraw_exact(run, &withdrawn)) return withdrawn;
  if (!lock_for_change()) return {{}, {}, Outcome::kReentered};
  const MarksHold hold(lock_);
  return begin_clearing(run, nullptr);
}

VolatileMap::Withdrawn VolatileMap::begin_clearing(PageRun run, Clearing* clearing) {
  Withdrawn result;
  Vpn at = run.first;
  while (at < run.end() && result.outcome == Outcome::kDone) {
    std::uint32_t i = at_or_after(at);
    const Vpn gap_end = i == 0 ? run.end() : std::min(run.end(), extent(i).first_page());
    if (at < gap_end) {
      const PageCount mapped = ground_.part_at({at, gap_end - at}).mapped;
      if (mapped.is_zero()) result.outcome = Outcome::kHole;
      at += mapped;
      continue;
    }
    const Word seen(extent(i).word.load(std::memory_order_acquire));
    if (!seen.has(Word::kVolatile | Word::kSeized)) {
      at = std::min(run.end(), extent(i).end_page());
      continue;
    }
    if (!prepare()) {
      result.outcome = Outcome::kNoMemory;
      break;
    }
    cut(at);
    cut(run.end());
    i = at_or_after(at);
    const Word word = seize(i);
    Extent& e = extent(i);
    if (word.has(Word::kPurged)) {
      result.outcome = Outcome::kPurged;
      if (clearing == nullptr)
        publish(i, word);
      else
        *clearing = {e.run(), i};
      break;
    }
    if (word.has(Word::kVolatile)) {
      result.newly += e.run().count;
      add_pages(-static_cast<std::int64_t>(e.run().count.value()));
    }
    at = e.end_page();
    publish(i, word.idle());
  }
  result.done = at - run.first;
  return result;
}

VolatileMap::Clearing VolatileMap::begin_clearing_exact(PageRun run) {
  const std::uint32_t i = find_exact(run);
  if (i == 0) return {};
  Extent& e = extent(i);
  std::uint64_t seen = e.word.load(std::memory_order_acquire);
  for (;;) {
    step();
    const Word word(seen);
    if (word.has(Word::kSeized) || !word.has(Word::kPurged) || e.run() != run) return {};
    if (word.has(Word::kPurging)) {
      await(e, Word::kPurging);
      seen = e.word.load(std::memory_order_acquire);
      continue;
    }
    if (e.word.compare_exchange_weak(seen, word.with(Word::kSeized).bits(),
                                     std::memory_order_acq_rel, std::memory_order_acquire))
      return {run, i};
  }
}

PageCount VolatileMap::finish_clearing(const Clearing& clearing) {
  Extent& e = extent(clearing.extent);
  e.resume = clearing.run.first;
  add_pages(-static_cast<std::int64_t>(clearing.run.count.value()));
  publish(clearing.extent, Word(e.word.load(std::memory_order_relaxed)).idle());
  return clearing.run.count;
}

// ---- Purging ----------------------------------------------------------------------------------

VolatileMap::MarksMade VolatileMap::marks_made() const {
  MarksMade made;
  for (unsigned p = 0; p < kPriorities; ++p)
    made[p] = marks_made_[p].load(std::memory_order_acquire);
  return made;
}

std::uint64_t VolatileMap::marks_made_in_all() const {
  std::uint64_t sum = 0;
  for (const auto& m : marks_made_) sum += m.load(std::memory_order_acquire);
  return sum;
}

bool VolatileMap::is_overtaken(unsigned priority) const {
  for (unsigned p = 0; p < priority; ++p)
    if (marks_made_[p].load(std::memory_order_acquire) != batch_marks_[p]) return true;
  return false;
}

void VolatileMap::push_candidate(const Candidate& candidate) {
  // A heap with the last to go on top, so that it makes room for better ones.
  const auto goes_before = [](const Candidate& a, const Candidate& b) { return a.order < b.order; };
  if (batch_size_ == kBatch) {
    if (!goes_before(candidate, batch_[0])) return;
    std::pop_heap(batch_.begin(), batch_.begin() + batch_size_, goes_before);
    --batch_size_;
  }
  batch_[batch_size_++] = candidate;
  std::push_heap(batch_.begin(), batch_.begin() + batch_size_, goes_before);
}

VolatileMap::Others VolatileMap::collect(PurgeEffort effort) {
  batch_marks_ = marks_made();
  batch_effort_ = effort;
  batch_next_ = batch_size_ = 0;
  auto others = Others::kNothing;
  const std::uint64_t now = stamp_.load(std::memory_order_relaxed);
  const std::uint32_t end = extents_.high_water();
  for (std::uint32_t i = 1; i < end; ++i) {
    const Word word(extent(i).word.load(std::memory_order_acquire));
    if (!word.has(Word::kVolatile)) continue;
    if (word.has(Word::kPurging | Word::kSeized)) {
      others = std::max(others, word.has(Word::kPurging) ? Others::kPurge : Others::kChange);
      continue;
    }
    const bool may_compress =
        has(extent(i).flags.load(std::memory_order_relaxed), RegionFlags::kVolatileMayCompress);
    if (effort == PurgeEffort::kGentle && (word.has(Word::kSpent) || may_compress)) continue;
    std::uint64_t age = (now - word.stamp()) & Word::kStampMask;
    if (age > Word::kStampMask / 2) age = 0;  // marked while we look
    // What was emptied before comes last: only what is held or was filled again is in it.
    const std::uint64_t spent = word.has(Word::kSpent) ? kPriorities : 0;
    const std::uint64_t order =
        (spent + word.priority()) << Word::kStampBits | (Word::kStampMask - age);
    push_candidate({order, word.bits(), i});
  }
  std::sort_heap(batch_.begin(), batch_.begin() + batch_size_,
                 [](const Candidate& a, const Candidate& b) { return a.order < b.order; });
  return others;
}

VolatileMap::Claim VolatileMap::claim(PurgeEffort effort) {
  if (effort == PurgeEffort::kGentle &&
      marks_made_in_all() == nothing_at_.load(std::memory_order_acquire))
    return {};
  Claim none;
  const Guard guard(batch_lock_);
  for (unsigned collected = 0;;) {
    if (batch_effort_ != effort) batch_next_ = batch_size_;
    while (batch_next_ < batch_size_) {
      const Candidate& c = batch_[batch_next_];
      if (is_overtaken(Word(c.word).priority())) {
        batch_next_ = batch_size_;
        break;
      }
      ++batch_next_;
      Extent& e = extent(c.extent);
      std::uint64_t expected = c.word;
      step();
      if (!e.word.compare_exchange_strong(expected, Word(c.word).with(Word::kPurging).bits(),
                                          std::memory_order_acq_rel)) {
        // If it was cut, its parts are as old as it was, and not in the batch.
        if (!Word(expected).has_same_generation_as(Word(c.word))) batch_next_ = batch_size_;
        continue;
      }
      return {c.extent, e.run(), std::max(e.resume, e.first_page()), c.word, Others::kNothing};
    }
    none.others = Others::kChange;
    if (++collected > 2) return none;  // others were faster, twice
    none.others = collect(effort);
    if (batch_size_ != 0) continue;
    if (none.others == Others::kNothing && effort == PurgeEffort::kGentle) {
      std::uint64_t sum = 0;
      for (const std::uint64_t m : batch_marks_) sum += m;
      nothing_at_.store(sum, std::memory_order_release);
    }
    return none;
  }
}

bool VolatileMap::is_awaited(const Claim& claim) const {
  step();
  return Word(extent(claim.extent).word.load(std::memory_order_acquire)).has(Word::kAwaited);
}

void VolatileMap::finish(const Claim& claim, Lost lost, Vpn reached) {
  Extent& e = extent(claim.extent);
  const bool is_through = reached == claim.run.end();
  e.resume = is_through ? claim.run.first : reached;
  std::uint64_t seen = e.word.load(std::memory_order_acquire);
  Word next(0);
  do {
    step();
    next = Word(seen).without(Word::kPurging | Word::kAwaited);
    if (lost == Lost::kPages) next = next.with(Word::kPurged);
    // Marked again meanwhile: it is worth another look.
    if (is_through && Word(seen).has_same_mark_as(Word(claim.word))) next = next.with(Word::kSpent);
  } while (!e.word.compare_exchange_weak(seen, next.bits(), std::memory_order_acq_rel,
                                         std::memory_order_acquire));
  if (Word(seen).has(Word::kAwaited)) wake_waiters(e);
  if (next.has(Word::kSpent)) return;
  const Guard guard(batch_lock_);
  nothing_at_.store(~std::uint64_t{0}, std::memory_order_release);
  // The rest of it goes next, before anything else is begun.
  if (batch_next_ > 0 && next.has_same_mark_as(Word(claim.word)))
    batch_[--batch_next_] = {0, next.bits(), claim.extent};
}

// ---- Structure: under the lock ----------------------------------------------------------------

Status VolatileMap::prepare() {
  if (extents_.live() >= sweep_at_) sweep_idle();
  while (n_spares_ < kSpares) {
    const std::uint32_t i = extents_.try_allocate();
    if (i == 0) {
      const std::uint32_t before = extents_.live();
      sweep_idle();
      if (extents_.live() == before) return Error{ENOMEM};
      continue;
    }
    spares_[n_spares_++] = i;
  }
  return {};
}

std::uint32_t VolatileMap::take_spare() {
  BUOY_CHECK(n_spares_ > 0);
  return spares_[--n_spares_];
}

// Idle extents only save time. When as many more have come as there were at the last sweep, those
// that are idle now go.
void VolatileMap::sweep_idle() {
  for (std::uint32_t i = 1; i < extents_.high_water(); ++i) {
    Extent& e = extent(i);
    std::uint64_t seen = e.word.load(std::memory_order_acquire);
    constexpr std::uint64_t kAnything =
        Word::kVolatile | Word::kPurging | Word::kSeized | Word::kAwaited;
    if (Word(seen).has(kAnything)) continue;
    if (e.word.compare_exchange_strong(seen, Word(seen).with(Word::kSeized).bits(),
                                       std::memory_order_acq_rel))
      take_out_and_free(i, Word(seen));
  }
  sweep_at_ = std::max<std::uint32_t>(4096, 2 * extents_.live());
}

std::uint32_t VolatileMap::at_or_after(Vpn v) const {
  std::uint32_t best = 0;
  for (std::uint32_t i = root_; i != 0;) {
    if (extent(i).end_page() > v) {
      best = i;
      i = extent(i).left;
    } else {
      i = extent(i).right;
    }
  }
  return best;
}

VolatileMap::Stretch VolatileMap::stretch_at(PageRun run) {
  Stretch stretch{{run.first, PageCount()}};
  for (Vpn at = run.first; at < run.end(); at = stretch.run.end()) {
    const std::uint32_t i = at_or_after(at);
    Ground::Part part;
    if (i != 0 && extent(i).first_page() <= at) {
      part = {std::min(extent(i).end_page(), run.end()) - at,
              extent(i).flags.load(std::memory_order_relaxed)};
    } else {
      const Vpn gap_end = i == 0 ? run.end() : std::min(run.end(), extent(i).first_page());
      part = ground_.part_at({at, gap_end - at});
    }
    if (part.mapped.is_zero()) break;
    if (at == run.first) stretch.flags = part.flags;
    if (part.flags != stretch.flags) break;
    stretch.run.count += part.mapped;
  }
  return stretch;
}

Status VolatileMap::survey(PageRun run, PageCount* mapped) {
  Vpn at = run.first;
  while (at < run.end()) {
    const std::uint32_t i = at_or_after(at);
    if (i != 0 && extent(i).first_page() <= at) {
      // Where an extent is, this was asked when it was made.
      at = std::min(run.end(), extent(i).end_page());
      continue;
    }
    const Vpn gap_end = i == 0 ? run.end() : std::min(run.end(), extent(i).first_page());
    const PageRun part{at, ground_.part_at({at, gap_end - at}).mapped};
    if (part.count.is_zero()) break;
    if (ground_.has_mlocked(part)) return Error{EINVAL};
    at = part.end();
  }
  *mapped = at - run.first;
  if (mapped->is_zero()) return Error{ENOMEM};
  return {};
}

VolatileMap::Word VolatileMap::seize(std::uint32_t index) {
  Extent& e = extent(index);
  std::uint64_t seen = e.word.load(std::memory_order_acquire);
  for (;;) {
    step();
    if (Word(seen).has(Word::kPurging | Word::kSeized)) {
      await(e, Word::kPurging | Word::kSeized);
      seen = e.word.load(std::memory_order_acquire);
      continue;
    }
    if (e.word.compare_exchange_weak(seen, Word(seen).with(Word::kSeized).bits(),
                                     std::memory_order_acq_rel, std::memory_order_acquire))
      return Word(seen);
  }
}

void VolatileMap::publish(std::uint32_t index, Word word) {
  Extent& e = extent(index);
  const Word before(e.word.exchange(word.bits(), std::memory_order_acq_rel));
  if (before.has(Word::kAwaited)) wake_waiters(e);
}

void VolatileMap::cut(Vpn v) {
  const std::uint32_t i = at_or_after(v);
  if (i == 0 || extent(i).first_page() >= v) return;
  Extent& low = extent(i);
  const Word word = seize(i);
  const std::uint32_t j = take_spare();
  Extent& high = extent(j);
  high.first.store(v.value(), std::memory_order_relaxed);
  high.end.store(low.end_page().value(), std::memory_order_relaxed);
  high.flags.store(low.flags.load(std::memory_order_relaxed), std::memory_order_relaxed);
  low.end.store(v.value(), std::memory_order_relaxed);
  low.resume = low.first_page();
  high.resume = v;
  insert(j);
  publish(j, word.in_generation_after(Word(high.word.load(std::memory_order_relaxed))));
  publish(i, word.next_generation());
}

PageCount VolatileMap::cover(const Stretch& stretch, unsigned priority, std::uint64_t stamp) {
  const PageRun run = stretch.run;
  cut(run.first);
  cut(run.end());
  std::uint32_t kept = 0;
  std::uint64_t purged = 0;
  PageCount were_volatile;
  for (std::uint32_t i = at_or_after(run.first); i != 0 && extent(i).first_page() < run.end();) {
    const Word word = seize(i);
    if (word.has(Word::kPurged)) purged = Word::kPurged;
    if (word.has(Word::kVolatile)) were_volatile += extent(i).run().count;
    const std::uint32_t next = at_or_after(extent(i).end_page());
    if (kept == 0)
      kept = i;
    else
      take_out_and_free(i, word);
    i = next;
  }
  const bool is_fresh = kept == 0;
  if (is_fresh) kept = take_spare();
  Extent& e = extent(kept);
  if (is_fresh || e.run() != run) {
    if (!is_fresh) leave_hash(kept);
    e.first.store(run.first.value(), std::memory_order_relaxed);
    e.end.store(run.end().value(), std::memory_order_relaxed);
    e.flags.store(stretch.flags, std::memory_order_relaxed);
    if (is_fresh)
      insert(kept);
    else
      enter_in_hash(kept);
  }
  e.resume = run.first;
  const Word before(e.word.load(std::memory_order_relaxed));
  const PageCount newly = run.count - were_volatile;
  add_pages(static_cast<std::int64_t>(newly.value()));
  publish(kept, Word(purged).marked(priority, stamp).in_generation_after(before));
  return newly;
}

void VolatileMap::forget(PageRun run) {
  cut(run.first);
  cut(run.end());
  for (std::uint32_t i = at_or_after(run.first); i != 0 && extent(i).first_page() < run.end();) {
    const Word word = seize(i);
    if (word.has(Word::kVolatile))
      add_pages(-static_cast<std::int64_t>(extent(i).run().count.value()));
    const std::uint32_t next = at_or_after(extent(i).end_page());
    take_out_and_free(i, word);
    i = next;
  }
}

void VolatileMap::relocate(PageRun from, Vpn to) {
  cut(from.first);
  cut(from.end());
  for (std::uint32_t i = at_or_after(from.first); i != 0 && extent(i).first_page() < from.end();) {
    const Word word = seize(i);
    Extent& e = extent(i);
    const PageRun run = e.run();
    const std::uint32_t next = at_or_after(run.end());
    take_out(i);
    const Vpn first = to + (run.first - from.first);
    e.first.store(first.value(), std::memory_order_relaxed);
    e.end.store((first + run.count).value(), std::memory_order_relaxed);
    e.resume = first;
    insert(i);
    publish(i, word.next_generation());
    i = next;
  }
}

bool VolatileMap::has_marks(PageRun run) {
  bool found = false;
  for_each_volatile(run, [&found](PageRun) { found = true; });
  return found;
}

bool VolatileMap::is_all_purged(PageRun run) {
  Vpn at = run.first;
  while (at < run.end()) {
    const std::uint32_t i = at_or_after(at);
    if (i == 0 || extent(i).first_page() > at) return false;
    if (!Word(extent(i).word.load(std::memory_order_relaxed)).has(Word::kPurged)) return false;
    at = extent(i).end_page();
  }
  return true;
}

void VolatileMap::enter_in_hash(std::uint32_t index) {
  hash_.insert(extent(index).first_page(), index,
               [this](std::uint32_t i) { return extent(i).first_page(); });
}

void VolatileMap::leave_hash(std::uint32_t index) {
  hash_.erase(extent(index).first_page(), index,
              [this](std::uint32_t i) { return extent(i).first_page(); });
}

void VolatileMap::insert(std::uint32_t index) {
  const Vpn key = extent(index).first_page();
  std::uint32_t* at = &root_;
  while (*at != 0 && weight(*at) >= weight(index)) {
    Extent& e = extent(*at);
    at = key < e.first_page() ? &e.left : &e.right;
  }
  Extent& e = extent(index);
  split(*at, key, &e.left, &e.right);
  *at = index;
  enter_in_hash(index);
}

void VolatileMap::take_out(std::uint32_t index) {
  const Vpn key = extent(index).first_page();
  std::uint32_t* at = &root_;
  while (*at != index) {
    Extent& e = extent(*at);
    at = key < e.first_page() ? &e.left : &e.right;
    BUOY_CHECK(*at != 0);
  }
  *at = merge(extent(index).left, extent(index).right);
  leave_hash(index);
}

void VolatileMap::take_out_and_free(std::uint32_t index, Word word) {
  take_out(index);
  publish(index, word.idle().with(Word::kSeized).next_generation());
  extents_.release(index);
}

void VolatileMap::split(std::uint32_t tree, Vpn at, std::uint32_t* below, std::uint32_t* above) {
  while (tree != 0) {
    Extent& e = extent(tree);
    if (e.first_page() < at) {
      *below = tree;
      below = &e.right;
      tree = e.right;
    } else {
      *above = tree;
      above = &e.left;
      tree = e.left;
    }
  }
  *below = *above = 0;
}

std::uint32_t VolatileMap::merge(std::uint32_t below, std::uint32_t above) {
  std::uint32_t root = 0;
  std::uint32_t* at = &root;
  while (below != 0 && above != 0) {
    if (weight(below) > weight(above)) {
      *at = below;
      at = &extent(below).right;
      below = *at;
    } else {
      *at = above;
      at = &extent(above).left;
      above = *at;
    }
  }
  *at = below != 0 ? below : above;
  return root;
}

// ---- The whole --------------------------------------------------------------------------------

void VolatileMap::after_fork_in_child() {
  lock_.after_fork_in_child();
  // Nor is who was between its exchange and its note of a mark.
  nothing_at_.store(~std::uint64_t{0}, std::memory_order_relaxed);
  // Who was between its exchange and its count in another thread is not here to count.
  std::int64_t pages = 0;
  for (std::uint32_t i = 1; i < extents_.high_water(); ++i)
    if (Word(extent(i).word.load(std::memory_order_relaxed)).has(Word::kVolatile))
      pages += static_cast<std::int64_t>(extent(i).run().count.value());
  for (Shard& s : volatile_) s.pages.store(0, std::memory_order_relaxed);
  volatile_[0].pages.store(pages, std::memory_order_relaxed);
}

void VolatileMap::validate() {
  std::uint32_t count = 0;
  std::uint64_t pages = 0;
  Vpn last;
  for (std::uint32_t i = at_or_after(Vpn()); i != 0; i = at_or_after(last)) {
    const Extent& e = extent(i);
    const Word word(e.word.load(std::memory_order_relaxed));
    BUOY_CHECK(e.first_page() >= last && e.end_page() > e.first_page());
    BUOY_CHECK(!word.has(Word::kPurging | Word::kSeized | Word::kAwaited));
    BUOY_CHECK(word.has(Word::kVolatile) || !word.has(Word::kPurged | Word::kSpent));
    BUOY_CHECK(e.left == 0 || weight(e.left) <= weight(i));
    BUOY_CHECK(e.right == 0 || weight(e.right) <= weight(i));
    if (word.has(Word::kVolatile)) pages += e.run().count.value();
    ++count;
    last = e.end_page();
  }
  BUOY_CHECK(count + n_spares_ == extents_.live());
  BUOY_CHECK(pages == volatile_pages().value());
  if (hash_.size() != count) return;  // it was full once
  for (std::uint32_t i = at_or_after(Vpn()); i != 0; i = at_or_after(extent(i).end_page()))
    BUOY_CHECK(find_exact(extent(i).run()) == i);
}

}  // namespace buoy
