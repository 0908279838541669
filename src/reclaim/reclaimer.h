// Reclaimer: makes room in the budget, cheapest memory first. What comes after what, and when, is the
// table in stages.cc.
//
// Two ways in. make_room() is direct reclaim: a thread that needs pages and holds no lock does a
// small, bounded share of the work itself (a batch of squeezing, rarely a leaf of taking), so that
// no single fault pays for many. The background thread works between the watermarks.
//
// Callers are inside the gate, have signals blocked and hold no engine lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "base/thread.h"
#include "reclaim/context.h"
#include "reclaim/locked_leaf.h"
#include "reclaim/pool_share.h"
#include "reclaim/pressure.h"

namespace buoy {

// kGentle leaves alone what may rather be compressed, and what was purged before.
enum class PurgeEffort : std::uint8_t { kGentle, kHard };

// Where reclaim finds memory that only the layer above knows of.
class PurgeSource {
 public:
  // Purges volatile memory, about `goal` pages; the pages freed.
  virtual PageCount purge(PageCount goal, PurgeEffort effort) = 0;

 protected:
  ~PurgeSource() = default;
};

enum class ReclaimKind : std::uint8_t {
  kDirect,     // by a thread that needs pages now: done as soon as there are some
  kProactive,  // asked for ahead of need, or to shrink
  kBackground,
};

class Reclaimer {
 public:
  explicit Reclaimer(Context& context) : context_(context) {}

  void set_purge_source(PurgeSource* source) { purge_source_ = source; }
  [[nodiscard]] PressureLevel pressure_level() const { return pressure_.level(); }

  // Charges `n` pages, reclaiming as long as that helps. False: nothing is left to reclaim.
  [[nodiscard]] bool charge(Precharge& precharge, PageCount n);
  // Charges one page for what was stored before and must come back although nothing is left to
  // reclaim. False: enough has come back already that squeezing it should help.
  [[nodiscard]] bool charge_return(Precharge& precharge);
  // Reclaims about `goal` pages now; pages freed.
  PageCount reclaim(PageCount goal, ReclaimKind kind);

  // Takes the pages of the range away and squeezes them at once (BUOY_PAGEOUT), the latter without
  // the lock: `locked` is empty afterwards. Pages gone.
  unsigned page_out(std::optional<LockedLeaf>& locked, LeafRange range);

  // Called by the background thread inside the gate, about ten times a second, for the first time a
  // tenth of a second after the thread has started: for what may wait until a process has shown that
  // it lives on. Before start_background(); kept in a fork child.
  using Heartbeat = void (*)();
  void set_heartbeat(Heartbeat heartbeat) { heartbeat_ = heartbeat; }
  // Asked for more room before anything is reclaimed, and once nothing can be: true, the budget is
  // larger now. Inside the gate, without locks. Before start_background(); kept in a fork child.
  enum class Patience : std::uint8_t { kNone, kSome };
  using MoreRoom = bool (*)(Patience);
  void set_more_room(MoreRoom more_room) { more_room_ = more_room; }
  [[nodiscard]] bool find_more_room(Patience patience = Patience::kNone) {
    return more_room_ != nullptr && more_room_(patience);
  }
  // The background thread. Without one (SoftMmu, tests) everything is direct.
  [[nodiscard]] Status start_background();
  void stop_background();
  // Wakes it if the budget is below its low watermark.
  void poke() {
    if (context_.budget.is_below_low() && asleep_.load(std::memory_order_relaxed) != 0) wake();
  }
  void after_fork_in_child();
  // What the background thread does when it wakes: frees pages up to the high watermark. For a
  // simulation, which has no threads; outside the gate, unlike everything else here.
  void keep_ahead();

  // Stores on clean pages cost a fault, letting them go unchanged saves a compression: is it worth
  // keeping compressed copies of pages that were only read?
  [[nodiscard]] bool keeps_copies() const {
    return keep_balance_.load(std::memory_order_relaxed) >= 0;
  }
  void note_clean_stored() { shift_keep_balance(-1); }
  void note_clean_let_go(unsigned n) { shift_keep_balance(static_cast<int>(n)); }

 private:
  // One reclaim, as its stages see it.
  struct Attempt {
    PageCount goal;
    ReclaimKind kind;
    PageCount freed;
    [[nodiscard]] PageCount missing() const { return goal - freed; }
  };
  struct Stage {
    bool (Reclaimer::*is_due)(const Attempt&) const;
    PageCount (Reclaimer::*run)(const Attempt&);  // pages freed; 0 when it has nothing (now)
  };
  static const Stage kForgettable[];
  static const Stage kDear[];
  void run(std::span<const Stage> stages, Attempt& attempt);
  // Predicates. "Ordinary": not while the last resident pages are spared (are_last).
  [[nodiscard]] bool is_short(const Attempt& a) const;
  [[nodiscard]] bool is_short_in_crisis(const Attempt& a) const;
  [[nodiscard]] bool is_short_of_ordinary(const Attempt& a) const;
  [[nodiscard]] bool is_in_vain(const Attempt& a) const;
  [[nodiscard]] bool is_in_vain_for_ordinary(const Attempt& a) const;
  [[nodiscard]] bool is_in_vain_above_a_file(const Attempt& a) const;
  // Stages.
  PageCount discard_lazily_freed(const Attempt& a);
  PageCount drop_old(const Attempt& a);
  PageCount drop_any(const Attempt& a);
  PageCount purge_gently(const Attempt& a);
  PageCount purge_hard(const Attempt& a);
  PageCount tell_pressure(const Attempt& a);
  PageCount fill_standby(const Attempt& a);
  PageCount squeeze_oldest(const Attempt& a);
  PageCount squeeze_whatever(const Attempt& a);
  PageCount compact_swap(const Attempt& a);
  PageCount write_back(const Attempt& a);
  // Is there what this reclaim is for? (Proactive: whatever there is, more was asked for.)
  [[nodiscard]] bool has_room(ReclaimKind kind, PageCount goal) const;

  PageCount squeeze_standby(PageCount goal);
  PageCount purge(PageCount goal, PurgeEffort effort) {
    return purge_source_ == nullptr ? PageCount() : purge_source_->purge(goal, effort);
  }
  // Discards droppable memory, the oldest leaves that have a page of that age; pages gone.
  PageCount drop(PageCount goal, unsigned min_age);
  // Moves pages to standby, which frees nothing yet, until about `goal` were, those that ripened
  // first; pages moved. kOrNext: if nothing is ripe, what will be next.
  enum class Ripe : std::uint8_t { kOnly, kOrNext };
  PageCount age_out(PageCount goal, Ripe which);
  // The last resident pages are not squeezed to make room for others: a program needs some at a time
  // to go on at all. While so few are left, the reserve is of no use to the arena (one pageblock
  // more of it would not pay), and charge_return() hands half of it out.
  [[nodiscard]] bool are_last(ReclaimKind kind) const;
  [[nodiscard]] PageCount most_returned() const;
  [[nodiscard]] std::uint32_t take_ns() const;
  [[nodiscard]] bool is_dearer_to_step_around(unsigned runs, unsigned young, unsigned raised) const;
  // Leaves it alone if its old pages lie in runs shorter than `least_run` on average.
  PageCount age_leaf(Leaf& leaf, int within, unsigned least_run);
  [[nodiscard]] bool is_old_enough(Pte p, unsigned min_age) const;
  // Compresses up to `most` standby pages of the leaf and frees their frames (droppable ones: drops
  // them); frames freed.
  unsigned squeeze(Leaf& leaf, LeafRange range, unsigned most);
  [[nodiscard]] PageCount standby_target() const;
  [[nodiscard]] bool pool_is_too_large() const;
  [[nodiscard]] unsigned squeeze_batch() const;
  void shift_keep_balance(int by);
  void wake();
  static void background_body(void* self);
  void run_background();
  PageCount background_round();
  void beat();

  Context& context_;
  PurgeSource* purge_source_ = nullptr;
  Pressure pressure_{context_};
  PoolShare pool_share_;
  Heartbeat heartbeat_ = nullptr;
  MoreRoom more_room_ = nullptr;
  std::uint64_t next_beat_ = 0;  // the background thread's; monotonic, nanoseconds
  BareThread thread_;
  std::atomic<std::uint32_t> wake_word_{0};
  std::atomic<std::uint32_t> asleep_{0};
  std::atomic<bool> stop_{false};
  std::atomic<int> keep_balance_{0};
  unsigned background_rounds_ = 0;
};

}  // namespace buoy
