// How much one fault brings in: the order of the folio around the faulting page.
//
// Locality is detected per leaf, both ways: a fault right behind (or right before) the last
// window continues a run, and the window grows; anything else shrinks it. A run that crosses into
// a fresh leaf inherits the neighbour's window. After Linux's VMA-based swap readahead, with the
// leaf in the place of the VMA, so that threads that stream through different places do not
// disturb each other.
#pragma once

#include "pagetable/page_table.h"

namespace buoy {

enum class WindowKind : std::uint8_t {
  kZeroFill,  // cheap and likely wanted: starts at 64 KiB
  kSwapIn,    // each page costs a decompression: starts at one page
};

// The order for a fault at page i of the leaf, and remembers it as the leaf's last fault.
// Call with the leaf locked. `generation`: what the Lru says now.
[[nodiscard]] Order plan_window(const PageTable& table, Leaf& leaf, unsigned i, WindowKind kind,
                                unsigned generation);

// For a store over a lazily freed page. The first after a mark takes `least`, its folio; each
// further one in the leaf, wherever it is, twice the window before: a fault costs as much as taking
// the free back for hundreds of pages, so that a leaf costs six faults at most, and one lonely
// store keeps no more than its folio. What was learned fades with every mark.
[[nodiscard]] Order plan_unfree(const PageTable& table, Leaf& leaf, unsigned i, Order least);
// Pages of the leaf were marked (again).
void note_marked(Leaf& leaf);

}  // namespace buoy
