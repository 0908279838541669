#include "vm/extent_index.h"

namespace buoy {

Status ExtentIndex::create() {
  if (Status s = extents_.create(sys::most_needed(kMaxExtents, kPageSize, 64)); !s) return s;
  return hash_.create();
}

ExtentIndex::Index ExtentIndex::find_exact(PageRun run) const {
  const Index i = hash_.find(run.first);
  return i == 0 || at(i).run() != run ? 0 : i;
}

ExtentIndex::Index ExtentIndex::at_or_after(Vpn v) const {
  return tree_.first([v](const Extent& e) { return e.end_page() > v; });
}

void ExtentIndex::store_run(Index i, PageRun run) const {
  at(i).first.store(run.first.value(), std::memory_order_relaxed);
  at(i).end.store(run.end().value(), std::memory_order_relaxed);
}

void ExtentIndex::insert(Index i, PageRun run) {
  store_run(i, run);
  tree_.insert(i);
  enter_in_hash(i);
}

void ExtentIndex::take_out(Index i) {
  tree_.erase(i);
  leave_hash(i);
}

void ExtentIndex::set_run(Index i, PageRun run) {
  const bool begins_elsewhere = at(i).first_page() != run.first;
  if (begins_elsewhere) leave_hash(i);
  store_run(i, run);
  if (begins_elsewhere) enter_in_hash(i);
}

void ExtentIndex::enter_in_hash(Index i) {
  hash_.insert(at(i).first_page(), i, [this](Index other) { return at(other).first_page(); });
}

void ExtentIndex::leave_hash(Index i) {
  hash_.erase(at(i).first_page(), i, [this](Index other) { return at(other).first_page(); });
}

std::uint32_t ExtentIndex::validate() const {
  std::uint32_t count = 0;
  std::uint32_t findable = 0;
  Vpn last;
  tree_.validate([&](const Extent& e) {
    BUOY_CHECK(e.first_page() >= last && e.end_page() > e.first_page());
    last = e.end_page();
    ++count;
    const Index found = find_exact(e.run());
    if (found != 0 && &at(found) == &e) ++findable;
  });
  // Fewer only if the hash was full once.
  BUOY_CHECK(hash_.size() <= count && (hash_.size() < count || findable == count));
  return count;
}

}  // namespace buoy
