// A picture of a pool's memory, as a row of words that another process can read: what the managed
// address space and the arena hold just now, a cell a stretch of it.
//
//   [ cells | blocks | cells left out | blocks left out |
//     cells x 5: first block | blocks << 48, first page of its region, resident | lazily freed << 32,
//                standby | compressed << 32, in the file | faults << 32 |
//     blocks x 1: state | free frames << 8 | movable frames << 20 ]
//
// A cell is up to so many leaves of one region that follow each other, so that all fit. Counted without
// a lock, while the program runs: true of no single moment. A page is in one of the kinds, or holds
// nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/units.h"

namespace buoy {

class Pool;

struct PictureCell {
  enum Kind : std::uint8_t { kResident, kLazyFree, kStandby, kCompressed, kFile, kKinds };
  std::uint64_t first_block = 0;  // address / 2 MiB
  unsigned blocks = 0;            // that were ever touched, from there on
  std::uint64_t region = 0;       // the number of the first page of its region
  std::uint32_t pages[kKinds] = {};
  std::uint32_t faults = 0;  // since they were made, modulo 2^32
};

struct PictureBlock {
  enum State : std::uint8_t { kAbsent, kPresent };
  State state = kAbsent;
  unsigned free = 0;     // frames
  unsigned movable = 0;  // frames: compressed pages, and those of drivers that let them be moved
};

inline constexpr unsigned kPictureCells = 2048;
inline constexpr unsigned kPictureBlocks = 2048;
inline constexpr unsigned kPictureWords = 4 + 5 * kPictureCells + kPictureBlocks;

// Allocates nothing. Once at a time for the same words.
void draw_picture(Pool& pool, std::atomic<std::uint64_t>* words);

// What was drawn, whoever wrote the words: nothing beyond their end is looked at.
class PictureView {
 public:
  // kPictureWords of them, which outlive the view.
  explicit PictureView(const std::atomic<std::uint64_t>* words) : words_(words) {}
  [[nodiscard]] unsigned cells() const;
  [[nodiscard]] unsigned blocks() const;
  // Blocks of 2 MiB that are not shown, of the address space and of the arena.
  [[nodiscard]] std::uint64_t cells_left_out() const;
  [[nodiscard]] std::uint64_t blocks_left_out() const;
  [[nodiscard]] PictureCell cell(unsigned i) const;
  [[nodiscard]] PictureBlock block(unsigned i) const;

 private:
  const std::atomic<std::uint64_t>* words_;
};

}  // namespace buoy
