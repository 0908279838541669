// Compactor: empties pageblocks, and windows of them, by moving what is movable elsewhere.
//
//   before   xx......  x.x.xx..  .x......  xxxx.xxx      x movable page   . free frame
//            ^ sparsest: emptied                  ^ fullest: filled first
//   after    ........  x.x.xx..  ........  xxxxxxxx
//            ^ goes back to the budget and the system
//
// Linux runs a migrate scanner and a free scanner over the zone from its two ends, because it knows
// of a pageblock only what it finds by looking at its pages. Here every block knows how much of it
// is free, and the zone keeps blocks ordered by it: so the "migrate scanner" takes the sparsest
// block, which costs least to empty, and the "free scanner" is the allocator, which fills the
// fullest block first. What is kept of the original (mm/compaction.c): skip hints, deferral with
// back-off, direct and background compaction, bounded work, a fragmentation score per order.
//
// While it is emptied, a block has the type kIsolate: nothing is allocated there. Thread-safe, also
// against itself. Holds no lock across a callback but that of the page.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/lock.h"
#include "base/units.h"
#include "frames/migration.h"
#include "frames/pageblocks.h"

namespace buoy::frames {

// How much a compaction may do.
struct CompactionEffort {
  MigrateMode mode = MigrateMode::kAsync;
  Callers callers = Callers::kEngine;
  PageCount most_moved{kPagesPerBlock};  // frames; about a microsecond each
  // Blocks with fewer free frames are not worth their copies.
  unsigned least_free = kPagesPerBlock / 4;
  bool heeds_hints = true;

  // All there is to gain, for a caller that waits.
  static CompactionEffort thorough(Callers callers) {
    return {MigrateMode::kSync, callers, PageCount(UINT64_MAX), 1, false};
  }
};

class Compactor {
 public:
  Compactor(Pageblocks& blocks, Migrator& migrator) : blocks_(blocks), migrator_(migrator) {}

  // Empties sparse blocks and gives them back, as long as the others can take what they hold and
  // the effort lasts. Pages given back to the budget.
  PageCount compact(const CompactionEffort& effort);

  // A run that the free lists do not have, made by moving pages; none() if it cannot be, or was
  // tried in vain lately (kAsync only). The run is allocated as requested. Never grows the arena.
  [[nodiscard]] Pfn try_make_run(const FrameRequest& request);

  // Proactive: a bounded step, if so much is lost that it is worth it, and if steps in vain were
  // long enough ago. Pages given back. kBusy: between other work; blocks that win little per copy
  // wait.
  enum class Pace : std::uint8_t { kBusy, kIdle };
  PageCount background_step(Pace pace = Pace::kIdle);

  // How much of what is free cannot serve this order, in percent; 0 where nothing is free.
  // Source: Linux's extfrag (fragmentation_index, proactive compaction).
  [[nodiscard]] unsigned fragmentation_score(Order order);
  // Frames that are free in blocks which are not wholly free: charged, and of no use to regions.
  [[nodiscard]] PageCount lost_frames();

  // Moves everything out of the frames [first, first + count) of one isolated block (or several).
  struct Evacuation {
    bool is_done = false;          // at this moment; who claims the range checks it
    PageCount moved;               // frames
    Pfn in_the_way = Pfn::none();  // the first page that would not go
    bool lacks_targets = false;    // it would have gone, had there been a place
  };
  [[nodiscard]] Evacuation evacuate(Pfn first, PageCount count, const MoveRequest& request,
                                    PageCount most_moved = PageCount(UINT64_MAX));

 private:
  [[nodiscard]] bool pick_block(const CompactionEffort& effort, std::uint32_t* block);
  void compact_block(std::uint32_t block, const CompactionEffort& effort, PageCount* moved);
  struct Window {
    Pfn first;
    PageCount size;
    unsigned to_move = 0;  // frames; more than size: something there stays
  };
  [[nodiscard]] bool find_window(const FrameRequest& request, Callers callers, Window* window);
  [[nodiscard]] Window best_window_of(std::uint32_t block, Order order, Callers callers) const;
  [[nodiscard]] Pfn make_run_at(const Window& window, const FrameRequest& request,
                                const MoveRequest& move);
  void begin_new_cycle() { cycle_.fetch_add(1, std::memory_order_relaxed); }
  // Blocks that were tried in vain in this cycle carry it as their hint. Never 0.
  [[nodiscard]] std::uint8_t cycle() const {
    return static_cast<std::uint8_t>(cycle_.load(std::memory_order_relaxed) % 255 + 1);
  }

  // After a failure, twice as many requests are turned down as after the last (Linux:
  // defer_compaction).
  class Deferral {
   public:
    [[nodiscard]] bool is_deferred() {
      const unsigned limit = 1U << shift_.load(std::memory_order_relaxed);
      if (considered_.fetch_add(1, std::memory_order_relaxed) + 1 >= limit) return false;
      return true;
    }
    void note_failure() {
      considered_.store(0, std::memory_order_relaxed);
      const unsigned s = shift_.load(std::memory_order_relaxed);
      if (s < kMostShift) shift_.store(s + 1, std::memory_order_relaxed);
    }
    void note_success() {
      considered_.store(0, std::memory_order_relaxed);
      shift_.store(0, std::memory_order_relaxed);
    }

   private:
    static constexpr unsigned kMostShift = 6;
    std::atomic<unsigned> considered_{0};
    std::atomic<unsigned> shift_{0};
  };

  Pageblocks& blocks_;
  Migrator& migrator_;
  std::atomic<std::uint32_t> cycle_{0};
  std::array<Deferral, kMaxOrder + 1> direct_{};
  Deferral background_;
};

}  // namespace buoy::frames
