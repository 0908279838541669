#include "api/picture.h"

#include <algorithm>

#include "api/pool.h"

namespace buoy {
namespace {

using Word = std::atomic<std::uint64_t>;
constexpr unsigned kHeader = 4;
constexpr unsigned kWordsPerCell = 5;
constexpr unsigned kFirstBlock = kHeader + kPictureCells * kWordsPerCell;
static_assert(kFirstBlock + kPictureBlocks == kPictureWords);

void put(Word& word, std::uint64_t low, std::uint64_t high, unsigned shift = 32) {
  word.store(low | (high << shift), std::memory_order_relaxed);
}
std::uint64_t get(const Word& word) { return word.load(std::memory_order_relaxed); }
std::uint32_t low(std::uint64_t word) { return static_cast<std::uint32_t>(word); }
std::uint32_t high(std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); }

// Draws cells one after the other.
class CellPen {
 public:
  CellPen(const Context& context, Word* cells, std::uint64_t leaves)
      : context_(context), cells_(cells) {
    while (leaves / most_blocks_ > kPictureCells / 2) most_blocks_ *= 2;
  }

  void add(const Leaf& leaf) {
    const Region* region = leaf.region.load(std::memory_order_relaxed);
    if (region == nullptr) return;  // it is being recycled
    const std::uint64_t first_page = region->range().first.value();
    if (cell_.blocks == most_blocks_ || (cell_.blocks != 0 && cell_.region != first_page)) finish();
    if (cell_.blocks == 0) {
      cell_.first_block = leaf.block.load(std::memory_order_relaxed);
      cell_.region = first_page;
    }
    ++cell_.blocks;
    cell_.faults += leaf.faults.load(std::memory_order_relaxed);
    for (unsigned i = 0; i < kPagesPerBlock; ++i) count(leaf.get(i));
  }

  void finish() {
    if (cell_.blocks == 0) return;
    if (drawn_ == kPictureCells) {
      left_out_ += cell_.blocks;
    } else {
      Word* const at = cells_ + std::size_t{drawn_++} * kWordsPerCell;
      put(at[0], cell_.first_block, cell_.blocks, 48);
      put(at[1], cell_.region, 0);
      put(at[2], cell_.pages[PictureCell::kResident], cell_.pages[PictureCell::kLazyFree]);
      put(at[3], cell_.pages[PictureCell::kStandby], cell_.pages[PictureCell::kCompressed]);
      put(at[4], cell_.pages[PictureCell::kFile], cell_.faults);
    }
    cell_ = {};
  }

  [[nodiscard]] unsigned drawn() const { return drawn_; }
  [[nodiscard]] std::uint64_t left_out() const { return left_out_; }

 private:
  void count(Pte p) {
    switch (p.state()) {
      case PteState::kMapped:
      case PteState::kClean:
        ++cell_.pages[PictureCell::kResident];
        break;
      case PteState::kLazyFree:
      case PteState::kLazyAway:
        ++cell_.pages[PictureCell::kLazyFree];
        break;
      case PteState::kStandby:
        ++cell_.pages[PictureCell::kStandby];
        break;
      case PteState::kSwapped:
      case PteState::kLoading:
        // The entry may be given back meanwhile: then it is counted as what it becomes.
        ++cell_.pages[!p.entry().is_none() && context_.swap->is_slow(p.entry())
                          ? PictureCell::kFile
                          : PictureCell::kCompressed];
        break;
      default:
        break;
    }
  }

  const Context& context_;
  Word* cells_;
  unsigned most_blocks_ = 1;
  PictureCell cell_;
  unsigned drawn_ = 0;
  std::uint64_t left_out_ = 0;
};

constexpr PageRun kEverywhere{Vpn(0), PageCount(std::uint64_t{1} << (47 - kPageShift))};

}  // namespace

void draw_picture(Pool& pool, Word* words) {
  Context& context = pool.context();
  std::uint64_t leaves = 0;
  context.table.for_each_leaf_in(kEverywhere, [&](Leaf&, PageRun) { return ++leaves != 0; });
  CellPen pen(context, words + kHeader, leaves);
  context.table.for_each_leaf_in(kEverywhere, [&](Leaf& leaf, PageRun) {
    pen.add(leaf);
    return true;
  });
  pen.finish();

  frames::Arena& arena = pool.arena();
  const std::uint32_t span = arena.block_span();
  const std::uint32_t shown = std::min<std::uint32_t>(span, kPictureBlocks);
  for (std::uint32_t b = 0; b < shown; ++b) {
    const bool is_absent =
        arena.blocks().availability_of(b) == frames::Pageblocks::Availability::kAbsent;
    const frames::BlockPicture look =
        is_absent ? frames::BlockPicture{} : arena.blocks().look_at(b, frames::Callers::kUser);
    words[kFirstBlock + b].store((is_absent ? PictureBlock::kAbsent : PictureBlock::kPresent) |
                                     (std::uint64_t{look.free} << 8) |
                                     (std::uint64_t{look.movable} << 20),
                                 std::memory_order_relaxed);
  }
  words[0].store(pen.drawn(), std::memory_order_relaxed);
  words[1].store(shown, std::memory_order_relaxed);
  words[2].store(pen.left_out(), std::memory_order_relaxed);
  words[3].store(span - shown, std::memory_order_relaxed);
}

unsigned PictureView::cells() const {
  return static_cast<unsigned>(std::min<std::uint64_t>(get(words_[0]), kPictureCells));
}
unsigned PictureView::blocks() const {
  return static_cast<unsigned>(std::min<std::uint64_t>(get(words_[1]), kPictureBlocks));
}
std::uint64_t PictureView::cells_left_out() const { return get(words_[2]); }
std::uint64_t PictureView::blocks_left_out() const { return get(words_[3]); }

PictureCell PictureView::cell(unsigned i) const {
  const Word* const at = words_ + kHeader + std::size_t{i} * kWordsPerCell;
  PictureCell cell;
  cell.first_block = get(at[0]) & ((std::uint64_t{1} << 48) - 1);
  cell.blocks = static_cast<unsigned>(get(at[0]) >> 48);
  cell.region = get(at[1]);
  cell.pages[PictureCell::kResident] = low(get(at[2]));
  cell.pages[PictureCell::kLazyFree] = high(get(at[2]));
  cell.pages[PictureCell::kStandby] = low(get(at[3]));
  cell.pages[PictureCell::kCompressed] = high(get(at[3]));
  cell.pages[PictureCell::kFile] = low(get(at[4]));
  cell.faults = high(get(at[4]));
  return cell;
}

PictureBlock PictureView::block(unsigned i) const {
  const std::uint64_t word = get(words_[kFirstBlock + i]);
  const auto state =
      (word & 0xff) == PictureBlock::kPresent ? PictureBlock::kPresent : PictureBlock::kAbsent;
  return {state, static_cast<unsigned>(word >> 8) & 0xfffU,
          static_cast<unsigned>(word >> 20) & 0xfffU};
}

}  // namespace buoy
