// How UffdMmu takes pages out of memory that the program may not store to.
//
// The kernel's MOVE wants both mappings writable, and to open the address for the moment of a move
// would let a store or a load slip in that must fault. So the part of the page table goes to the
// shadow with its mapping (mremap), where it is opened: nobody but us touches it there.
//
//   address  [closed: a b c]        [closed: . . .]            [closed: . . .]
//   shadow   [open:   . . .]  --->  [closed: a b c]  --->      [open:   a b c]
//
// mremap asks neither for pins of devices nor for pages that a fork relative shares; MOVE does. So
// each page makes a short trip to the scratch block and back: who is refused goes home the way it
// came.
#include <sys/mman.h>

#include "base/check.h"
#include "base/sys.h"
#include "mmu/uffd_abi.h"
#include "mmu/uffd_mmu.h"
#include "mmu/uffd_steps.h"

namespace buoy::mmu {

namespace {

bool set_protection(Vpn first, PageCount n, int protection) {
  return sys::call(SYS_mprotect, sys::ptr(first.pointer()), static_cast<long>(n.bytes()),
                   protection) == 0;
}

// The pages with their mapping; `from` stays mapped, empty.
bool move_mapping(Vpn from, Vpn to, PageCount n) {
  const auto bytes = static_cast<long>(n.bytes());
  return sys::call(SYS_mremap, sys::ptr(from.pointer()), bytes, bytes,
                   MREMAP_MAYMOVE | MREMAP_FIXED | abi::kRemapDontUnmap,
                   sys::ptr(to.pointer())) >= 0;
}

}  // namespace

// As many pages from the run's first on as go together: fewer than the run is no refusal. kBusy: what
// is behind them is pinned. kLocked: the first page is not in closed memory, or is mlocked, or rights
// are being changed.
Progress UffdMmu::take_closed(const Reservation& r, PageRun run) {
  if (!remap_gate_.try_enter()) return {{}, Outcome::kLocked};
  const Progress progress = take_closed_in_gate(r, run);
  remap_gate_.leave();
  return progress;
}

Progress UffdMmu::take_closed_in_gate(const Reservation& r, PageRun run) {
  const auto* closed = closed_.find(run.first);
  if (closed == nullptr) return {{}, Outcome::kLocked};
  if (closed->end < run.end()) run.count = closed->end - run.first;
  if (is_mlocked(run)) return {{}, Outcome::kLocked};
  const Vpn shadow = r.shadow_of(run.first);
  count_flush();
  // The kernel may keep mappings of the same rights apart, and moves one at a time.
  while (!move_mapping(run.first, shadow, run.count)) {
    if (run.count == PageCount(1)) return {{}, Outcome::kNoMemory};
    run.count = PageCount(run.count.value() / 2);
  }
  if (!set_protection(shadow, run.count, PROT_READ | PROT_WRITE) ||
      !uffd_.enroll(shadow.address(), run.count.bytes(), Uffd::Trap::kProtectedOnly)) {
    return_closed(r, run, closed->value);
    return {{}, Outcome::kNoMemory};
  }
  const PageCount free = uses_move_ ? unpinned_prefix(r, run) : run.count;
  if (free == run.count) return {free, Outcome::kDone};
  return_closed(r, rest_of(run, free), closed->value);
  return {free, Outcome::kBusy};
}

// The way back for what cannot stay in the shadow, which is ordinary again behind it.
void UffdMmu::return_closed(const Reservation& r, PageRun run, Access access) {
  const Vpn shadow = r.shadow_of(run.first);
  // Anything less would lose the pages or let stores pass.
  BUOY_CHECK(
      set_protection(shadow, run.count, protection_of(access)) &&
      move_mapping(shadow, run.first, run.count) &&
      uffd_.enroll(run.first.address(), run.count.bytes(), Uffd::Trap::kMissingAndProtected).ok());
  BUOY_CHECK(set_protection(shadow, run.count, PROT_READ | PROT_WRITE) &&
             uffd_.enroll(shadow.address(), run.count.bytes(), Uffd::Trap::kProtectedOnly).ok());
}

// How many pages of the run, which is in the shadow, nobody else holds: not a device, and after
// this not a fork relative either.
PageCount UffdMmu::unpinned_prefix(const Reservation& r, PageRun run) {
  // Behind the pages that end the handlers and those of calibrate().
  constexpr PageCount kFirst{128};
  constexpr PageCount kRoom{256};
  const Guard guard(scratch_lock_);
  const Vpn scratch = scratch_.base + kFirst;
  const auto move = [this](Vpn to, Vpn from, PageRun pages) {
    return in_steps(pages, &move_outcome, kMoveCrossesMappings, [&](Vpn first, PageCount n) {
      return uffd_.move((to + (first - pages.first)).address(),
                        (from + (first - pages.first)).address(), n.bytes(), Uffd::Holes::kAllowed);
    });
  };
  PageCount done;
  bool has_unshared = false;
  while (done < run.count) {
    const PageCount left = run.count - done;
    const PageRun piece{run.first + done, left < kRoom ? left : kRoom};
    const Vpn shadow = r.shadow_of(piece.first);
    const Progress out = move(scratch, shadow, piece);
    if (!out.done.is_zero()) BUOY_CHECK(move(shadow, scratch, {piece.first, out.done}).complete());
    done += out.done;
    if (!out.done.is_zero()) has_unshared = false;
    if (out.complete()) continue;
    // A store that changes nothing makes a shared page ours, in its place; a pinned one stays so.
    const Vpn page = r.shadow_of(run.first + done);
    if (has_unshared || sys::advise(page.pointer(), kPageSize, abi::kAdvicePopulateWrite) != 0)
      break;
    has_unshared = true;
  }
  return done;
}

// With the gate closed. False: no memory to remember it by; nothing has changed.
bool UffdMmu::note_access(PageRun run, Access access) {
  const bool is_storable = access == Access::kReadWrite || access == Access::kReadWriteExec;
  const Guard guard(scratch_lock_);
  if (is_storable && closed_.size() == 0) return true;
  if (!closed_.prepare()) return false;
  if (is_storable)
    closed_.erase(run);
  else
    closed_.assign(run, access);
  return true;
}

}  // namespace buoy::mmu
