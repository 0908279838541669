// FreeRuns: which runs of pages are free, for an allocator of address space.
//
// Address-ordered first fit: the lowest run that holds what is asked for (Wilson et al., "Dynamic
// Storage Allocation: A Survey and Critical Review", 1995, found it among the policies that
// fragment least). A treap by address, in which each node knows the longest run below it. Neighbours
// are joined as they come, within what the caller allows.
//
// O(log n) each, but take() with an alignment above a page, which looks at every run that is long
// enough. Allocates from a slab: usable in a fault. Not thread-safe; a plain memory copy of it (a
// fork) is whole.
#pragma once

#include <cstdint>
#include <optional>

#include "base/result.h"
#include "base/slab.h"
#include "base/treap.h"
#include "base/units.h"

namespace buoy {

class FreeRuns {
 public:
  // Room for that many runs; address space until used. ENOMEM.
  [[nodiscard]] Status create(std::uint32_t capacity) { return nodes_.create(capacity); }

  // Is any page of it free?
  [[nodiscard]] bool overlaps(PageRun run) const;
  // Makes a run free, joined with free neighbours inside `within`. EINVAL: a part of it is free
  // already; ENOMEM: too many runs. Nothing is changed then.
  [[nodiscard]] Status insert(PageRun run, PageRun within);
  // Takes `count` pages, the first a multiple of `alignment` pages (a power of two), out of the
  // lowest run that holds them. None: no run does, or no node is left for what remains of it.
  [[nodiscard]] std::optional<PageRun> take(PageCount count, PageCount alignment);
  // Takes that very run. False, nothing changed: not all of it is free, or no node is left.
  [[nodiscard]] bool take_at(PageRun run);
  // The run is free no more. False (nothing changed): it is not exactly one of the free runs.
  [[nodiscard]] bool remove(PageRun run);

  [[nodiscard]] PageCount pages() const { return pages_; }
  [[nodiscard]] std::uint32_t runs() const { return nodes_.live(); }
  [[nodiscard]] ByteSize touched_bytes() const { return nodes_.touched_bytes(); }
  // Aborts if the tree contradicts itself.
  void validate() const;

 private:
  struct Node {
    PageRun run;
    PageCount longest;  // in the subtree
    std::uint32_t left = 0;
    std::uint32_t right = 0;
    [[nodiscard]] Vpn first_page() const { return run.first; }
    void sum_up(const Node* below, const Node* above);
  };
  using Index = Treap<Node>::Index;

  [[nodiscard]] Node& node(Index i) const { return nodes_.at(i); }
  [[nodiscard]] PageCount longest(Index i) const { return i == 0 ? PageCount() : node(i).longest; }
  // The last run that begins before `at`, the first that begins at or after it; 0: none.
  [[nodiscard]] Index before(Vpn at) const;
  [[nodiscard]] Index from(Vpn at) const;
  // Does one of the two nodes beside the beginning of `run` reach into it?
  [[nodiscard]] bool reaches_into(PageRun run, Index below, Index above) const;
  [[nodiscard]] Index find_fit(Index tree, PageCount count, PageCount alignment) const;
  void enter(Index i, PageRun run);
  // Takes a part of the run of node `i`. False, nothing changed: no node is left for what remains.
  [[nodiscard]] bool cut_out(Index i, PageRun taken);
  void take_out(Index i);

  Slab<Node> nodes_;
  Treap<Node> tree_{nodes_};
  PageCount pages_;
};

}  // namespace buoy
