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
}  // namespace

Status VolatileMap::create() { return extents_.create(); }

// ---- Without the lock -------------------------------------------------------------------------

void VolatileMap::add_pages(std::int64_t pages) {
  volatile_[sys::current_cpu() % kShards].pages.fetch_add(pages, std::memory_order_relaxed);
}

PageCount VolatileMap::volatile_pages() const {
  std::int64_t sum = 0;
  for (const Shard& s : volatile_) sum += s.pages.load(std::memory_order_relaxed);
  return PageCount(sum < 0 ? 0 : static_cast<std::uint64_t>(sum));
}

bool VolatileMap::try_mark_exact(PageRun run, unsigned priority, Marked* marked) {
  const std::uint32_t i = extents_.find_exact(run);
  if (i == 0) return false;
  Extent& e = extent(i);
  const std::uint64_t stamp = queue_.next_stamp();
  MarkWord seen = e.mark.load();
  do {
    step_();
    // A word that stays the same from here to the exchange vouches for the bounds between.
    if (seen.has(MarkWord::kSeized) || e.run() != run) return false;
  } while (!e.mark.try_change(&seen, seen.marked(priority, stamp)));
  queue_.note_marked(priority);
  marked->done = run.count;
  if (!seen.has(MarkWord::kVolatile)) {
    marked->newly = run.count;
    add_pages(static_cast<std::int64_t>(run.count.value()));
  }
  return true;
}

bool VolatileMap::try_withdraw_exact(PageRun run, Withdrawn* withdrawn) {
  const std::uint32_t i = extents_.find_exact(run);
  if (i == 0) return false;
  Extent& e = extent(i);
  MarkWord seen = e.mark.load();
  for (;;) {
    step_();
    if (seen.has(MarkWord::kSeized) || e.run() != run) return false;
    if (seen.has(MarkWord::kPurging)) {
      await(e, MarkWord::kPurging);
      seen = e.mark.load();
      continue;
    }
    if (seen.has(MarkWord::kPurged)) {
      withdrawn->outcome = Outcome::kPurged;
      return true;
    }
    if (e.mark.try_change(&seen, seen.withdrawn())) {
      withdrawn->done = run.count;
      if (seen.has(MarkWord::kVolatile)) {
        withdrawn->newly = run.count;
        add_pages(-static_cast<std::int64_t>(run.count.value()));
      }
      return true;
    }
  }
}

void VolatileMap::await(Extent& e, std::uint64_t flags) {
  constexpr unsigned kSpins = 100;
  MarkWord seen = e.mark.load();
  for (unsigned spin = 0; seen.has(flags);) {
    if (!seen.has(MarkWord::kAwaited)) {
      if (e.mark.try_change(&seen, seen.with(MarkWord::kAwaited)))
        seen = seen.with(MarkWord::kAwaited);
      continue;
    }
    step_(Step::kWaiting);
    if (++spin < kSpins || step_.is_hooked())
      __builtin_ia32_pause();
    else
      e.mark.wait(seen);
    seen = e.mark.load();
  }
}

// ---- Marking ----------------------------------------------------------------------------------

VolatileMap::Marked VolatileMap::mark(PageRun run, unsigned priority) {
  Marked marked;
  if (try_mark_exact(run, priority, &marked)) return marked;
  return mark_slowly(run, priority);
}

bool VolatileMap::lock_for_change() {
  if (!step_.is_hooked()) return lock_.lock();
  while (!lock_.try_lock()) {
    if (lock_.is_held_here()) return false;
    step_(Step::kWaiting);
  }
  return true;
}

VolatileMap::Marked VolatileMap::mark_slowly(PageRun run, unsigned priority) {
  if (!lock_for_change()) return {{}, {}, EDEADLK};
  const MarksHold hold(lock_);
  PageCount mapped;
  if (Status s = survey(run, &mapped); !s) return {{}, {}, s.code()};
  Marked marked;
  const std::uint64_t stamp = queue_.next_stamp();
  while (marked.done < mapped && prepare().ok()) {
    const Stretch stretch = stretch_at({run.first + marked.done, mapped - marked.done});
    // Unmapped since the survey: a hole is a hole.
    if (stretch.run.count.is_zero()) break;
    marked.newly += cover(stretch, priority, stamp);
    marked.done += stretch.run.count;
  }
  if (!marked.done.is_zero()) queue_.note_marked(priority);
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
    const MarkWord seen = extent(i).mark.load();
    if (!seen.has(MarkWord::kVolatile | MarkWord::kSeized)) {
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
    const MarkWord word = seize(i);
    Extent& e = extent(i);
    if (word.has(MarkWord::kPurged)) {
      result.outcome = Outcome::kPurged;
      if (clearing == nullptr)
        e.mark.publish(word);
      else
        *clearing = {e.run(), i};
      break;
    }
    if (word.has(MarkWord::kVolatile)) {
      result.newly += e.run().count;
      add_pages(-static_cast<std::int64_t>(e.run().count.value()));
    }
    at = e.end_page();
    e.mark.publish(word.withdrawn());
  }
  result.done = at - run.first;
  return result;
}

VolatileMap::Clearing VolatileMap::begin_clearing_exact(PageRun run) {
  const std::uint32_t i = extents_.find_exact(run);
  if (i == 0) return {};
  Extent& e = extent(i);
  MarkWord seen = e.mark.load();
  for (;;) {
    step_();
    if (seen.has(MarkWord::kSeized) || !seen.has(MarkWord::kPurged) || e.run() != run) return {};
    if (seen.has(MarkWord::kPurging)) {
      await(e, MarkWord::kPurging);
      seen = e.mark.load();
      continue;
    }
    if (e.mark.try_change(&seen, seen.with(MarkWord::kSeized))) return {run, i};
  }
}

PageCount VolatileMap::finish_clearing(const Clearing& clearing) {
  Extent& e = extent(clearing.extent);
  e.resume = clearing.run.first;
  add_pages(-static_cast<std::int64_t>(clearing.run.count.value()));
  e.mark.publish(e.mark.load().withdrawn());
  return clearing.run.count;
}

// ---- Purging ----------------------------------------------------------------------------------

bool VolatileMap::is_awaited(const Claim& claim) const {
  step_();
  return extent(claim.extent).mark.load().has(MarkWord::kAwaited);
}

void VolatileMap::finish(const Claim& claim, Lost lost, Vpn reached) {
  Extent& e = extent(claim.extent);
  const bool is_through = reached == claim.run.end();
  e.resume = is_through ? claim.run.first : reached;
  MarkWord seen = e.mark.load();
  MarkWord next(0);
  do {
    step_();
    next = seen.without(MarkWord::kPurging | MarkWord::kAwaited);
    if (lost == Lost::kPages) next = next.with(MarkWord::kPurged);
    // Marked again meanwhile: it is worth another look.
    if (is_through && seen.has_same_mark_as(claim.word)) next = next.with(MarkWord::kSpent);
  } while (!e.mark.try_change(&seen, next));
  if (seen.has(MarkWord::kAwaited)) e.mark.wake_waiters();
  if (!next.has(MarkWord::kSpent)) queue_.put_back(claim, next);
}

// ---- Structure: under the lock ----------------------------------------------------------------

Status VolatileMap::prepare() {
  if (extents_.live() >= sweep_at_) sweep_withdrawn();
  while (n_spares_ < kSpares) {
    const std::uint32_t i = extents_.try_allocate();
    if (i == 0) {
      const std::uint32_t before = extents_.live();
      sweep_withdrawn();
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

// Withdrawn extents only save time. When as many more have come as there were at the last sweep, those
// that are withdrawn now go.
void VolatileMap::sweep_withdrawn() {
  for (std::uint32_t i = 1; i < extents_.high_water(); ++i) {
    Extent& e = extent(i);
    MarkWord seen = e.mark.load();
    if (seen.state() != MarkState::kWithdrawn) continue;
    if (e.mark.try_change(&seen, seen.with(MarkWord::kSeized))) take_out_and_free(i, seen);
  }
  sweep_at_ = std::max<std::uint32_t>(4096, 2 * extents_.live());
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

MarkWord VolatileMap::seize(std::uint32_t index) {
  constexpr std::uint64_t kBusy = MarkWord::kPurging | MarkWord::kSeized;
  Extent& e = extent(index);
  MarkWord seen = e.mark.load();
  for (;;) {
    step_();
    if (seen.has(kBusy)) {
      await(e, kBusy);
      seen = e.mark.load();
      continue;
    }
    if (e.mark.try_change(&seen, seen.with(MarkWord::kSeized))) return seen;
  }
}

void VolatileMap::cut(Vpn v) {
  const std::uint32_t i = at_or_after(v);
  if (i == 0 || extent(i).first_page() >= v) return;
  Extent& low = extent(i);
  const MarkWord word = seize(i);
  const std::uint32_t j = take_spare();
  Extent& high = extent(j);
  const Vpn end = low.end_page();
  high.flags.store(low.flags.load(std::memory_order_relaxed), std::memory_order_relaxed);
  extents_.set_run(i, {low.first_page(), v - low.first_page()});
  low.resume = low.first_page();
  high.resume = v;
  extents_.insert(j, {v, end - v});
  high.mark.publish(word.in_generation_after(high.mark.load()));
  low.mark.publish(word.next_generation());
}

PageCount VolatileMap::cover(const Stretch& stretch, unsigned priority, std::uint64_t stamp) {
  const PageRun run = stretch.run;
  cut(run.first);
  cut(run.end());
  std::uint32_t kept = 0;
  std::uint64_t purged = 0;
  PageCount were_volatile;
  for (std::uint32_t i = at_or_after(run.first); i != 0 && extent(i).first_page() < run.end();) {
    const MarkWord word = seize(i);
    if (word.has(MarkWord::kPurged)) purged = MarkWord::kPurged;
    if (word.has(MarkWord::kVolatile)) were_volatile += extent(i).run().count;
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
    e.flags.store(stretch.flags, std::memory_order_relaxed);
    if (is_fresh)
      extents_.insert(kept, run);
    else
      extents_.set_run(kept, run);
  }
  e.resume = run.first;
  const PageCount newly = run.count - were_volatile;
  add_pages(static_cast<std::int64_t>(newly.value()));
  e.mark.publish(MarkWord(purged).marked(priority, stamp).in_generation_after(e.mark.load()));
  return newly;
}

void VolatileMap::forget(PageRun run) {
  cut(run.first);
  cut(run.end());
  for (std::uint32_t i = at_or_after(run.first); i != 0 && extent(i).first_page() < run.end();) {
    const MarkWord word = seize(i);
    if (word.has(MarkWord::kVolatile))
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
    const MarkWord word = seize(i);
    Extent& e = extent(i);
    const PageRun run = e.run();
    const std::uint32_t next = at_or_after(run.end());
    extents_.take_out(i);
    const Vpn first = to + (run.first - from.first);
    e.resume = first;
    extents_.insert(i, {first, run.count});
    e.mark.publish(word.next_generation());
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
    if (!extent(i).mark.load().has(MarkWord::kPurged)) return false;
    at = extent(i).end_page();
  }
  return true;
}

void VolatileMap::take_out_and_free(std::uint32_t index, MarkWord word) {
  extents_.take_out(index);
  extent(index).mark.publish(word.withdrawn().with(MarkWord::kSeized).next_generation());
  extents_.release(index);
}

// ---- The whole --------------------------------------------------------------------------------

void VolatileMap::after_fork_in_child() {
  lock_.after_fork_in_child();
  // Nor is who was between its exchange and its note of a mark.
  queue_.after_fork_in_child();
  // Who was between its exchange and its count in another thread is not here to count.
  std::int64_t pages = 0;
  for (std::uint32_t i = 1; i < extents_.high_water(); ++i)
    if (extent(i).mark.load().has(MarkWord::kVolatile))
      pages += static_cast<std::int64_t>(extent(i).run().count.value());
  for (Shard& s : volatile_) s.pages.store(0, std::memory_order_relaxed);
  volatile_[0].pages.store(pages, std::memory_order_relaxed);
}

void VolatileMap::validate() {
  std::uint64_t pages = 0;
  for_each_extent({Vpn(), PageCount(UINT64_MAX)}, [&pages](const Extent& e) {
    const MarkWord word = e.mark.load();
    BUOY_CHECK(word.is_consistent());
    BUOY_CHECK(word.state() != MarkState::kPurging && word.state() != MarkState::kSeized);
    if (word.has(MarkWord::kVolatile)) pages += e.run().count.value();
    return true;
  });
  BUOY_CHECK(extents_.validate() + n_spares_ == extents_.live());
  BUOY_CHECK(pages == volatile_pages().value());
}

}  // namespace buoy
