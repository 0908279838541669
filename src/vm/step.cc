#include "vm/step.h"

#include <cerrno>

namespace buoy {

using End = Step::End;

mmu::Verdict Step::verdict() const {
  switch (end) {
    case End::kDone:
    case End::kAgain:
    case End::
        kPoisoned:  // tried again, the access meets the poison; or memory, if the mark is gone
      return mmu::Verdict::kResolved;
    case End::kForeign:
      return mmu::Verdict::kForeign;
    case End::kPurged:
    case End::kUnreadable:
    case End::kExhausted:
    case End::kNoMetadata:
    case End::kRefused:
      break;
  }
  return mmu::Verdict::kBusError;
}

Status Step::status() const {
  switch (end) {
    case End::kDone:
    case End::kAgain:
      return {};
    case End::kForeign:
      return Error{ENOMEM};
    case End::kExhausted:
    case End::kNoMetadata:
    case End::kRefused:
      return Error{EAGAIN};
    case End::kPurged:
    case End::kPoisoned:
    case End::kUnreadable:
      break;
  }
  return Error{EIO};
}

namespace {

const char* reason_for_refusal(mmu::Outcome why) {
  switch (why) {
    case mmu::Outcome::kNoMemory:
      return "the kernel has no memory for the page";
    case mmu::Outcome::kBusy:
      return "the kernel holds the page and will not move it";
    case mmu::Outcome::kExists:
      return "something is already where the page should go";
    case mmu::Outcome::kMissing:
      return "the page is not where it was put";
    case mmu::Outcome::kLocked:
      return "the page lies in memory that the kernel will not move";
    case mmu::Outcome::kDone:
    case mmu::Outcome::kFailed:
      break;
  }
  return "the kernel refuses the page: the mapping is not what was made";
}

}  // namespace

const char* reason_for_bus_error(Step step) {
  switch (step.end) {
    case End::kUnreadable:
      return "the page cannot be read back from the backing file";
    case End::kExhausted:
      return "the budget and every tier below it are full";
    case End::kNoMetadata:
      return "no memory for the page tables of the budget";
    case End::kRefused:
      return reason_for_refusal(step.why);
    default:
      return nullptr;
  }
}

}  // namespace buoy
