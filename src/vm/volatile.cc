// Volatile memory: marks, the purging that they allow, and what both do to pages.
//
// A page is PteState::kPurged only under an extent that says `purged`; whoever withdraws such a
// mark turns its purged pages into empty ones first, and that is how the program learns of them.

#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

namespace {
// A purge that needs less than this takes large extents in parts, so that no fault waits for a
// gigabyte; what is no larger goes whole.
constexpr PageCount kPurgeWhole(kPagesPerBlock);
// So many extents may turn out empty in one purge. A hard one never runs out of extents to try.
constexpr unsigned kMostFruitless = 256;
// So long a purger waits for changes of marks on all that is left: ordinary memory would be
// squeezed meanwhile for no reason. For a purge by another it waits until that ends.
constexpr std::uint64_t kLongestWaitNs = 3'000'000;

// Lets others run; after a while even those that have a lower priority.
void rest(unsigned* rests) {
  constexpr unsigned kYields = 64;
  if ((*rests)++ < kYields) {
    sys::yield();
    return;
  }
  std::uint32_t never = 0;
  sys::futex_wait(&never, 0, 50'000);
}
}  // namespace

// ---- Marks ------------------------------------------------------------------------------------

Vm::Marked Vm::mark_volatile(PageRun run, unsigned priority) {
  const VolatileMap::Marked marked = volatile_.mark(run, priority);
  if (!marked.newly.is_zero()) context_.counters.add(Event::pgvolatile, marked.newly.value());
  return {marked.done, marked.error};
}

Vm::Unmarked Vm::mark_nonvolatile(PageRun run) {
  using Outcome = VolatileMap::Outcome;
  Unmarked result;
  while (result.done < run.count) {
    const PageRun rest{run.first + result.done, run.count - result.done};
    const VolatileMap::Withdrawn withdrawn = volatile_.withdraw(rest);
    result.done += withdrawn.done;
    if (!withdrawn.newly.is_zero())
      context_.counters.add(Event::pgnonvolatile, withdrawn.newly.value());
    if (withdrawn.outcome == Outcome::kReentered) result.error = EDEADLK;
    if (withdrawn.outcome == Outcome::kHole || withdrawn.outcome == Outcome::kNoMemory)
      result.error = ENOMEM;
    if (withdrawn.outcome != Outcome::kPurged) break;
    result.done += recover({rest.first + withdrawn.done, rest.count - withdrawn.done}, &result);
  }
  return result;
}

// Withdraws the mark of the purged extent at the head of the run; the pages that this covers.
PageCount Vm::recover(PageRun run, Unmarked* result) {
  const SignalBlock signals;
  {
    const GatePass pass(context_.gate);
    const VolatileMap::Clearing exact = volatile_.begin_clearing_exact(run);
    if (!exact.run.count.is_zero()) {
      finish_recovery(exact, result);
      return run.count;
    }
  }
  const MarksPass pass(context_.gate, volatile_.lock());
  VolatileMap::Clearing part;
  const VolatileMap::Withdrawn withdrawn = volatile_.begin_clearing(run, &part);
  if (!withdrawn.newly.is_zero())
    context_.counters.add(Event::pgnonvolatile, withdrawn.newly.value());
  if (withdrawn.outcome == VolatileMap::Outcome::kPurged) finish_recovery(part, result);
  // A hole or a lack of memory will be met again, and told.
  return withdrawn.done + part.run.count;
}

void Vm::finish_recovery(const VolatileMap::Clearing& clearing, Unmarked* result) {
  if (forget_purged(clearing.run)) result->lost = true;
  const PageCount newly = volatile_.finish_clearing(clearing);
  context_.counters.add(Event::pgnonvolatile, newly.value());
}

// Purged pages become empty ones. Whether anything was lost: where purged pages read zeros, a touch
// has hidden which, and the extent's word is all there is.
bool Vm::forget_purged(PageRun run) {
  const Region* region = context_.table.find_region(run.first);
  bool lost = region != nullptr && region->is(RegionFlags::kPurgedReadsZero);
  for_each_locked_leaf(context_, run, [&lost](LockedLeaf& locked, LeafRange range) {
    for (const LeafRange purged :
         runs_where(locked.leaf(), range, [](Pte p) { return p.state() == PteState::kPurged; })) {
      lost = true;
      BUOY_CHECK(locked.forget(purged, PteState::kEmpty).complete());
    }
    return true;
  });
  return lost;
}

// ---- Purging ----------------------------------------------------------------------------------

PageCount Vm::purge(PageCount goal, PurgeEffort effort) {
  PageCount freed;
  unsigned purged = 0;
  std::uint64_t waiting_since = 0;
  unsigned rests = 0;
  for (unsigned fruitless = 0; freed < goal && fruitless < kMostFruitless;) {
    const VolatileMap::Claim claim = volatile_.claim(effort);
    if (!claim) {
      if (claim.others == VolatileMap::Others::kNothing) break;
      if (claim.others == VolatileMap::Others::kChange) {
        const std::uint64_t now = sys::monotonic_ns();
        if (waiting_since == 0) waiting_since = now;
        if (now - waiting_since > kLongestWaitNs) break;
      }
      rest(&rests);
      continue;
    }
    const PageCount n = purge_extent(claim, goal - freed, &purged);
    freed += n;
    fruitless = n.is_zero() ? fruitless + 1 : 0;
  }
  if (purged != 0) {
    context_.counters.add(Event::pgpurged, purged);
    context_.notifier.tell(Notice::kPurged);
  }
  return freed;
}

PageCount Vm::purge_extent(const VolatileMap::Claim& claim, PageCount goal, unsigned* purged) {
  const bool in_parts = goal < kPurgeWhole && claim.run.count > kPurgeWhole;
  PageCount freed;
  auto lost = VolatileMap::Lost::kNothing;
  Vpn at = claim.resume;
  while (at < claim.run.end() && !(in_parts && freed >= goal) && !volatile_.is_awaited(claim)) {
    const PageRun part = part_in_block({at, claim.run.end() - at});
    for_each_locked_leaf(context_, part, [&](LockedLeaf& locked, LeafRange range) {
      const LockedLeaf::Purged gone = locked.purge(range);
      if (gone.pages != 0) lost = VolatileMap::Lost::kPages;
      *purged += gone.pages;
      freed += PageCount(gone.frames);
      return true;
    });
    at = part.end();
  }
  volatile_.finish(claim, lost, at);
  return freed;
}

// ---- What the marks lie on --------------------------------------------------------------------

VolatileMap::Ground::Part Vm::part_at(PageRun run) {
  const Region* region = context_.table.find_region(run.first);
  if (region == nullptr) return {};
  const PageRun range = region->range();
  if (!range.contains(run.first)) return {};  // recycled meanwhile
  const PageRun within{run.first, std::min(run.end(), range.end()) - run.first};
  return {region->extents.covered_prefix_unlocked(within), region->flags};
}

}  // namespace buoy
