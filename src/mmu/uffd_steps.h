// Helpers shared by the parts of UffdMmu: calls that stop part-way, made until they are through.
#pragma once

#include <cerrno>

#include "mmu/mmu.h"
#include "mmu/uffd.h"

namespace buoy::mmu {

// The kernel's word for why it stopped, as ours. EINVAL from MOVE means that one of the two
// mappings is locked or not writable; from COPY it means a mistake of ours.
inline Outcome move_outcome(int error) {
  switch (error) {
    case EBUSY:
      return Outcome::kBusy;
    case EEXIST:
      return Outcome::kExists;
    case ENOENT:
      return Outcome::kMissing;
    case EINVAL:
      return Outcome::kLocked;
    case ENOMEM:
      return Outcome::kNoMemory;
    default:
      return Outcome::kFailed;
  }
}
inline Outcome copy_outcome(int error) {
  switch (error) {
    case EEXIST:
      return Outcome::kExists;
    case ENOMEM:
      return Outcome::kNoMemory;
    default:
      return Outcome::kFailed;
  }
}

// What the kernel says of a range that crosses from one of its mappings into the next. Ours do
// after permit() of parts, or when page tables moved; then smaller pieces are tried.
inline constexpr int kMoveCrossesMappings = EINVAL;
inline constexpr int kCopyCrossesMappings = ENOENT;

// Calls step(first page, pages) -> Uffd::Reach until the run is done or a call for one page fails.
// EAGAIN without progress is a race with a fault or with the kernel's own work on the page; a page
// that stays so for long counts as busy.
template <typename Step>
Progress in_steps(PageRun run, Outcome (*outcome_of)(int), int crosses_mappings, Step&& step) {
  constexpr int kMaxIdle = 200;
  PageCount done;
  PageCount piece = run.count;
  int idle = 0;
  while (done < run.count) {
    const PageCount left = run.count - done;
    if (piece > left) piece = left;
    const Uffd::Reach reach = step(run.first + done, piece);
    if (reach.bytes != 0) {
      done += PageCount::whole_in(reach.bytes);
      piece = run.count;
      idle = 0;
    } else if (reach.error == crosses_mappings && piece > PageCount(1)) {
      piece = PageCount(piece.value() / 2);
    } else if (reach.error != EAGAIN) {
      return {done, outcome_of(reach.error)};
    } else if (++idle == kMaxIdle) {
      return {done, Outcome::kBusy};
    } else {
      __builtin_ia32_pause();
    }
  }
  return {done, Outcome::kDone};
}

// What follows `run`'s first `done` pages.
inline PageRun rest_of(PageRun run, PageCount done) { return {run.first + done, run.count - done}; }

}  // namespace buoy::mmu
