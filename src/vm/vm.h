// Vm: what a program's pages do. Faults, mappings, advice, pins, fork: the manager's meaning,
// on top of reclaim and the page table. One per pool.
//
// Public operations pass the gate, block signals and take ranges of whole pages. They follow the
// kernel's semantics, partial effects included ("the rest is done, then ENOMEM"); the C API in
// front validates first where it promises to change nothing.
// on_fault() runs in the faulting thread or a handler thread, with all signals masked.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/sys.h"
#include "base/units.h"
#include "mmu/mmu.h"
#include "reclaim/context.h"
#include "reclaim/reclaimer.h"
#include "vm/commitment.h"
#include "vm/recorder.h"
#include "vm/scratch.h"
#include "vm/step.h"
#include "vm/volatile_map.h"
#include "vm/window.h"

namespace buoy {

// What happens to a toucher when every tier is full.
// kEnomem: as kSigbus, but memory that might not be had is not promised (commitment.h).
enum class OnExhausted : std::uint8_t { kSigbus, kWait, kEnomem };

enum class PinFor : std::uint8_t { kReading, kWriting };
enum class Dirtied : std::uint8_t { kNo, kYes };

// A page's residency as users see it; the values are buoy.h's BUOY_PAGE_*.
enum class Residency : std::uint8_t {
  kEmpty = 0,
  kMapped = 1,
  kLazyFree = 2,
  kStandby = 3,
  kCompressed = 4,
  kBacked = 5,
  kPurged = 6,
};
// Or'ed in by residency(): the page is marked volatile.
inline constexpr unsigned char kResidencyVolatile = 0x80;

class Vm final : public mmu::FaultSink, private PurgeSource, private VolatileMap::Ground {
 public:
  explicit Vm(Context& context, OnExhausted on_exhausted)
      : context_(context), reclaimer_(context), on_exhausted_(on_exhausted) {
    if (on_exhausted == OnExhausted::kEnomem) commitment_.begin();
  }
  [[nodiscard]] Status create();

  Context& context() { return context_; }
  Reclaimer& reclaimer() { return reclaimer_; }
  Commitment& commitment() { return commitment_; }
  [[nodiscard]] PressureLevel pressure_level() const { return reclaimer_.pressure_level(); }

  // What happens to pages is noted there from now on. Before anything is mapped.
  void set_recorder(Recorder* recorder) { recorder_ = recorder; }

  // ---- Faults (fault.cc) ----------------------------------------------------------------------
  mmu::Verdict on_fault(const mmu::Fault& fault) override;

  // ---- Mappings (mapping.cc) ------------------------------------------------------------------
  // Zeros, at an address of our choice. ENOMEM.
  Result<Vpn> map(PageCount pages, RegionFlags flags, mmu::Access access);
  // The same at a given place, if it is free: inside a region of these flags, or where a region can
  // be made. EEXIST: it is not.
  Result<Vpn> map_at(PageRun run, RegionFlags flags, mmu::Access access);
  // Drops the range; holes in it are no error.
  Status unmap(PageRun run);
  // The range holds zeros with this access afterwards, whatever was there (MAP_FIXED). It must
  // lie inside one region. ENOMEM; EINVAL: that region is droppable, and `flags` are not.
  Status map_over(PageRun run, mmu::Access access, RegionFlags flags = RegionFlags::kNone);
  // The range is somebody else's from now on: contents dropped, not managed until take_over().
  Status carve_out(PageRun run);
  Status protect(PageRun run, mmu::Access access);
  // (remap.cc) New size for [run), moving if allowed and needed; contents stay. EFAULT if the range is not
  // one stretch of mapped pages, ENOMEM.
  Result<Vpn> remap(PageRun run, PageCount pages, bool may_move);
  // The same to a given place inside one region, dropping what was there. EINVAL: they overlap, or
  // what is there might be dropped, and what is here may not.
  Result<Vpn> remap_onto(PageRun run, Vpn target, PageCount pages);
  // EFAULT: the run is not one mapping of equal access, as all of these want it.
  [[nodiscard]] Status check_one_mapping(PageRun run) {
    const Result<MappedAs> as = mapped_as(run);
    return as ? Status() : Status(as.error());
  }
  // Moves contents to new pages (`target`, inside one region, or Vpn(): anywhere) and leaves the old
  // ones mapped and empty. EFAULT, EINVAL, ENOMEM as above.
  Result<Vpn> remap_leaving(PageRun run, Vpn target);
  // The range is ours, and free, afterwards, whatever was mapped there. ENOMEM: also where it would
  // lie partly in a region and partly outside.
  Status take_over(PageRun run);
  [[nodiscard]] bool has_mappings();
  [[nodiscard]] ByteSize metadata_bytes() const {
    return scratch_.touched_bytes() + volatile_.touched_bytes();
  }
  // Is the page inside a region (and not carved out of it)? Lock-free, async-signal-safe.
  [[nodiscard]] bool manages(Vpn v) const;
  // Is the page inside a region, carved out of it or not? Async-signal-safe, lock-free; two loads
  // where the page's block was ever touched.
  [[nodiscard]] bool holds(Vpn v) const {
    return context_.table.find_leaf(v) != nullptr || context_.table.find_region(v) != nullptr;
  }
  // Whose pages are: the program's mapped memory, nobody's (free inside a region), or not ours.
  enum class Owner : std::uint8_t { kProgram, kNobody, kElsewhere };
  struct Stretch {
    PageCount count;
    Owner owner = Owner::kElsewhere;
  };
  // The pages from run.first on that have one owner; of a run that is not empty, one page at least.
  // It ends where a region does. Lock-free, async-signal-safe.
  [[nodiscard]] Stretch first_stretch(PageRun run) const;
  [[nodiscard]] bool is_unmapped(Vpn v) const override {
    return first_stretch({v, PageCount(1)}).owner == Owner::kNobody || is_guard(v);
  }
  // Pages from run.first on that are mapped without a hole, at most run.count.
  [[nodiscard]] PageCount mapped_prefix(PageRun run);
  // Is all of it mapped? Without a lock or a system call where leaves exist.
  [[nodiscard]] bool is_mapped(PageRun run);

  // ---- Advice (advice.cc): ENOMEM where the range has a hole (the rest is done). discard,
  // free_lazily, cold and page_out end at the first locked page, with EINVAL. -------------------
  enum class LockedPages : std::uint8_t { kEndIt, kToo };
  // DONTNEED: zeros from now on.
  Status discard(PageRun run, LockedPages locked_pages = LockedPages::kEndIt);
  // Until when contents may vanish: the next store, which is trapped, or reuse(), before which the
  // caller stores no more, so that nothing need be trapped.
  enum class Until : std::uint8_t { kStore, kReuse };
  Status free_lazily(PageRun run, Until until = Until::kStore);
  Status reuse(PageRun run);
  Status cold(PageRun run);
  Status page_out(PageRun run);
  Status will_need(PageRun run);
  // Each page is there at its time, to be stored to or only read; where that takes more than the
  // budget, the first ones may have left again. EAGAIN: nothing can be reclaimed, and faults do not
  // wait until something can; EIO: a page is lost or purged. Those before it are done. EINVAL, and
  // nothing is done: a page is protected from such a touch.
  Status populate(PageRun run, PinFor purpose);
  // Zeros where nothing is yet, from the first page on, as far as the budget has room and the program
  // may read there: what is there already is not pushed out for it.
  void prefill(PageRun run);

  // ---- For whoever is about to touch, or to have the kernel touch (touch.cc). Lock-free. -------
  // Would a touch of this kind find the page as it needs it? It may leave at any time.
  [[nodiscard]] bool is_ready(Vpn v, PinFor purpose) const;
  // Pages from run.first on that the program has mapped and may touch so.
  [[nodiscard]] PageCount permitted_prefix(PageRun run, PinFor purpose) const;

  // ---- Promises of ranges (promises.cc). The run is mapped. ENOMEM. -----------------------------
  // What a fork child finds there in place of the contents.
  enum class InChild : std::uint8_t { kContents = 0, kNothing = 1, kZeros = 2 };
  // DONTFORK, WIPEONFORK: adds to what was promised before; both together mean nothing is there.
  Status promise(PageRun run, InChild what);
  // DOFORK, KEEPONFORK.
  Status withdraw(PageRun run, InChild what);
  // GUARD_INSTALL: contents go, touches get SIGSEGV. EINVAL: it ended at the first locked page.
  Status install_guards(PageRun run);
  // GUARD_REMOVE: zeros, with the access that the pages would have. Where no guard is: nothing.
  Status remove_guards(PageRun run);
  [[nodiscard]] bool is_guard(Vpn v) const {
    return !guards_.covered_prefix_unlocked({v, PageCount(1)}).is_zero();
  }

  // ---- Seals (seals.cc) -------------------------------------------------------------------------
  // Never unmapped, moved, or given another access again. ENOMEM at a hole; nothing is sealed then.
  Status seal(PageRun run);
  // Pages from run.first on that are not sealed. Lock-free.
  [[nodiscard]] PageCount unsealed_prefix(PageRun run) const {
    return sealed_.gap_prefix_unlocked(run);
  }
  // Pages from run.first on whose contents a seal lets go: all but what is sealed and cannot be
  // stored to. Lock-free.
  [[nodiscard]] PageCount discardable_prefix(PageRun run) const;

  // ---- Holding (hold.cc) ----------------------------------------------------------------------
  // All or nothing. EAGAIN: the budget cannot hold it, or a page has too many pins; ENOMEM: hole.
  Status pin(PageRun run, PinFor purpose);
  Status unpin(PageRun run, Dirtied dirtied);
  Status lock(PageRun run, bool on_fault_only);
  Status unlock(PageRun run);
  // All that the program has mapped with some access, and of memory that is handed out in parts
  // (kOwnersPromise) what it has stored to. ENOMEM, and nothing is locked: more than the budget holds.
  Status lock_all(bool on_fault_only);
  void unlock_all();
  // Has the program locked any of the run, through us or behind our back? It is mapped.
  bool has_mlocked(PageRun run) override;
  // One value a page; ENOMEM at a hole (nothing is written behind it).
  Status residency(PageRun run, unsigned char* vec);

  // ---- Volatile memory (volatile.cc) ----------------------------------------------------------
  // Neither makes a system call unless the range is new to it or pages of it were purged. A range
  // that was marked by one call is marked and unmarked again without a lock, whatever its length.
  struct Marked {
    PageCount done;  // from the run's first page on
    int error = 0;   // why not all: ENOMEM a hole; EINVAL mlocked; EDEADLK, see VolatileMap
  };
  Marked mark_volatile(PageRun run, unsigned priority);
  struct Unmarked {
    PageCount done;
    int error = 0;
    bool lost = false;  // some page had been purged
  };
  Unmarked mark_nonvolatile(PageRun run);
  [[nodiscard]] PageCount volatile_pages() const { return volatile_.volatile_pages(); }
  // For tests: runs between any two steps of a change of marks that others could see.
  void set_marks_step_hook(VolatileMap::StepHook hook, void* context) {
    volatile_.set_step_hook(hook, context);
  }

  // ---- Fork (fork.cc) -------------------------------------------------------------------------
  // Refused: the child could not set up its memory; nothing is changed.
  [[nodiscard]] Status before_fork();
  // Right before the clone, if the forking thread may have faulted since before_fork().
  void wait_for_handlers();
  void after_fork_in_parent();
  Status after_fork_in_child();

  // From now on the kernel may hold pages that nobody pins through us: they leave in ways that notice.
  // Returns when no page is leaving otherwise any more.
  void expect_pins();

  // Shrinks or grows the budget. EAGAIN if reclaim could not free enough (unchanged then).
  Status resize(PageCount budget);
  // A larger budget, from inside the gate. Not while another thread is in resize().
  void grow(PageCount by) {
    const PageCount budget = context_.budget.limit() + by;
    context_.budget.set_limit(budget);
    context_.lru.set_budget_pages(budget.value());
  }

  // Counts everything and compares with the gauges and the budget; aborts on a difference.
  // `arena_pages`: what the arena has charged. Closes the gate meanwhile.
  void validate(PageCount arena_pages);

 private:
  void record(trace::Kind kind, PageRun run) {
    if (recorder_ != nullptr) [[unlikely]]
      recorder_->note(kind, run);
  }
  // Tries until the page is there, or never will be: never kAgain.
  Step serve(const mmu::Fault& fault);
  Step serve_and_record(const mmu::Fault& fault);
  Step resolve(Leaf& leaf, const mmu::Fault& fault, Precharge& precharge);
  Step fill(LockedLeaf& locked, unsigned i, Precharge& precharge);
  Step bring_in(LockedLeaf& locked, unsigned i, Precharge& precharge);
  Step un_free(LockedLeaf& locked, unsigned i, Precharge& precharge);
  Step load(LockedLeaf& locked, unsigned i, bool is_store, Precharge& precharge);
  Step load_slowly(Leaf& leaf, Vpn vpn, bool is_store, Precharge& precharge);
  Step allow_stores(LockedLeaf& locked, unsigned i);
  // Fills the empty pages from `run.first` on with zeros, and no page behind the run; so many of them
  // at a time. 0: the fault path is to try, which knows what to wait for.
  PageCount fill_empty(PageRun run);
  // Makes the page resident (and stores allowed). EAGAIN if nothing can be reclaimed, EIO if lost.
  Status make_resident(Vpn vpn, bool for_store);
  void make_room_for_signals(std::uintptr_t stack);
  void tell_what_is_full(sys::Line& line) const;

  // Calls body(std::optional<LockedLeaf>&, LeafRange) -> Advised for the part of every leaf that
  // exists in the run, up to the first locked page if that is to end it. The body may drop the lock
  // at its end. ENOMEM: the run has a hole; EINVAL: it met a locked page.
  enum class Advised : std::uint8_t { kAll, kEndedByLocked };
  enum class Quiet : std::uint8_t { kAsItIs, kAwaited };  // no page is loading or squeezing
  template <typename Body>
  Status advise(PageRun run, LockedPages locked_pages, Quiet quiet, Body body);
  // Pages from run.first on, up to the first that the program has locked through us.
  [[nodiscard]] PageCount unlocked_prefix(PageRun run) const;
  [[nodiscard]] bool has_locked(PageRun run) const { return unlocked_prefix(run) != run.count; }
  [[nodiscard]] Residency residency_of(Pte p) const;
  // Can so many pages be kept in place?
  [[nodiscard]] bool fits_held(PageCount count);
  static void mark_locked(LockedLeaf& locked, LeafRange range);
  // What lock_all() would lock; and the next of it from `at` on, none at the end.
  [[nodiscard]] PageCount lockable_pages();
  struct Lockable {
    PageRun run;
    bool has_owner = false;
  };
  [[nodiscard]] Lockable next_lockable(Vpn at);
  // Locks what is stored to in the run.
  Status lock_contents(PageRun run, bool on_fault_only);
  // Residency of a run inside one block. ENOMEM: a hole in it.
  Status residency_in_block(PageRun part, unsigned char* values);
  void free_lazily(LockedLeaf& locked, LeafRange range, Until until);
  // map() and map_over() of memory whose promise was asked for.
  Result<Vpn> map_pledged(PageCount pages, RegionFlags flags, mmu::Access access);
  Status map_over_pledged(PageRun run, mmu::Access access, RegionFlags flags);
  Status carve_from_span(PageCount pages, RegionFlags flags, mmu::Access access, Vpn* at)
      BUOY_REQUIRES(context_.table.region_lock());
  Result<Region*> new_region(PageCount pages, RegionFlags flags, RegionKind kind, Vpn hint = Vpn())
      BUOY_REQUIRES(context_.table.region_lock());
  Status place(Region& region, PageRun run, mmu::Access access)
      BUOY_REQUIRES(context_.table.region_lock());
  void clear_leaves(PageRun run, PteState to) BUOY_REQUIRES(context_.table.region_lock());
  // EPERM: the kernel does not let it go.
  [[nodiscard]] Status try_clear_leaves(PageRun run, PteState to)
      BUOY_REQUIRES(context_.table.region_lock());
  [[nodiscard]] Status close_to_all(const Region& region, PageRun part)
      BUOY_REQUIRES(context_.table.region_lock());
  [[nodiscard]] PageCount mapped_prefix_locked(PageRun run) const
      BUOY_REQUIRES(context_.table.region_lock());
  // What was promised of the run is void: it is mapped anew, or no longer. First make sure.
  [[nodiscard]] Status prepare_to_void_promises() BUOY_REQUIRES(context_.table.region_lock());
  void void_promises(PageRun run) BUOY_REQUIRES(context_.table.region_lock());
  void move_promises(PageRun from, Vpn to) BUOY_REQUIRES(context_.table.region_lock());
  // The program may touch the run from now on. First make sure (prepare_to_void_promises()).
  void note_promised(const Region& region, PageRun run) BUOY_REQUIRES(context_.table.region_lock());
  // Pages of a mapped run that access would promise anew.
  [[nodiscard]] PageCount unpromised_in(PageRun run);
  [[nodiscard]] Status keep_promises_in_child();
  // Calls body(Region&, PageRun, Access) -> Status for each part of the run that has one access; its
  // region's extents are prepared for a change. ENOMEM at a hole.
  template <typename Body>
  Status for_each_mapped_part(PageRun run, Body body) BUOY_REQUIRES(context_.table.region_lock());
  Status permit(Region& region, PageRun mapped, mmu::Access access)
      BUOY_REQUIRES(context_.table.region_lock());
  void release_region(Region& region) BUOY_REQUIRES(context_.table.region_lock());
  struct OneMapping {
    Region* region = nullptr;
    mmu::Access access{};
  };
  [[nodiscard]] Result<OneMapping> one_mapping(PageRun run)
      BUOY_REQUIRES(context_.table.region_lock());
  // The same without the region, which may go once the lock is let go.
  struct MappedAs {
    RegionFlags flags{};
    mmu::Access access{};
  };
  [[nodiscard]] Result<MappedAs> mapped_as(PageRun run);
  Status move_pages(PageRun from, Vpn to);
  void take_back(PageRun moved, Vpn home);
  struct Moved {
    PageCount done;  // from the first page on
    Status status;   // why it ended there
  };
  Moved move_some(PageRun from, Vpn to);
  Moved move_locked(LockedLeaf& source, LeafRange from, LockedLeaf& target, LeafRange to,
                    PageCount frames);
  void charge_move(const Leaf& leaf, LeafRange range, Precharge& precharge);
  void move_marks(PageRun from, Vpn to);

  // Volatile memory: reclaim's side, and the marks'.
  PageCount purge(PageCount goal, PurgeEffort effort) override;
  PageCount purge_extent(const VolatileMap::Claim& claim, PageCount goal, unsigned* purged);
  PageCount recover(PageRun run, Unmarked* result);
  void finish_recovery(const VolatileMap::Clearing& clearing, Unmarked* result);
  bool forget_purged(PageRun run);
  VolatileMap::Ground::Part part_at(PageRun run) override;
  // No operation is under way, nor a change of marks, until the gate opens and unlocks.
  void close_for_all();
  [[nodiscard]] bool try_close_for_all();
  void open_for_all();
  void validate_marks() BUOY_NO_TSA;

  Context& context_;
  Recorder* recorder_ = nullptr;  // null: nothing is recorded
  Reclaimer reclaimer_;
  VolatileMap volatile_{*this};
  OnExhausted on_exhausted_;
  Commitment commitment_{context_, reclaimer_};
  ScratchPool scratch_;
  PageCount span_pages_;
  // Mappings up to this size share spans; larger ones get a region (and whole leaves) of their own.
  PageCount largest_in_span_;
  // Promises; empty in nearly every program. Changes are guarded by the region lock.
  ExtentMap<InChild> in_child_;
  ExtentMap<mmu::Access> guards_;  // by the access that the program has asked for
  ExtentMap<bool> sealed_;
  // What the program could touch at some time since it was mapped. Empty unless promises are kept.
  ExtentMap<bool> promised_;
};

}  // namespace buoy
