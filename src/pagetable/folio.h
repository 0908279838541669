// Folios: naturally aligned runs of 2^order pages of one leaf that are decided on as one unit.
//
// A folio is described by its pages' PTEs: each carries the folio's order, the head is the page
// with the order's alignment. Its pages may be in different states. There is no object to
// allocate; splitting and joining rewrite the orders (at most 512 words, under the leaf lock).
#pragma once

#include "pagetable/leaf.h"

namespace buoy {

struct Folio {
  unsigned first = 0;  // index of the head within the leaf
  Order order;
  [[nodiscard]] unsigned size() const { return static_cast<unsigned>(order.pages().value()); }
  [[nodiscard]] unsigned end() const { return first + size(); }
};

[[nodiscard]] inline Folio folio_of(const Leaf& leaf, unsigned i) {
  const Order order = leaf.get(i).order();
  return {static_cast<unsigned>(i & ~(order.pages().value() - 1)), order};
}

// Makes [first, first + 2^order) one folio. `first` is aligned to the order.
void join(Leaf& leaf, unsigned first, Order order) BUOY_REQUIRES(leaf.lock);
// Splits the folios that reach over an end of the range into naturally aligned ones, so that
// whole folios cover it and nothing outside is part of them. Returns how many folios were cut: one
// that reaches over both ends counts once.
unsigned split_at(Leaf& leaf, LeafRange range) BUOY_REQUIRES(leaf.lock);
// How many folios the range covers only in part: what split_at would cut.
[[nodiscard]] unsigned cut_folios(const Leaf& leaf, LeafRange range);

}  // namespace buoy
