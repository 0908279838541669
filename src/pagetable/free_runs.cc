#include "pagetable/free_runs.h"

#include <algorithm>
#include <cerrno>

namespace buoy {

namespace {
// A node's priority: its index, mixed (the finalizer of MurmurHash3), so that it need not be kept.
std::uint32_t weight(std::uint32_t index) {
  index ^= index >> 16;
  index *= 0x85ebca6bU;
  index ^= index >> 13;
  index *= 0xc2b2ae35U;
  return index ^ index >> 16;
}

bool holds(PageRun run, PageCount count, PageCount alignment) {
  const Vpn at = run.first.aligned_up(alignment);
  return at >= run.first && at < run.end() && run.end() - at >= count;
}
}  // namespace

void FreeRuns::update(Index i) const {
  Node& n = node(i);
  n.longest = std::max({n.run.count, longest(n.left), longest(n.right)});
}

FreeRuns::Index FreeRuns::before(Vpn at) const {
  Index found = 0;
  for (Index i = root_; i != 0;) {
    const bool is_before = node(i).run.first < at;
    if (is_before) found = i;
    i = is_before ? node(i).right : node(i).left;
  }
  return found;
}

FreeRuns::Index FreeRuns::from(Vpn at) const {
  Index found = 0;
  for (Index i = root_; i != 0;) {
    const bool is_before = node(i).run.first < at;
    if (!is_before) found = i;
    i = is_before ? node(i).right : node(i).left;
  }
  return found;
}

FreeRuns::Index FreeRuns::find_fit(Index tree, PageCount count, PageCount alignment) const {
  if (longest(tree) < count) return 0;
  const Node& n = node(tree);
  if (const Index lower = find_fit(n.left, count, alignment); lower != 0) return lower;
  if (holds(n.run, count, alignment)) return tree;
  return find_fit(n.right, count, alignment);
}

void FreeRuns::split(Index tree, Vpn at, Index* below, Index* above) const {
  if (tree == 0) {
    *below = *above = 0;
    return;
  }
  Node& n = node(tree);
  if (n.run.first < at) {
    split(n.right, at, &n.right, above);
    *below = tree;
  } else {
    split(n.left, at, below, &n.left);
    *above = tree;
  }
  update(tree);
}

FreeRuns::Index FreeRuns::merge(Index below, Index above) const {
  if (below == 0 || above == 0) return below + above;
  const bool below_is_root = weight(below) > weight(above);
  const Index root = below_is_root ? below : above;
  if (below_is_root)
    node(root).right = merge(node(root).right, above);
  else
    node(root).left = merge(below, node(root).left);
  update(root);
  return root;
}

void FreeRuns::enter(Index i, PageRun run) {
  Node& n = node(i);
  n = {run, run.count, 0, 0};
  Index below = 0;
  Index above = 0;
  split(root_, run.first, &below, &above);
  root_ = merge(merge(below, i), above);
  pages_ += run.count;
}

void FreeRuns::take_out(Index i) {
  const PageRun run = node(i).run;
  Index below = 0;
  Index above = 0;
  Index self = 0;
  split(root_, run.first, &below, &above);
  split(above, run.end(), &self, &above);
  BUOY_DCHECK(self == i);
  root_ = merge(below, above);
  pages_ -= run.count;
}

bool FreeRuns::reaches_into(PageRun run, Index below, Index above) const {
  return (below != 0 && node(below).run.end() > run.first) ||
         (above != 0 && node(above).run.first < run.end());
}

bool FreeRuns::overlaps(PageRun run) const {
  return reaches_into(run, before(run.first), from(run.first));
}

Status FreeRuns::insert(PageRun run, PageRun within) {
  const Index below = before(run.first);
  const Index above = from(run.first);
  if (reaches_into(run, below, above)) return Error{EINVAL};
  const bool joins_below =
      below != 0 && node(below).run.end() == run.first && run.first > within.first;
  const bool joins_above =
      above != 0 && node(above).run.first == run.end() && run.end() < within.end();
  Index kept = joins_below ? below : joins_above ? above : nodes_.try_allocate();
  if (kept == 0) return Error{ENOMEM};
  if (joins_below) {
    run = {node(below).run.first, node(below).run.count + run.count};
    take_out(below);
  }
  if (joins_above) {
    run.count += node(above).run.count;
    take_out(above);
    if (joins_below) nodes_.release(above);
  }
  enter(kept, run);
  return {};
}

bool FreeRuns::cut_out(Index i, PageRun taken) {
  const PageRun whole = node(i).run;
  const PageRun head{whole.first, taken.first - whole.first};
  const PageRun tail{taken.end(), whole.end() - taken.end()};
  Index spare = 0;
  if (!head.count.is_zero() && !tail.count.is_zero()) {
    spare = nodes_.try_allocate();
    if (spare == 0) return false;
  }
  take_out(i);
  if (head.count.is_zero() && tail.count.is_zero()) {
    nodes_.release(i);
  } else {
    enter(i, head.count.is_zero() ? tail : head);
    if (spare != 0) enter(spare, tail);
  }
  return true;
}

std::optional<PageRun> FreeRuns::take(PageCount count, PageCount alignment) {
  const Index i = find_fit(root_, count, alignment);
  if (i == 0) return std::nullopt;
  const PageRun taken{node(i).run.first.aligned_up(alignment), count};
  if (!cut_out(i, taken)) return std::nullopt;
  return taken;
}

bool FreeRuns::take_at(PageRun run) {
  const Index i = before(run.first + PageCount(1));
  return i != 0 && run.end() <= node(i).run.end() && cut_out(i, run);
}

bool FreeRuns::remove(PageRun run) {
  const Index i = from(run.first);
  if (i == 0 || node(i).run != run) return false;
  take_out(i);
  nodes_.release(i);
  return true;
}

PageCount FreeRuns::validate_subtree(Index tree, Vpn begin, Vpn end) const {
  if (tree == 0) return {};
  const Node& n = node(tree);
  BUOY_CHECK(!n.run.count.is_zero() && n.run.first >= begin && n.run.end() <= end);
  BUOY_CHECK(n.left == 0 || weight(n.left) <= weight(tree));
  BUOY_CHECK(n.right == 0 || weight(n.right) <= weight(tree));
  BUOY_CHECK(n.longest == std::max({n.run.count, longest(n.left), longest(n.right)}));
  return n.run.count + validate_subtree(n.left, begin, n.run.first) +
         validate_subtree(n.right, n.run.end(), end);
}

void FreeRuns::validate() const {
  BUOY_CHECK(validate_subtree(root_, Vpn(), Vpn(UINT64_MAX)) == pages_);
}

}  // namespace buoy
