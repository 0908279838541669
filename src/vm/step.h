// Step: how a try to serve a fault ended, and why: the one word between the Mmu's Outcome, which it
// carries on, and what the toucher gets to see: a verdict, a message, an errno.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/sys.h"
#include "mmu/mmu.h"

namespace buoy {

struct [[nodiscard]] Step {
  enum class End : std::uint8_t {
    kDone,
    kAgain,       // the page has become something else meanwhile: look at it anew
    kForeign,     // not managed memory
    kPurged,      // its contents were dropped, and the mark not withdrawn
    kPoisoned,    // the same; it is the page's poison that tells the toucher
    kUnreadable,  // it cannot be read back from where it was stored
    kExhausted,   // the budget and every tier are full
    kNoMetadata,  // no memory for the manager's own tables
    kRefused,     // the Mmu would not: `why`
  };
  End end = End::kDone;
  mmu::Outcome why = mmu::Outcome::kDone;

  constexpr Step(End e) : end(e) {}  // NOLINT(google-explicit-constructor)
  // Of the one page that is wanted: done, or refused.
  [[nodiscard]] static constexpr Step of(mmu::Outcome outcome) {
    Step step(outcome == mmu::Outcome::kDone ? End::kDone : End::kRefused);
    step.why = outcome;
    return step;
  }

  // May it be otherwise in a while, when others have freed memory?
  [[nodiscard]] constexpr bool is_for_want_of_memory() const {
    return end == End::kExhausted || (end == End::kRefused && why == mmu::Outcome::kNoMemory);
  }
  // Not for kAgain.
  [[nodiscard]] mmu::Verdict verdict() const;
  // EAGAIN: there is no memory now, or the kernel would not; EIO: it is lost or purged; ENOMEM: it is
  // not managed.
  [[nodiscard]] Status status() const;
};

// What to say of a bus error; null where nothing is to be said.
[[nodiscard]] const char* reason_for_bus_error(Step step);

}  // namespace buoy
