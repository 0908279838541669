// LockedLeaf: a leaf under its lock, and every transition its pages can make.
//
// The one place where PTEs, the Mmu, the budget and the gauges move together. When the lock is
// released the difference in frames is settled: more frames are consumed from the Precharge given
// at construction, fewer are uncharged. So the budget's equation
//     used = sum over leaves of (populated at addresses + frames in shadows) + the arena
// holds by construction, and the leaf is put on the reclaim lists that its pages call for.
//
// Indices are pages within the leaf, ranges half-open. No operation waits for anything but the
// system call it makes, except those named wait_*, which drop the lock.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "pagetable/folio.h"
#include "reclaim/context.h"

namespace buoy {

class BUOY_SCOPED_CAPABILITY LockedLeaf {
 public:
  LockedLeaf(Context& context, Leaf& leaf, Precharge* precharge = nullptr) BUOY_ACQUIRE(leaf.lock);
  ~LockedLeaf() BUOY_RELEASE();
  LockedLeaf(const LockedLeaf&) = delete;
  LockedLeaf& operator=(const LockedLeaf&) = delete;

  // Is it still the leaf of this block? Ask first: leaves are recycled.
  [[nodiscard]] bool is_of(Vpn vpn) const;
  [[nodiscard]] Pte get(unsigned i) const { return leaf_.get(i); }
  [[nodiscard]] Leaf& leaf() { return leaf_; }
  [[nodiscard]] Region& region() const { return *leaf_.region.load(std::memory_order_relaxed); }
  void set(unsigned i, Pte value) BUOY_NO_TSA { leaf_.set(i, value); }
  // Makes the 2^order pages from `first` on one folio.
  void join_folio(unsigned first, Order order) BUOY_NO_TSA { join(leaf_, first, order); }
  // Splits the folios that [begin, end) covers only in part, and counts them.
  void split_folios(unsigned begin, unsigned end, Event why);
  // Pages at their addresses, and pages pinned or locked.
  [[nodiscard]] unsigned populated() const BUOY_NO_TSA { return leaf_.populated(); }
  [[nodiscard]] unsigned held() const BUOY_NO_TSA { return leaf_.held; }

  // ---- Bringing in. Each consumes a precharged page per page, except where it says less. ------
  // empty -> mapped, zeros. Returns the pages done, from `first` on.
  unsigned fill_zeros(unsigned first, unsigned n);
  // swapped or loading -> mapped (entry freed) or clean (entry kept, stores trapped).
  unsigned install(unsigned first, unsigned n, const std::byte* bytes, mmu::Stores stores);
  // standby, squeezed or lazyaway -> mapped. Costs a precharged page for each page that had to be
  // copied back.
  unsigned give_back(unsigned first, unsigned n);
  // lazyfree or clean -> mapped: a store came. Frees kept copies.
  unsigned allow_stores(unsigned first, unsigned n);
  // The same for a page that was stored to behind its trap. It cannot fail: a trap that the kernel
  // will not take away ends with the next store.
  void dirty(unsigned i);

  // ---- Letting go. ---------------------------------------------------------------------------
  // mapped or clean -> standby wherever the pages of [begin, end) are neither held nor (if `old`
  // is given) unmarked in it. Pages the kernel holds are marked kBusy and stay. Returns pages
  // taken.
  using Marks = std::array<std::uint64_t, kPagesPerBlock / 64>;
  unsigned take(unsigned begin, unsigned end, const Marks* only = nullptr);
  // mapped -> lazyfree (and clean -> lazyfree, entry freed); the caller has dealt with others.
  unsigned trap_stores_lazily(unsigned first, unsigned n);
  // mapped or clean -> lazyaway, but for pages that the kernel holds, which stay ordinary: a device
  // that got its pin before may still write to them, behind any trap. Pages marked.
  unsigned take_lazily(unsigned first, unsigned n);
  // The same for the whole leaf at once, where that is cheaper: everything at its address ->
  // lazyaway. 0 if it does not apply (then nothing was done); pages marked.
  unsigned free_block_lazily();
  // mapped or clean -> lazyfree without a trap and without a call: the owner stores no more before
  // reuse_idle() or another way back to mapped. (A clean page keeps the trap that it has.) Empty
  // pages become idle, too. Pages marked.
  unsigned free_idle(unsigned first, unsigned n);
  // Idle pages: lazyfree without a trap -> mapped, without a call; empty ones are only empty again.
  void reuse_idle(unsigned first, unsigned n);
  // lazyfree (or mapped, in droppable regions) -> empty, by reclaim: pinned pages stay. Counts
  // pglazyfreed, pgdropped and the splits of folios that were freed in part. Pages gone.
  unsigned discard_by_reclaim(unsigned begin, unsigned end, bool droppable);
  // standby -> empty, for droppable regions. Counts pgdropped. Pages gone.
  unsigned drop_standby(unsigned begin, unsigned end);
  // Whatever has contents and may lose them -> purged: not what is empty, held, being squeezed or
  // loaded; lazily freed -> empty. Pages purged, and the frames that this freed.
  struct Purged {
    unsigned pages = 0;
    unsigned frames = 0;
  };
  Purged purge(unsigned begin, unsigned end);
  // Everything in [begin, end) -> `to` (empty, hole or purged): contents, copies and entries are
  // gone. No page may be loading or squeezing (wait_until_quiet). False if the kernel refuses.
  bool forget(unsigned begin, unsigned end, PteState to);
  // Stale and squeezed frames in shadows go. Returns frames freed.
  unsigned drop_stale_shadows(unsigned begin, unsigned end);
  // clean -> swapped without compressing anything; WP kept the copy right. Pages let go.
  unsigned let_clean_go(unsigned begin, unsigned end);

  // Drops the lock until no page of the range is loading or squeezing, and takes it again; the
  // caller checks is_of() and everything else anew.
  void wait_until_quiet(unsigned begin, unsigned end);
  [[nodiscard]] bool is_quiet(unsigned begin, unsigned end) const;
  // Tells those who wait that a page left kLoading or kSqueezing.
  void announce();

  // Stamps the current generation on pages.
  void touch(unsigned first, unsigned n);

 private:
  void open() BUOY_NO_TSA;
  void settle() BUOY_NO_TSA;
  [[nodiscard]] PageRun run(unsigned first, unsigned n) const {
    return {leaf_.page(first), PageCount(n)};
  }
  [[nodiscard]] const mmu::Reservation& reservation() const { return region().reservation; }
  void free_entry(unsigned i);
  void note_touched(Pte p);
  void drop_shadow_runs(unsigned begin, unsigned end);
  unsigned drop_lazy_away(unsigned begin, unsigned end);
  void became_standby(unsigned first, unsigned n);
  void became_storable(unsigned first, unsigned n);
  void unshare(unsigned i);
  // Runs from *i on that reclaim may discard, as many as there is room for; *i goes past them.
  unsigned collect_discardable(unsigned* i, unsigned end, bool droppable, std::span<PageRun> runs);
  [[nodiscard]] mmu::Progress discard_runs(std::span<const PageRun> runs);
  [[nodiscard]] unsigned discard_mapped(unsigned first, unsigned n);
  [[nodiscard]] Purged purge_run(unsigned first, unsigned end);

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

// The reclaim lists that a leaf's pages call for.
[[nodiscard]] std::uint8_t lists_for(const Leaf& leaf);

}  // namespace buoy
