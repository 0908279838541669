#include "vm/window.h"

#include <algorithm>

namespace buoy {

namespace {

constexpr unsigned kFirstZeroOrder = 4;  // 64 KiB: what one shootdown-free install makes worthwhile
constexpr unsigned kMostZeroOrder = 6;   // 256 KiB: 0.17 ms of COPY, the stall we allow a fault
constexpr unsigned kMostSwapOrder = 5;   // 32 pages: about 60 us of decompression and COPY

struct Last {
  unsigned first;
  unsigned end;
  unsigned order;
  bool known;
};

Last last_window(const std::atomic<std::uint16_t>& at, const std::atomic<std::uint8_t>& order) {
  const unsigned page = at.load(std::memory_order_relaxed);
  const unsigned o = order.load(std::memory_order_relaxed);
  if (page == Leaf::kNoFault) return {0, 0, 0, false};
  const unsigned first = page & ~((1U << o) - 1);
  return {first, first + (1U << o), o, true};
}

// The smallest window for page i: one page; but where many of its neighbours came in one by one a
// short while ago, the rest of them is likely to be wanted too.
unsigned fallen_to(const Leaf& leaf, unsigned i, bool zero, unsigned generation) {
  if (zero) return 0;
  constexpr unsigned kNeighbourhood = 4;  // the order of what is looked at, and brought in
  constexpr unsigned kMany = 8;  // of 16; where faults are random, two or three would be usual
  const unsigned first = i & ~((1U << kNeighbourhood) - 1);
  unsigned young = 0;
  for (unsigned k = first; k < first + (1U << kNeighbourhood); ++k) {
    const Pte p = leaf.get(k);
    if (p.is_at_address() && ((generation - p.generation()) & 0x3fU) <= 1) ++young;
  }
  return young >= kMany ? kNeighbourhood : 0;
}

}  // namespace

Order plan_window(const PageTable& table, Leaf& leaf, unsigned i, WindowKind kind,
                  unsigned generation) {
  const bool zero = kind == WindowKind::kZeroFill;
  const unsigned most = zero ? kMostZeroOrder : kMostSwapOrder;
  const unsigned fresh = zero ? kFirstZeroOrder : 0;
  const unsigned step = zero ? 1 : 2;
  unsigned order = fresh;
  const Last last = last_window(leaf.last_fault, leaf.window_order);
  if (last.known) {
    const bool forward = i >= last.end && i < last.end + (1U << last.order);
    const bool backward = i < last.first && i + (1U << last.order) >= last.first;
    if (forward || backward)
      order = std::min(last.order + step, most);
    else
      order = last.order > step ? last.order - step : fallen_to(leaf, i, zero, generation);
  } else {
    // The first fault here: does a run come in from a neighbour?
    const Vpn page = leaf.page(i);
    const auto joins = [&](Vpn neighbour, bool from_below) {
      const Leaf* other = table.find_leaf(neighbour);
      if (other == nullptr) return false;
      const Last theirs = last_window(other->last_fault, other->window_order);
      if (!theirs.known || (from_below ? theirs.end != kPagesPerBlock : theirs.first != 0))
        return false;
      order = std::min(theirs.order + step, most);
      return true;
    };
    if (i < (1U << most))
      (void)joins(page.block_start() - PageCount(1), true);
    else if (i + (1U << most) >= kPagesPerBlock)
      (void)joins(page.block_start() + PageCount(kPagesPerBlock), false);
  }
  leaf.last_fault.store(static_cast<std::uint16_t>(i), std::memory_order_relaxed);
  leaf.window_order.store(static_cast<std::uint8_t>(order), std::memory_order_relaxed);
  return Order(order);
}

Order plan_unfree(const PageTable& table, Leaf& leaf, unsigned i, Order least) {
  constexpr unsigned kForgotten = 1;  // orders that a mark takes from what was learned before it
  unsigned order = least.value();
  const unsigned learned = leaf.unfree_order.load(std::memory_order_relaxed);
  const bool stored_since_mark = leaf.last_unfree.load(std::memory_order_relaxed) != Leaf::kNoFault;
  // A run that came through the leaf below goes on here.
  const Leaf* below =
      i < (1U << order) ? table.find_leaf(leaf.first_page() - PageCount(1)) : nullptr;
  const Last theirs =
      below == nullptr ? Last{} : last_window(below->last_unfree, below->unfree_order);
  if (theirs.known && theirs.end == kPagesPerBlock)
    order = std::max(order, theirs.order + 1);
  else if (stored_since_mark)
    order = std::max(order, learned + 1);
  else if (learned > kForgotten)
    order = std::max(order, learned - kForgotten);
  order = std::min(order, kMaxOrder);
  leaf.last_unfree.store(static_cast<std::uint16_t>(i), std::memory_order_relaxed);
  leaf.unfree_order.store(static_cast<std::uint8_t>(order), std::memory_order_relaxed);
  return Order(order);
}

void note_marked(Leaf& leaf) { leaf.last_unfree.store(Leaf::kNoFault, std::memory_order_relaxed); }

}  // namespace buoy
