// How UffdMmu takes pages away. A take of a leaf (512 pages), microseconds, alone / with another
// thread running, as measured:
//
//                            every page    every 2nd      every 10th
//   MOVE                       34 / 46     139 / 2400      86 / 547    notices pins
//   mremap(DONTUNMAP)          16 / 33      12 / 27         8 / 18     whole leaves, pins unnoticed
//   protect, copy, DONTNEED    the only way without MOVE, and for memory that is not writable
//
#include <sys/mman.h>

#include "base/check.h"
#include "base/sys.h"
#include "mmu/uffd_abi.h"
#include "mmu/uffd_mmu.h"
#include "mmu/uffd_steps.h"

namespace buoy::mmu {

// A run may reach over pages that are not there, and among these over somebody else's, which stay: the
// kernel would move them as well.
Progress UffdMmu::take(const Reservation& r, PageRun run) {
  PageCount done;
  while (done < run.count) {
    const PageRun rest = rest_of(run, done);
    const PageCount ours = gone_.gap_prefix_unlocked(rest);
    if (ours.is_zero()) {
      done += gone_.covered_prefix_unlocked(rest);
      continue;
    }
    const Progress taken = take_ours(r, {rest.first, ours});
    done += taken.done;
    if (!taken.complete()) return {done, taken.outcome};
  }
  return {done, Outcome::kDone};
}

Progress UffdMmu::take_ours(const Reservation& r, PageRun run) {
  count(Event::mmu_take_calls);
  table_.note_populated(r, run, Side::kShadow);
  const std::uint64_t start = read_tsc();
  Progress progress;
  for (;;) {
    const PageRun rest = rest_of(run, progress.done);
    Progress more = uses_move_ ? take_by_move(r, rest) : take_by_copy(r, rest);
    progress = {progress.done + more.done, more.outcome};
    if (more.outcome != Outcome::kLocked) break;
    more = take_closed(r, rest_of(run, progress.done));
    progress = {progress.done + more.done, more.outcome};
    if (more.outcome != Outcome::kDone || progress.done == run.count) break;
  }
  take_run_.sample_since(start);
  if (progress.outcome == Outcome::kBusy) count(Event::mmu_busy);
  return progress;
}

Progress UffdMmu::take_by_move(const Reservation& r, PageRun run) {
  PageCount done;
  for (;;) {
    const PageRun rest = rest_of(run, done);
    const Progress step =
        in_steps(rest, &move_outcome, kMoveCrossesMappings, [&](Vpn first, PageCount n) {
          count_flush();
          return uffd_.move(r.shadow_of(first).address(), first.address(), n.bytes(),
                            Uffd::Holes::kAllowed);
        });
    done += step.done;
    if (step.outcome != Outcome::kExists) return {done, step.outcome};
    // The kernel says so, too, of a hole whose page is in the shadow already: that one is done.
    const PageCount holes = leading_holes(rest_of(run, done));
    if (holes.is_zero()) return {done, Outcome::kExists};
    done += holes;
  }
}

// Pages at the start of the run that are not at their address; none if the kernel does not say.
PageCount UffdMmu::leading_holes(PageRun run) const {
  PageCount holes;
  while (holes < run.count) {
    const std::uint64_t left = (run.count - holes).value();
    // A few at first: the next page is likely to be there.
    const std::uint64_t limit = holes.is_zero() ? 16 : Residency::kMaxPages;
    const PageCount window{left < limit ? left : limit};
    Residency::Bits there;
    if (!residency_.query(run.first + holes, window, there)) return holes;
    for (std::uint64_t i = 0; i < window.value(); ++i)
      if (there[i]) return holes + PageCount(i);
    holes += window;
  }
  return holes;
}

// Protected, no store reaches the page; then its copy is as good as the page. A few pages at a
// time, because they are in both places for that moment.
Progress UffdMmu::take_by_copy(const Reservation& r, PageRun run) {
  constexpr std::uint64_t kChunk = 16;
  count_flush();
  if (uffd_.protect(run.first.address(), run.count.bytes()) != 0) return {{}, Outcome::kFailed};

  PageCount done;
  while (done < run.count) {
    const std::uint64_t left = (run.count - done).value();
    const PageRun chunk{run.first + done, PageCount(left < kChunk ? left : kChunk)};
    const Progress copied = copy_out(r, chunk);
    const Progress left_address = discard_copied(r, {chunk.first, copied.done});
    done += left_address.done;
    if (!left_address.complete()) return {done, left_address.outcome};
    if (!copied.complete()) return {done, copied.outcome};
  }
  return {done, Outcome::kDone};
}

// Protected pages, copied to the shadow where they are.
Progress UffdMmu::copy_out(const Reservation& r, PageRun run) {
  Residency::Bits there;
  if (!residency_.query(run.first, run.count, there)) return {{}, Outcome::kFailed};
  for (PageCount i; i < run.count; i += PageCount(1)) {
    if (!there[i.value()]) continue;
    const Vpn page = run.first + i;
    const Uffd::Reach reach =
        uffd_.copy(r.shadow_of(page).address(), page.pointer(), kPageSize, Uffd::Writable::kYes);
    if (reach.error == EFAULT) return {i, Outcome::kLocked};  // it cannot be read
    if (reach.error != 0) return {i, copy_outcome(reach.error)};
  }
  return {run.count, Outcome::kDone};
}

// Lets the pages at the address go that are in the shadow now. The kernel may stop in the middle
// (a part of the run is locked): then those that are still there lose their copies again.
Progress UffdMmu::discard_copied(const Reservation& r, PageRun run) {
  if (run.count.is_zero()) return {};
  count_flush();
  if (sys::advise(run.first.pointer(), run.count.bytes(), MADV_DONTNEED) == 0)
    return {run.count, Outcome::kDone};
  Residency::Bits there;
  BUOY_CHECK(residency_.query(run.first, run.count, there));
  PageCount gone;
  while (gone < run.count && !there[gone.value()]) gone += PageCount(1);
  drop_shadow(r, rest_of(run, gone));
  return {gone, Outcome::kLocked};
}

Progress UffdMmu::take_block(const Reservation& r, Vpn block_start, PageCount populated) {
  const PageRun block{block_start, PageCount(kPagesPerBlock)};
  // One huge page moves as one by MOVE, for a tenth of what moving its page table takes.
  const bool may_be_huge =
      r.backing == Backing::kHugeWherePossible && populated.value() == kPagesPerBlock;
  if (!may_be_huge) {
    if (try_take_by_remap(r, block)) {
      count(Event::mmu_take_calls);
      return {block.count, Outcome::kDone};
    }
  }
  return take(r, block);
}

// The page table of the block moves to the shadow as one. The kernel checks neither pins nor pages
// shared since a fork here, so there must be none; and it would unlock locked memory.
bool UffdMmu::try_take_by_remap(const Reservation& r, PageRun block) {
  if (pins_ != Pins::kKnown || !uses_move_ || !table_.has_no_facts(r)) return false;
  if (!remap_gate_.try_enter()) return false;
  const bool done = remap_to_shadow(r, block);
  remap_gate_.leave();
  return done;
}

bool UffdMmu::remap_to_shadow(const Reservation& r, PageRun block) {
  const Vpn shadow = r.shadow_of(block.first);
  // Nothing is in the shadow, so this moves nothing; but it says EINVAL where it could not.
  const Uffd::Reach probe =
      uffd_.move(block.first.address(), shadow.address(), kPageSize, Uffd::Holes::kAllowed);
  if (probe.error == EINVAL) return false;
  const auto bytes = static_cast<long>(block.count.bytes());
  count_flush();
  const long rc =
      sys::call(SYS_mremap, sys::ptr(block.first.pointer()), bytes, bytes,
                MREMAP_MAYMOVE | MREMAP_FIXED | abi::kRemapDontUnmap, sys::ptr(shadow.pointer()));
  if (rc < 0) return false;
  table_.note_populated(r, block, Side::kShadow);
  // The new mapping has the address's advice and no registration. With it, mappings merge again;
  // should it fail, later takes into this block are refused (kLocked), and nothing is lost.
  if (r.backing == Backing::kHugeWherePossible)
    (void)sys::advise(shadow.pointer(), block.count.bytes(), MADV_NOHUGEPAGE);
  (void)uffd_.enroll(shadow.address(), block.count.bytes(), Uffd::Trap::kProtectedOnly);
  return true;
}

// The way back: all 512 pages are in the shadow, so nothing of the block can be missing at the
// address for the moment in which it is not registered. A third of what MOVE takes.
bool UffdMmu::try_give_back_by_remap(const Reservation& r, PageRun block) {
  if (pins_ != Pins::kKnown || !uses_move_ || !table_.has_no_facts(r) ||
      r.backing == Backing::kHugeWherePossible)
    return false;
  if (!remap_gate_.try_enter()) return false;
  const bool done = remap_to_address(r, block);
  remap_gate_.leave();
  return done;
}

bool UffdMmu::remap_to_address(const Reservation& r, PageRun block) {
  const Vpn shadow = r.shadow_of(block.first);
  // The page is in the shadow already (EEXIST); EINVAL says that the two sides are not alike.
  const Uffd::Reach probe =
      uffd_.move(shadow.address(), block.first.address(), kPageSize, Uffd::Holes::kAllowed);
  if (probe.error != EEXIST) return false;
  const auto bytes = static_cast<long>(block.count.bytes());
  count_flush();
  const long rc = sys::call(SYS_mremap, sys::ptr(shadow.pointer()), bytes, bytes,
                            MREMAP_MAYMOVE | MREMAP_FIXED | abi::kRemapDontUnmap,
                            sys::ptr(block.first.pointer()));
  if (rc < 0) return false;
  const Status enrolled =
      uffd_.enroll(block.first.address(), block.count.bytes(), Uffd::Trap::kMissingAndProtected);
  // Unregistered, the address would fill with zeros once its pages are taken again.
  BUOY_CHECK(enrolled.ok());
  return true;
}

}  // namespace buoy::mmu
