// ContiguousRanges: runs of any length, over many pageblocks, out of the arena. They stay where
// they are until they are freed, and are what io_uring registers and devices write to.
//
//   block      7                 8                 9
//          xx..x...x|.......x.........|x.x............|     x movable   . free
//          ^ a window is picked: no page in it stays, few move; its blocks are isolated, missing
//            ones charged and taken, what is in it is moved away, the range is claimed
//          CCCCCCCCC CCCCCCCCCCCCCCCCC CCCCC.x.x....
//
// From 2 MiB on ranges start at a block and are backed by huge pages where the system has them.
//
// The reserve (the arena's first blocks) is the contiguous memory allocator's area of Linux
// (mm/cma.c): movable pages borrow it, pages that stay keep out, so a claim on it fails only for
// the budget or for a page that somebody holds. A block of it that nobody uses is not charged:
// its memory is then the regions' share of the budget, and a claim wins it back by reclaim.
//
// Thread-safe. Makes system calls; may wait for the users of pages that move.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/units.h"
#include "frames/compaction.h"
#include "frames/frame_allocator.h"
#include "frames/migration.h"
#include "frames/pageblocks.h"

namespace buoy::frames {

struct ContiguousRequest {
  PageCount count;
  Area area = Area::kGeneral;
  MigrateMode mode = MigrateMode::kSync;
  Callers callers = Callers::kUser;
  // Pages that the caller has charged to the budget for this. What is used of them is the arena's
  // afterwards, also when the call fails (ContiguousResult::consumed).
  PageCount charged;
};

enum class Refusal : std::uint8_t {
  kNone,
  kBudget,    // with so many pages in `charged` as `short_of` says it may go on
  kInTheWay,  // a page that stays, at in_the_way, in each place that it could be
  kNoPlace,   // the area is not that long
};

struct ContiguousResult {
  Refusal refusal = Refusal::kNone;
  Pfn head = Pfn::none();
  PageCount consumed;
  PageCount short_of;
  Pfn in_the_way = Pfn::none();
};

class ContiguousRanges {
 public:
  ContiguousRanges(Pageblocks& blocks, Compactor& compactor, FrameAllocator& allocator)
      : blocks_(blocks), compactor_(compactor), allocator_(allocator) {}

  // The contents are undefined. EINVAL has no place here: a count of zero aborts.
  [[nodiscard]] ContiguousResult try_allocate(const ContiguousRequest& request);
  // False: no range that is in use starts there; nothing has changed.
  [[nodiscard]] bool try_free(Pfn head);
  // Frames of ranges in use.
  [[nodiscard]] PageCount frames() const {
    return PageCount(frames_.load(std::memory_order_relaxed));
  }

 private:
  // Pages that turned out to stay, so that the next choice is another one.
  struct Obstacles {
    static constexpr unsigned kMost = 8;
    std::array<Pfn, kMost> pages;
    unsigned count = 0;
    [[nodiscard]] bool is_full() const { return count == kMost; }
    void add(Pfn page) { pages[count++] = page; }
    [[nodiscard]] Pfn find(Pfn first, PageCount n) const;
  };
  // What it takes to empty a range.
  struct Price {
    std::uint64_t moves = 0;   // frames
    std::uint64_t absent = 0;  // frames of the range that are in absent blocks
    std::uint64_t blocks = 0;  // to be taken, for the range and for what is moved
    std::uint64_t cost = UINT64_MAX;
    Pfn in_the_way = Pfn::none();
  };
  struct Window {
    Pfn first;
    Price price;
    [[nodiscard]] bool is_found() const { return price.cost != UINT64_MAX; }
  };
  [[nodiscard]] Window choose(const ContiguousRequest& request, const Obstacles& obstacles,
                              Pfn* in_the_way) const;
  [[nodiscard]] Window choose_within_blocks(const ContiguousRequest& request,
                                            const Obstacles& obstacles, Pfn* in_the_way) const;
  // Without blocks and cost. The range is within one block.
  [[nodiscard]] Price look_at(Pfn first, PageCount n, Callers callers,
                              const Obstacles& obstacles) const;
  // `free`: frames that are free in the whole arena.
  void reckon(Price* price, PageCount range, PageCount free) const;
  // Isolates, charges, empties and claims the window.
  [[nodiscard]] ContiguousResult claim(const Window& window, const ContiguousRequest& request);
  [[nodiscard]] ContiguousResult allocate_small(const ContiguousRequest& request);
  void hand_out(Pfn head, PageCount count);

  Pageblocks& blocks_;
  Compactor& compactor_;
  FrameAllocator& allocator_;
  std::atomic<std::uint64_t> frames_{0};
};

}  // namespace buoy::frames
