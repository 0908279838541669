#include "api/free_runs.h"

#include <algorithm>
#include <cerrno>

namespace buoy {

namespace {
bool holds(PageRun run, PageCount count, PageCount alignment) {
  const Vpn at = run.first.aligned_up(alignment);
  return at >= run.first && at < run.end() && run.end() - at >= count;
}
}  // namespace

void FreeRuns::Node::sum_up(const Node* below, const Node* above) {
  longest = run.count;
  if (below != nullptr) longest = std::max(longest, below->longest);
  if (above != nullptr) longest = std::max(longest, above->longest);
}

FreeRuns::Index FreeRuns::before(Vpn at) const {
  return tree_.last([at](const Node& n) { return n.run.first < at; });
}

FreeRuns::Index FreeRuns::from(Vpn at) const {
  return tree_.first([at](const Node& n) { return n.run.first >= at; });
}

FreeRuns::Index FreeRuns::find_fit(Index tree, PageCount count, PageCount alignment) const {
  if (longest(tree) < count) return 0;
  const Node& n = node(tree);
  if (const Index lower = find_fit(n.left, count, alignment); lower != 0) return lower;
  if (holds(n.run, count, alignment)) return tree;
  return find_fit(n.right, count, alignment);
}

void FreeRuns::enter(Index i, PageRun run) {
  node(i) = {run, run.count, 0, 0};
  tree_.insert(i);
  pages_ += run.count;
}

void FreeRuns::take_out(Index i) {
  tree_.erase(i);
  pages_ -= node(i).run.count;
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
  const Index i = find_fit(tree_.root(), count, alignment);
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

void FreeRuns::validate() const {
  PageCount pages;
  Vpn end;
  tree_.validate([&](const Node& n) {
    BUOY_CHECK(!n.run.count.is_zero() && n.run.first >= end);
    BUOY_CHECK(n.longest == std::max({n.run.count, longest(n.left), longest(n.right)}));
    pages += n.run.count;
    end = n.run.end();
  });
  BUOY_CHECK(pages == pages_);
}

}  // namespace buoy
