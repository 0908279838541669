// LockedLeaf: a leaf under its lock, and every transition its pages can make.
//
// The one place where PTEs, the Mmu, the budget and the gauges move together. When the lock is
// released the difference in frames is settled: more frames are consumed from the Precharge given
// at construction, fewer are uncharged. So the budget's equation
//     used = sum over leaves of (populated at addresses + frames in shadows) + the arena
// holds by construction, and the leaf is put on the reclaim lists that its pages call for.
//
// No operation waits for anything but the system call it makes, except wait_until_quiet(), which
// drops the lock.
//
// What takes time without the lock comes as a family: begin_ under the lock, then finish_ for each
// page that it went well for and cancel_ for each other, under the lock again, then announce().
// From begin_ on the pages are the caller's, and the leaf stays what it is.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>

#include "pagetable/folio.h"
#include "pagetable/leaf_range.h"
#include "reclaim/context.h"

namespace buoy {

// The reclaim lists that a leaf's pages call for.
[[nodiscard]] std::uint8_t lists_for(const Leaf& leaf) BUOY_REQUIRES(leaf.lock);

class BUOY_SCOPED_CAPABILITY LockedLeaf {
  struct AlreadyLocked {};

 public:
  // For everybody who found the leaf in the table: leaves are recycled. Nothing if it is no longer
  // that of the page's block.
  [[nodiscard]] static std::optional<LockedLeaf> try_lock(Context& context, Leaf& leaf, Vpn vpn,
                                                          Precharge* precharge = nullptr);
  // For who knows that nobody can recycle it: it is isolated, a page of it is loading or squeezing,
  // the region lock is held, or nobody else is there.
  LockedLeaf(Context& context, Leaf& leaf, Precharge* precharge = nullptr) BUOY_ACQUIRE(leaf.lock);
  LockedLeaf(AlreadyLocked, Context& context, Leaf& leaf, Precharge* precharge);  // try_lock()
  ~LockedLeaf() BUOY_RELEASE();
  LockedLeaf(const LockedLeaf&) = delete;
  LockedLeaf& operator=(const LockedLeaf&) = delete;

  [[nodiscard]] Pte get(unsigned i) const { return leaf_.get(i); }
  [[nodiscard]] Leaf& leaf() const { return leaf_; }
  [[nodiscard]] Region& region() const { return *leaf_.region.load(std::memory_order_relaxed); }
  [[nodiscard]] PageRun pages(LeafRange range) const {
    return {leaf_.page(range.first), PageCount(range.size())};
  }
  // Pages in a state, at their addresses, and pinned or locked.
  [[nodiscard]] unsigned count_of(PteState s) const {
    leaf_.lock.assert_held();
    return leaf_.count_of(s);
  }
  [[nodiscard]] unsigned populated() const {
    leaf_.lock.assert_held();
    return leaf_.populated();
  }
  [[nodiscard]] unsigned held() const {
    leaf_.lock.assert_held();
    return leaf_.held;
  }

  // Pages done, and the Mmu's word for why no more. What brings in ends at the first page that is
  // refused: `done` counts from the range's first. What lets go passes over such pages: `done` counts
  // those that went, and `outcome` is about the first that did not.
  struct [[nodiscard]] Progress {
    unsigned done = 0;
    mmu::Outcome outcome = mmu::Outcome::kDone;
    [[nodiscard]] bool complete() const { return outcome == mmu::Outcome::kDone; }
  };

  // ---- Bringing in. Each consumes a precharged page per page, except where it says less. ------
  // empty -> mapped, zeros.
  Progress fill_zeros(LeafRange range);
  // empty -> mapped, with these bytes.
  Progress fill(unsigned i, const std::byte* bytes);
  // swapped -> mapped (entry freed) or clean (entry kept, stores trapped).
  Progress install(LeafRange range, const std::byte* bytes, mmu::Stores stores);
  // standby, squeezed or lazyaway -> mapped. Costs a precharged page for each page that had to be
  // copied back.
  Progress give_back(LeafRange range);
  // lazyfree or clean -> mapped: a store came. Frees kept copies.
  Progress allow_stores(LeafRange range);
  // The same for a page that was stored to behind its trap. It cannot fail: a trap that the kernel
  // will not take away ends with the next store.
  void dirty(unsigned i);
  // A mapped page may have been left with its stores trapped, where a call stopped before its end.
  void end_leftover_trap(unsigned i);
  // lazyfree whose trap a fork has taken away: it traps again, or the page becomes ordinary.
  void trap_again(LeafRange range);

  // swapped -> loading; the entry to load, which stays the page's.
  [[nodiscard]] swap::SwapEntry begin_loading(unsigned i);
  // loading -> mapped or clean, as install().
  Progress finish_loading(LeafRange range, const std::byte* bytes, mmu::Stores stores);
  // loading -> swapped, wherever it is still loading.
  void cancel_loading(LeafRange range);

  // ---- Letting go. ---------------------------------------------------------------------------
  // mapped or clean -> standby wherever the pages of the range are neither held nor (if `only` is
  // given) unmarked in it. Pages the kernel holds are marked kBusy and stay.
  using Marks = std::bitset<kPagesPerBlock>;
  Progress take(LeafRange range, const Marks* only = nullptr);
  // mapped -> lazyfree (and clean -> lazyfree, entry freed); the caller has dealt with others. Ends
  // at the first page that is refused.
  Progress trap_stores_lazily(LeafRange range);
  // mapped or clean -> lazyaway, but for pages that the kernel holds, which stay ordinary: a device
  // that got its pin before may still write to them, behind any trap.
  Progress take_lazily(LeafRange range);
  // The same for the whole leaf at once, where that is cheaper: everything at its address ->
  // lazyaway. 0 if it does not apply (then nothing was done); pages marked.
  unsigned free_block_lazily();
  // mapped or clean -> lazyfree without a trap and without a call: the owner stores no more before
  // reuse_idle() or another way back to mapped. (A clean page keeps the trap that it has.) Empty
  // pages become idle, too. Pages marked.
  unsigned free_idle(LeafRange range);
  // Idle pages: lazyfree without a trap -> mapped, without a call; empty ones are only empty again.
  void reuse_idle(LeafRange range);
  // lazyfree (or mapped, in droppable regions) -> empty, by reclaim: pinned pages stay. Counts
  // pglazyfreed, pgdropped and the splits of folios that were freed in part.
  enum class Discards : std::uint8_t { kLazilyFreed, kOrdinaryToo };
  Progress discard_by_reclaim(LeafRange range, Discards what);
  // standby -> empty, for droppable regions. Counts pgdropped. Pages gone.
  unsigned drop_standby(LeafRange range);
  // Whatever has contents and may lose them -> purged: not what is empty, held, being squeezed or
  // loaded; lazily freed -> empty. Pages purged, and the frames that this freed.
  struct Purged {
    unsigned pages = 0;
    unsigned frames = 0;
  };
  Purged purge(LeafRange range);
  // Everything in the range -> `to` (empty, hole or purged): contents, copies and entries are gone.
  // No page may be loading or squeezing (wait_until_quiet). Ends at the first page that is refused.
  Progress forget(LeafRange range, PteState to);
  // Stale and squeezed frames in shadows go. Returns frames freed.
  unsigned drop_stale_shadows(LeafRange range);

  // standby without a copy -> being squeezed: its bytes in the shadow stay until the family ends.
  void begin_squeezing(unsigned i);
  // standby -> swapped, the entry is its own; what is in the shadow is stale. False: it was touched
  // meanwhile; the entry is freed.
  bool finish_squeezing(unsigned i, swap::SwapEntry entry);
  void cancel_squeezing(unsigned i);
  // standby whose copy is still right -> swapped, without squeezing. False: it has none.
  bool fall_back_on_copy(unsigned i);

  // ---- Without a change of contents. ----------------------------------------------------------
  // Makes the 2^order pages from `first` on one folio.
  void join_folio(unsigned first, Order order);
  // Splits the folios that the range covers only in part, and counts them.
  void split_folios(LeafRange range, Event why);
  // Old, whatever their generation.
  void mark_cold(LeafRange range);
  // For a device or a system call, as often as it is called. False: as often as can be.
  [[nodiscard]] bool pin(unsigned i);
  void unpin(unsigned i);
  void mlock(unsigned i);
  void munlock(LeafRange range);
  // hole or empty -> empty, for a new mapping, of which nobody has locked or promised anything.
  void begin_mapping(LeafRange range);
  // A purged page's touches raise SIGBUS from now on. False: the kernel cannot.
  [[nodiscard]] bool poison(unsigned i);

  // ---- Moving. ---------------------------------------------------------------------------------
  // What a page without a frame has: an entry, or that it was purged. It is somebody's always: not
  // to attach it is a loss of data, and aborts.
  class Detached {
   public:
    Detached(Detached&& other) noexcept : pte_(std::exchange(other.pte_, Pte())) {}
    Detached& operator=(Detached&&) = delete;
    ~Detached() { BUOY_CHECK(pte_.state() == PteState::kHole); }

   private:
    friend class LockedLeaf;
    explicit Detached(Pte p) : pte_(p) {}
    Pte pte_;
  };
  // swapped or purged, without a frame -> empty.
  [[nodiscard]] Detached detach(unsigned i);
  // empty -> what the other was.
  void attach(unsigned i, Detached what);

  // ---- Waiting and lists. ----------------------------------------------------------------------
  // Drops the lock until no page of the range is loading or squeezing, and takes it again. False: the
  // leaf was recycled meanwhile. Everything else must be looked at anew.
  [[nodiscard]] bool wait_until_quiet(LeafRange range);
  [[nodiscard]] bool is_quiet(LeafRange range) const;
  // Tells those who wait that pages left kLoading or kSqueezing.
  void announce();
  // Ends an isolation: back to the lists that its pages call for; to those in `oldest` (Lru::bit) at
  // the oldest end.
  void put_back(std::uint8_t oldest = 0);

 private:
  // MOVE looks at every hole it passes (about 0.1 us each), and each run of pages costs it the same
  // whether it comes in one call or in two: bridging more holes than this costs more than a call.
  static constexpr unsigned kMostHolesInMove = 4;
  [[nodiscard]] static unsigned pages_of(mmu::Progress p) {
    return static_cast<unsigned>(p.done.value());
  }

  void open() BUOY_ACQUIRE(leaf_.lock);
  void remember() BUOY_REQUIRES(leaf_.lock);
  void settle() BUOY_RELEASE(leaf_.lock);
  void wait_for_announcement() BUOY_REQUIRES(leaf_.lock);
  [[nodiscard]] const mmu::Reservation& reservation() const { return region().reservation; }
  void free_entry(unsigned i) BUOY_REQUIRES(leaf_.lock);
  // Stamps the current generation on pages.
  void touch(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  void note_touched(Pte p);
  Progress install_from(PteState from, LeafRange range, const std::byte* bytes, mmu::Stores stores)
      BUOY_REQUIRES(leaf_.lock);
  [[nodiscard]] mmu::GiveBackResult copy_back(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  void became_resident(LeafRange range, mmu::Return how) BUOY_REQUIRES(leaf_.lock);
  void became_storable(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  void became_standby(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  unsigned became_lazy_away(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  [[nodiscard]] bool may_take_block(LeafRange range) const BUOY_REQUIRES(leaf_.lock);
  void drop_shadow_runs(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  unsigned drop_lazy_away(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  void unshare(unsigned i) BUOY_REQUIRES(leaf_.lock);
  // Runs from *i on that reclaim may discard, as many as there is room for; *i goes past them.
  unsigned collect_discardable(unsigned* i, unsigned end, Discards what, std::span<PageRun> runs)
      BUOY_REQUIRES(leaf_.lock);
  [[nodiscard]] mmu::Progress discard_runs(std::span<const PageRun> runs) BUOY_REQUIRES(leaf_.lock);
  [[nodiscard]] unsigned discard_mapped(LeafRange range) BUOY_REQUIRES(leaf_.lock);
  [[nodiscard]] Purged purge_run(LeafRange range) BUOY_REQUIRES(leaf_.lock);

  Context& context_;
  Leaf& leaf_;
  Precharge* precharge_;
  std::array<std::uint16_t, static_cast<std::size_t>(PteState::kCount)> count_before_{};
  unsigned shadow_before_ = 0;
  unsigned held_before_ = 0;
  // In how many ticks the first of the pages that were touched here ripens.
  static constexpr int kNoneTouched = 127;
  int soonest_ = kNoneTouched;
};

// Calls body(LockedLeaf&, LeafRange) -> bool for every leaf that exists in the run, in address order,
// until one answers false.
template <typename Body>
void for_each_locked_leaf(Context& context, PageRun run, Body body) {
  context.table.for_each_leaf_in(run, [&](Leaf& leaf, PageRun part) {
    auto locked = LockedLeaf::try_lock(context, leaf, part.first);
    return !locked || body(*locked, LeafRange::of(part));
  });
}

}  // namespace buoy
