// Mmu: the one small interface between the manager and whatever maps pages.
//
// UffdMmu drives real memory through userfaultfd; SoftMmu is a page table in software, for tests
// and simulation. The manager above is the same code for both.
//
// Every Reservation is two ranges of one length: the pages' own addresses, and their shadow.
//
//        address   [ A | B | . | . | E | ... ]     A, B, E: mapped, ordinary loads and stores
//        shadow    [ . | . | C | . | e | ... ]     C: taken away, resident, ours alone
//                                                  E+e: given back by copy; e is a stale shadow
// A page is at its address, in the shadow, in both (for a moment, and both count), or nowhere.
//
// The Mmu keeps no per-page state: the caller's PTEs do, and the caller's leaf lock orders the
// calls on one page. Calls on different pages may run at the same time. No call takes an engine
// lock, allocates managed memory or throws; every call may be made inside a fault.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "base/units.h"

namespace buoy::mmu {

// Why a run stopped before its end (or did not).
enum class Outcome : std::uint8_t {
  kDone,      // the whole run
  kBusy,      // the next page is pinned by the kernel or shared since a fork; it stays as it is
  kExists,    // something is already where the next page would go
  kMissing,   // nothing is where the next page should come from
  kLocked,    // the next page lies in mlocked or non-writable memory, which cannot be moved
  kNoMemory,  // the kernel has no memory to give
  kFailed,    // anything else: the mapping is not what we made it
};

// Pages handled from the start of the run, and why no more. `done` == the whole run iff kDone.
struct Progress {
  PageCount done;
  Outcome outcome = Outcome::kDone;
  [[nodiscard]] bool complete() const { return outcome == Outcome::kDone; }
};

enum class Stores : std::uint8_t { kAllowed, kTrapped };
enum class Return : std::uint8_t { kMoved, kCopied };  // kCopied leaves a stale shadow behind
enum class Access : std::uint8_t { kNone, kRead, kReadWrite, kReadExec, kReadWriteExec };
enum class Backing : std::uint8_t { kSmall, kHugeWherePossible };

// Is every pin that the kernel may hold on our pages (O_DIRECT, io_uring, RDMA) announced to us?
enum class Pins : std::uint8_t {
  kKnown,    // the library: such buffers are pinned by contract
  kUnknown,  // an unmodified program: pages leave by MOVE alone, which refuses pinned pages
};

// Two ranges of one length. Created by reserve(); plain data afterwards.
struct Reservation {
  Vpn base;         // block-aligned
  Vpn shadow;       // block-aligned
  PageCount pages;  // whole blocks
  Backing backing = Backing::kSmall;
  std::uint32_t id = 0;  // the Mmu's own number for it
  [[nodiscard]] bool contains(Vpn v) const { return v >= base && v < base + pages; }
  [[nodiscard]] Vpn shadow_of(Vpn v) const { return shadow + (v - base); }
};

struct GiveBackResult {
  Progress progress;
  Return how = Return::kMoved;
};

// A fault as the hardware saw it.
struct Fault {
  Vpn vpn;
  std::uintptr_t address = 0;  // exact where the delivery tells, else the page's first byte
  bool is_store = false;
  bool is_protection = false;  // the page is there, stores are trapped
  int tid = 0;                 // thread delivery: who faulted
};

enum class Verdict : std::uint8_t {
  kResolved,  // the access may be tried again
  kForeign,   // not managed memory: somebody else's SIGBUS
  kBusError,  // the toucher gets SIGBUS (purged, lost or unreadable page)
};

class FaultSink {
 public:
  // Runs in the faulting thread (signal delivery) or a handler thread, all signals masked.
  virtual Verdict on_fault(const Fault& fault) = 0;
  // Does the program own nothing at this page, though it lies in a reservation, whose protection the
  // kernel sees? Lock-free, async-signal-safe.
  [[nodiscard]] virtual bool is_unmapped(Vpn) const { return false; }

 protected:
  ~FaultSink() = default;
};

// What calls cost here, in nanoseconds, measured at start and kept up while running.
struct Costs {
  std::uint32_t take_run_ns = 0;   // one call of take, shootdown included
  std::uint32_t move_back_ns = 0;  // giving one page back by MOVE
  std::uint32_t copy_page_ns = 0;  // installing one page by COPY
};

// Runs in one call.
constexpr std::size_t kMostRuns = 64;

class Mmu {
 public:
  virtual ~Mmu() = default;

  // ---- Reservations -------------------------------------------------------------------------
  // Two ranges of `pages` (rounded up to whole blocks), access kNone until permit(). A non-zero
  // `hint` asks for that address (EEXIST if taken). ENOMEM, EINVAL.
  virtual Result<Reservation> reserve(PageCount pages, Backing backing, Vpn hint = Vpn()) = 0;
  // Gives both ranges back to the system, whatever is in them.
  virtual void release(const Reservation& r) = 0;
  // The addresses of the run are somebody else's mapping from now on (a file's, by MAP_FIXED): fork
  // and release leave them alone. Nothing of the run is populated. ENOMEM: nothing has changed.
  // This and the next two do not run at the same time as each other, as fork or as release.
  virtual Status let_go(const Reservation&, PageRun) { return {}; }
  // A run that was let go is the reservation's again, with access kNone: what is mapped there goes.
  virtual Status take_back(const Reservation&, PageRun) { return {}; }
  // A reservation of the blocks around `part`, all but that part let go. What is mapped there goes.
  virtual Result<Reservation> reserve_around(PageRun) { return Error{ENOMEM}; }
  // Sets what the program may do with a run, at both ranges; contents stay. What it may not do is sure
  // at the address only: the shadow is ours, and may be open further. 0 or errno.
  virtual Status permit(const Reservation& r, PageRun run, Access access) = 0;

  // ---- Pages --------------------------------------------------------------------------------
  // Pages appear at their address with these bytes (run.count * 4096 of them), or with zeros.
  // Never over something that is there (kExists). Poison gives way. `bytes` may lie in a shadow.
  // For install_zeros nothing of the run may be in the shadow, as for stage().
  virtual Progress install(const Reservation& r, PageRun run, const std::byte* bytes,
                           Stores stores) = 0;
  virtual Progress install_zeros(const Reservation& r, PageRun run) = 0;

  // Whatever is populated in the run goes to the shadow, each page atomically: from then on no
  // store reaches it. Holes are allowed and count as done, also those whose page is in the shadow
  // already (each such place costs another call: split long runs there). A page given back by copy
  // must have its stale shadow dropped first (kExists). Loses store trapping; where it stops before
  // the end, pages that were not reached may be left with their stores trapped.
  virtual Progress take(const Reservation& r, PageRun run) = 0;
  // take() of one whole block, when nothing of it is in the shadow and nothing is poisoned (what
  // is in the shadow would be lost). `populated` pages are at their addresses. Cheaper than take()
  // where pages lie scattered: the block's page table may move as one.
  virtual Progress take_block(const Reservation& r, Vpn block_start, PageCount populated) = 0;
  // From the shadow to the address, stores allowed. Every page of the run must be in the shadow.
  // kMoved: the shadow is empty now. kCopied: it still holds the page, to be dropped some time.
  // `allowed` kMoved forbids the copy (no budget for a second frame) but where MOVE is impossible
  // (no such call, memory that is not writable): then a few pages at a time are in both places.
  // kMissing is only sure to be noticed when pages are moved: do not ask for pages that are not
  // there.
  virtual GiveBackResult give_back(const Reservation& r, PageRun run, Return allowed) = 0;
  // Which way give_back() would go now for so many pages; what the caller must charge for.
  [[nodiscard]] virtual Return preferred_return(PageCount n) const = 0;

  // Stores to populated pages of the run trap, or no longer do. Holes are allowed.
  virtual Progress protect(const Reservation& r, PageRun run) = 0;
  virtual Progress unprotect(const Reservation& r, PageRun run) = 0;

  // The contents at the address are forgotten, as by MADV_DONTNEED: the user asked for it.
  // Reads of the page afterwards fault. Holes are allowed. kLocked where the kernel refuses: up to
  // there it is done.
  virtual Progress discard(const Reservation& r, PageRun run) = 0;
  // The same for up to kMostRuns runs, one after the other, with one shootdown where the kernel can.
  // `done` counts the pages of all of them.
  virtual Progress discard_runs(const Reservation& r, std::span<const PageRun> runs) = 0;
  // discard() for the shadow.
  virtual void drop_shadow(const Reservation& r, PageRun run) = 0;
  // Stops sharing a page with a fork relative, as a store that changes nothing would. The page is
  // at its address and its stores do not trap. Nothing happens where permit() forbids stores.
  virtual void unshare(const Reservation& r, Vpn vpn) = 0;

  // The page's bytes in the shadow, for a page that is there and as long as it is. A hole must not
  // be read (it would fill with zeros). One page: the next page's bytes may be elsewhere.
  [[nodiscard]] virtual const std::byte* shadow_bytes(const Reservation& r, Vpn vpn) = 0;
  // The page's bytes at its address, for a page whose stores are trapped.
  [[nodiscard]] virtual const std::byte* mapped_bytes(const Reservation& r, Vpn vpn) = 0;
  // Room for contents in the shadow where nothing is: run.count * 4096 bytes on end, all populated
  // and zero now. Fill it, then give_back(kMoved), or leave the pages in the shadow, or drop them.
  // Null if the system has no memory.
  [[nodiscard]] virtual std::byte* stage(const Reservation& r, PageRun run) = 0;

  // Touches of the page raise SIGBUS until something is installed or the poison is withdrawn.
  // False where the kernel cannot; signal delivery does not need it.
  virtual bool poison(const Reservation& r, Vpn vpn) = 0;
  virtual void unpoison(const Reservation& r, Vpn vpn) = 0;

  // Has the program mlocked any of it, as far as the kernel knows? The run is mapped.
  [[nodiscard]] virtual bool is_mlocked(PageRun run) = 0;

  // ---- The whole ----------------------------------------------------------------------------
  // From now on the kernel may hold pins that nobody tells of. No other call is under way.
  virtual void expect_unknown_pins() {}
  [[nodiscard]] virtual Costs costs() const = 0;
  // The kernel's page tables of our ranges, bytes (an upper bound from what was populated).
  [[nodiscard]] virtual ByteSize pagetable_bytes() const = 0;
  // What the Mmu keeps for itself, resident bytes.
  [[nodiscard]] virtual ByteSize metadata_bytes() const = 0;
  // Pages that are populated, at addresses and in shadows. A slow walk: for tests and checks.
  [[nodiscard]] virtual PageCount populated_pages() const = 0;

  // fork: before (all ranges become visible to a child), then behind it on either side. In the
  // child every range is registered anew; store trapping is lost there. EPERM and others: the
  // child must not go on. before_fork() is refused (the same errors) where it would come to that.
  [[nodiscard]] virtual Status before_fork() = 0;
  virtual void after_fork_in_parent() = 0;
  virtual Status after_fork_in_child() = 0;
};

}  // namespace buoy::mmu
