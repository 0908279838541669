// How UffdMmu brings pages in, and the small calls on single pages and runs.
#include <sys/mman.h>
#include <sys/uio.h>

#include "base/sys.h"
#include "mmu/uffd_abi.h"
#include "mmu/uffd_mmu.h"
#include "mmu/uffd_steps.h"

namespace buoy::mmu {

namespace {

constexpr PageCount kBlock{kPagesPerBlock};

PageCount smaller(PageCount a, PageCount b) { return a < b ? a : b; }

// Zeros in an empty part of a shadow, at once. False if the system has no memory; some of it may
// be populated then.
bool populate(Vpn first, PageCount count) {
  const int rc = sys::advise(first.pointer(), count.bytes(), abi::kAdvicePopulateWrite);
  if (rc == 0) return true;
  if (rc != -EINVAL) return false;
  // Before 5.14. Nobody else stores here.
  for (PageCount i; i < count; i += PageCount(1))
    *reinterpret_cast<volatile std::byte*>((first + i).pointer()) = std::byte{0};
  return true;
}

bool populate_as_huge_page(Vpn first) {
  (void)sys::advise(first.pointer(), kBlockSize, MADV_HUGEPAGE);
  const bool populated = populate(first, kBlock);
  (void)sys::advise(first.pointer(), kBlockSize, MADV_NOHUGEPAGE);
  return populated;
}

bool is_whole_block(PageRun run) { return run.first.in_block() == 0 && run.count >= kBlock; }

}  // namespace

// ---- In ----------------------------------------------------------------------------------------

Progress UffdMmu::install(const Reservation& r, PageRun run, const std::byte* bytes,
                          Stores stores) {
  count(Event::mmu_install_calls);
  return copy_in(r, run, bytes, stores);
}

Progress UffdMmu::copy_in(const Reservation& r, PageRun run, const std::byte* bytes,
                          Stores stores) {
  table_.note_populated(r, run, Side::kAddress);
  const auto writable = stores == Stores::kAllowed ? Uffd::Writable::kYes : Uffd::Writable::kNo;
  const std::uint64_t start = read_tsc();
  const Progress progress =
      in_steps(run, &copy_outcome, kCopyCrossesMappings, [&](Vpn first, PageCount n) {
        return uffd_.copy(first.address(), bytes + (first - run.first).bytes(), n.bytes(),
                          writable);
      });
  if (progress.complete()) copy_page_.sample_since(start, run.count.value());
  return progress;
}

// By COPY from zeros (0.6 us a page); only a whole huge page comes cheaper, cleared in the shadow
// and moved (0.1 to 0.3 us a page).
Progress UffdMmu::install_zeros(const Reservation& r, PageRun run) {
  count(Event::mmu_install_calls);
  PageCount done;
  while (done < run.count) {
    const PageRun rest = rest_of(run, done);
    if (uses_move_ && r.backing == Backing::kHugeWherePossible && is_whole_block(rest) &&
        zeros_by_move(r, {rest.first, kBlock})) {
      done += kBlock;
      continue;
    }
    const PageCount to_block_end{kPagesPerBlock - rest.first.in_block()};
    const PageRun piece{rest.first,
                        smaller(smaller(rest.count, to_block_end), PageCount(kZeroPages))};
    const Progress progress = copy_in(r, piece, zeros_, Stores::kAllowed);
    done += progress.done;
    if (!progress.complete()) return {done, progress.outcome};
  }
  return {done, Outcome::kDone};
}

// True if the whole block is there now; else nothing has changed.
bool UffdMmu::zeros_by_move(const Reservation& r, PageRun block) {
  if (populate_as_huge_page(r.shadow_of(block.first)) && move_back(r, block).complete()) {
    table_.note_populated(r, block, Side::kShadow);
    return true;
  }
  drop_shadow(r, block);
  return false;
}

std::byte* UffdMmu::stage(const Reservation& r, PageRun run) {
  table_.note_populated(r, run, Side::kShadow);
  PageCount done;
  while (done < run.count) {
    const PageRun rest = rest_of(run, done);
    const bool as_huge = r.backing == Backing::kHugeWherePossible && is_whole_block(rest);
    const PageCount to_block_end{kPagesPerBlock - rest.first.in_block()};
    const PageCount piece = as_huge ? kBlock : smaller(rest.count, to_block_end);
    const Vpn shadow = r.shadow_of(rest.first);
    if (!(as_huge ? populate_as_huge_page(shadow) : populate(shadow, piece))) {
      drop_shadow(r, {run.first, done + piece});
      return nullptr;
    }
    done += piece;
  }
  return r.shadow_of(run.first).pointer();
}

// ---- Back --------------------------------------------------------------------------------------

Return UffdMmu::preferred_return(PageCount n) const {
  if (!uses_move_) return Return::kCopied;
  // A short MOVE costs about the same for any length: it is the shootdown that is dear.
  const std::uint64_t by_copy = n.value() * copy_page_.ns();
  return by_copy < move_back_.ns() ? Return::kCopied : Return::kMoved;
}

GiveBackResult UffdMmu::give_back(const Reservation& r, PageRun run, Return allowed) {
  // Now and then a MOVE where COPY is preferred, or its cost would stay that of busier times.
  constexpr std::uint32_t kTryMoveEvery = 64;
  count(Event::mmu_install_calls);
  table_.note_populated(r, run, Side::kAddress);
  bool copy = allowed == Return::kCopied && preferred_return(run.count) == Return::kCopied;
  if (copy && uses_move_ &&
      copies_since_move_.fetch_add(1, std::memory_order_relaxed) % kTryMoveEvery ==
          kTryMoveEvery - 1)
    copy = false;
  if (copy) return {copy_back(r, run), Return::kCopied};
  if (!uses_move_) return {copy_back_and_drop(r, run), Return::kMoved};
  if (run.count.value() == kPagesPerBlock && run.first.in_block() == 0 &&
      try_give_back_by_remap(r, run))
    return {{run.count, Outcome::kDone}, Return::kMoved};
  Progress progress = move_back(r, run);
  if (progress.outcome == Outcome::kLocked) {  // not writable, or locked at the address alone
    const Progress more = copy_back_and_drop(r, rest_of(run, progress.done));
    progress = {progress.done + more.done, more.outcome};
  }
  return {progress, Return::kMoved};
}

Progress UffdMmu::move_back(const Reservation& r, PageRun run) {
  constexpr PageCount kShort{64};
  PageCount done;
  for (;;) {
    const std::uint64_t start = read_tsc();
    const Progress step = in_steps(
        rest_of(run, done), &move_outcome, kMoveCrossesMappings, [&](Vpn first, PageCount n) {
          count_flush();
          return uffd_.move(first.address(), r.shadow_of(first).address(), n.bytes(),
                            Uffd::Holes::kRefused);
        });
    done += step.done;
    if (step.complete() && run.count <= kShort) move_back_.sample_since(start);
    // A shadow page that a fork relative shares becomes ours by a store, in its place.
    if (step.outcome != Outcome::kBusy || !table_.is_forked(r)) return {done, step.outcome};
    if (!populate(r.shadow_of(run.first + done), PageCount(1))) return {done, Outcome::kNoMemory};
  }
}

Progress UffdMmu::copy_back(const Reservation& r, PageRun run) {
  return copy_in(r, run, r.shadow_of(run.first).pointer(), Stores::kAllowed);
}

Progress UffdMmu::copy_back_and_drop(const Reservation& r, PageRun run) {
  constexpr PageCount kChunk{16};
  PageCount done;
  while (done < run.count) {
    const PageRun chunk{run.first + done, smaller(run.count - done, kChunk)};
    const Progress progress = copy_back(r, chunk);
    if (!progress.done.is_zero()) drop_shadow(r, {chunk.first, progress.done});
    done += progress.done;
    if (!progress.complete()) return {done, progress.outcome};
  }
  return {done, Outcome::kDone};
}

// ---- In place ----------------------------------------------------------------------------------

Progress UffdMmu::protect(const Reservation&, PageRun run) {
  count_flush();
  const int error = uffd_.protect(run.first.address(), run.count.bytes());
  if (error != 0) return {{}, copy_outcome(error)};
  return {run.count, Outcome::kDone};
}

Progress UffdMmu::unprotect(const Reservation&, PageRun run) {
  count_flush();
  const int error = uffd_.unprotect(run.first.address(), run.count.bytes());
  if (error != 0) return {{}, copy_outcome(error)};
  return {run.count, Outcome::kDone};
}

Progress UffdMmu::discard(const Reservation&, PageRun run) {
  count_flush();
  const int rc = sys::advise(run.first.pointer(), run.count.bytes(), MADV_DONTNEED);
  if (rc == 0) return {run.count, Outcome::kDone};
  // The kernel does not say how far it came; what lies before the page that it refuses is gone.
  PageCount done;
  while (done < run.count &&
         sys::advise((run.first + done).pointer(), kPageSize, MADV_DONTNEED) == 0)
    done += PageCount(1);
  return {done, rc == -EINVAL ? Outcome::kLocked : Outcome::kFailed};
}

Progress UffdMmu::discard_runs(const Reservation& r, std::span<const PageRun> runs) {
  BUOY_DCHECK(runs.size() <= kMostRuns);
  PageCount done;
  std::size_t first = 0;
  const bool at_once = runs.size() > 1 && may_advise_all_.load(std::memory_order_relaxed);
  if (at_once) {
    count_flush();
    iovec ranges[kMostRuns];
    for (std::size_t i = 0; i < runs.size(); ++i)
      ranges[i] = {runs[i].first.pointer(), runs[i].count.bytes()};
    const long bytes = sys::advise_all(ranges, runs.size(), MADV_DONTNEED);
    // Whole runs: one that is refused in the middle does not count.
    const PageCount reached(bytes < 0 ? 0 : static_cast<std::uint64_t>(bytes) / kPageSize);
    while (first < runs.size() && done + runs[first].count <= reached) done += runs[first++].count;
    if (first == runs.size()) return {done, Outcome::kDone};
  }
  for (; first < runs.size(); ++first) {
    const Progress p = discard(r, runs[first]);
    done += p.done;
    if (!p.complete()) return {done, p.outcome};
  }
  // It was not the memory that the kernel refused.
  if (at_once) may_advise_all_.store(false, std::memory_order_relaxed);
  return {done, Outcome::kDone};
}

void UffdMmu::drop_shadow(const Reservation& r, PageRun run) {
  count_flush();
  const int rc = sys::advise(r.shadow_of(run.first).pointer(), run.count.bytes(), MADV_DONTNEED);
  BUOY_DCHECK(rc == 0);
  (void)rc;
}

void UffdMmu::unshare(const Reservation&, Vpn vpn) {
  // The kernel makes the store for us, and answers with an error instead of a signal where it may
  // not be made. Kernels without this advice have no MOVE either, which alone needs unsharing.
  (void)sys::advise(vpn.pointer(), kPageSize, abi::kAdvicePopulateWrite);
}

const std::byte* UffdMmu::shadow_bytes(const Reservation& r, Vpn vpn) {
  return r.shadow_of(vpn).pointer();
}

const std::byte* UffdMmu::mapped_bytes(const Reservation&, Vpn vpn) { return vpn.pointer(); }

}  // namespace buoy::mmu
