// Zone: the buddy allocator over the pageblocks that are present. It neither charges nor maps.
//
// Blocks with free frames stand in lists by [migratetype][fullness bin][largest free order]; one
// bit mask per bin finds the fullest block that can serve an order without a walk:
//
//   kMovable:  bin 0 (1..64 free)     mask of largest orders -> list of blocks
//              bin 1 (65..128 free)   ...
//              bin 7 (449..512 free)  ...
//
// All functions need the arena's zone lock (rank kZone), which is outside: the arena's steps
// (pick a block, charge it, link it) cross it. Source: Knowlton's buddy system; the order of
// preference is that of zsmalloc's fullness groups, one level down.
#pragma once

#include <array>
#include <cstdint>

#include "base/units.h"
#include "frames/page.h"
#include "frames/pageblock.h"
#include "frames/place.h"

namespace buoy::frames {

class Zone {
 public:
  // `pages` has kPagesPerBlock entries for every entry of `blocks`.
  Zone(const ReservedArray<Page>& pages, const ReservedArray<Pageblock>& blocks)
      : pages_(pages), blocks_(blocks) {}

  // A block with all its frames free joins the lists. It must be kArriving or kLeaving.
  void add_block(std::uint32_t block, MigrateType type);
  // A present, wholly free block leaves the lists and becomes kLeaving.
  void remove_block(std::uint32_t block);

  // A run of 2^order frames out of the blocks of this type; none() if they have none. The head's
  // word is kFree -> kTail: the caller says what it becomes.
  enum class Blocks : std::uint8_t { kAny, kPartial };  // kPartial: not the wholly free ones
  [[nodiscard]] Pfn try_take(MigrateType type, Order order, Blocks blocks = Blocks::kAny);
  // The same, out of another type's blocks. kWholeBlocks: only a wholly free block, which changes
  // its type. kAnyBlock: the largest run there is; a block at least half free changes its type.
  enum class Steal : std::uint8_t { kWholeBlocks, kAnyBlock };
  [[nodiscard]] Pfn try_steal(MigrateType type, Order order, Steal how);
  // Gives a run back and merges it with its free buddies.
  void give(Pfn head, Order order);

  // Are all of [in_block, in_block + count) of a present block free?
  [[nodiscard]] bool is_range_free(std::uint32_t block, std::uint32_t in_block,
                                   std::uint32_t count) const;
  // Takes that range out of the free lists; all of it is free. Its frames are kTail then.
  void take_range(std::uint32_t block, std::uint32_t in_block, std::uint32_t count);

  // Some wholly free block that nobody empties; false if there is none.
  [[nodiscard]] bool find_whole_block(std::uint32_t* block) const;
  // Up to `most` partly free blocks of the type, sparsest first, with at least `least_free` frames
  // free and without the skip hint `skip` (0: hints are ignored). Returns how many.
  [[nodiscard]] unsigned find_sparse(MigrateType type, unsigned least_free, std::uint8_t skip,
                                     std::uint32_t* out, unsigned most) const;
  // Changes the type under which a present block's free frames are found.
  void set_type(std::uint32_t block, MigrateType type);

  [[nodiscard]] PageCount free_frames() const { return free_frames_; }
  // What can be allocated: not the free frames of blocks that are being emptied.
  [[nodiscard]] PageCount usable_frames() const {
    return free_frames_ - free_by_type_[static_cast<unsigned>(MigrateType::kIsolate)];
  }
  [[nodiscard]] PageCount free_frames(MigrateType t) const {
    return free_by_type_[static_cast<unsigned>(t)];
  }
  [[nodiscard]] std::uint64_t free_runs(MigrateType t, Order o) const {
    return free_runs_[static_cast<unsigned>(t)][o.value()];
  }
  [[nodiscard]] std::uint32_t present_blocks() const { return present_blocks_; }
  [[nodiscard]] std::uint32_t whole_blocks() const { return whole_blocks_; }

  // Every list, count and merge rule of all blocks below `block_count`; aborts on a violation.
  void validate(std::uint32_t block_count) const;

 private:
  static constexpr unsigned kBins = 8;
  static constexpr unsigned kOrders = kMaxOrder + 1;
  static unsigned bin_of(unsigned free_frames) {
    return (free_frames - 1) / (static_cast<unsigned>(kPagesPerBlock) / kBins);
  }

  struct TypeLists {
    std::array<std::uint16_t, kBins> mask{};  // bit o: head[bin][o] is not empty
    std::array<std::array<std::uint32_t, kOrders>, kBins> head{};  // 1 + block; 0: empty
  };

  // The fullest block of a type that has a run of `order` or larger; false if there is none.
  [[nodiscard]] bool find_block(MigrateType type, Order order, std::uint32_t* block) const;
  [[nodiscard]] Pfn take_from(std::uint32_t block, Order order);
  // The free run that a frame lies in; false if it is not free.
  [[nodiscard]] bool find_run(std::uint32_t block, std::uint32_t in_block, std::uint32_t* head,
                              unsigned* order) const;
  void push_pieces(std::uint32_t block, std::uint32_t from, std::uint32_t to);
  void link(std::uint32_t block);
  void unlink(std::uint32_t block);
  void relink(std::uint32_t block);
  void push_run(std::uint32_t block, std::uint32_t in_block, unsigned order);
  void remove_run(std::uint32_t block, std::uint32_t in_block, unsigned order);
  [[nodiscard]] Page& page(std::uint32_t block, std::uint32_t in_block) const {
    return pages_[std::size_t{block} * kPagesPerBlock + in_block];
  }
  void account(Pageblock& b, long frames);

  const ReservedArray<Page>& pages_;
  const ReservedArray<Pageblock>& blocks_;
  std::array<TypeLists, kMigrateTypes> lists_{};
  std::array<std::array<std::uint64_t, kOrders>, kMigrateTypes> free_runs_{};
  std::array<PageCount, kMigrateTypes> free_by_type_{};
  PageCount free_frames_;
  std::uint32_t present_blocks_ = 0;
  std::uint32_t whole_blocks_ = 0;
};

}  // namespace buoy::frames
