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

// Calls step(first page, pages left) -> Uffd::Reach until the run is done or a call fails.
// EAGAIN without progress is a race with a fault or with the kernel's own work on the page; a page
// that stays so for long counts as busy.
template <typename Step>
Progress in_steps(PageRun run, Outcome (*outcome_of)(int), Step&& step) {
  constexpr int kMaxIdle = 200;
  PageCount done;
  int idle = 0;
  while (done < run.count) {
    const Uffd::Reach reach = step(run.first + done, run.count - done);
    done += PageCount::whole_in(reach.bytes);
    if (reach.bytes != 0) {
      idle = 0;
      continue;
    }
    if (reach.error != EAGAIN) return {done, outcome_of(reach.error)};
    if (++idle == kMaxIdle) return {done, Outcome::kBusy};
    __builtin_ia32_pause();
  }
  return {done, Outcome::kDone};
}

// What follows `run`'s first `done` pages.
inline PageRun rest_of(PageRun run, PageCount done) { return {run.first + done, run.count - done}; }

}  // namespace buoy::mmu
