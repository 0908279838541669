// LeafRange: pages of one leaf by their indices, half-open. Not a PageRun, which has addresses.
#pragma once

#include "base/units.h"

namespace buoy {

struct LeafRange {
  unsigned first = 0;
  unsigned end = 0;

  [[nodiscard]] static constexpr LeafRange whole() { return {0, kPagesPerBlock}; }
  [[nodiscard]] static constexpr LeafRange one(unsigned i) { return {i, i + 1}; }
  // A run that lies in one block.
  [[nodiscard]] static constexpr LeafRange of(PageRun run) {
    const unsigned first = run.first.in_block();
    return {first, first + static_cast<unsigned>(run.count.value())};
  }

  [[nodiscard]] constexpr unsigned size() const { return end - first; }
  [[nodiscard]] constexpr bool is_empty() const { return first >= end; }
  [[nodiscard]] constexpr bool contains(unsigned i) const { return i >= first && i < end; }
  [[nodiscard]] constexpr LeafRange head(unsigned n) const { return {first, first + n}; }
  constexpr bool operator==(const LeafRange&) const = default;
};

// The run's part in the block of its first page.
[[nodiscard]] constexpr PageRun part_in_block(PageRun run) {
  const Vpn block_end = run.first.block_start() + PageCount(kPagesPerBlock);
  return {run.first, (block_end < run.end() ? block_end : run.end()) - run.first};
}

}  // namespace buoy
