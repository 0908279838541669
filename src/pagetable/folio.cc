#include "pagetable/folio.h"

namespace buoy {

// The one writer of orders: a friend of Leaf.
void set_orders(Leaf& leaf, LeafRange range, Order order) BUOY_REQUIRES(leaf.lock);

void set_orders(Leaf& leaf, LeafRange range, Order order) {
  for (unsigned i = range.first; i < range.end; ++i) leaf.set_order(i, order);
}

namespace {

// Rewrites the range, which is a part of one old folio, as the fewest aligned folios.
void carve(Leaf& leaf, LeafRange range) BUOY_REQUIRES(leaf.lock) {
  while (!range.is_empty()) {
    unsigned order =
        range.first == 0 ? kMaxOrder : static_cast<unsigned>(__builtin_ctz(range.first));
    if (order > kMaxOrder) order = kMaxOrder;
    while ((1U << order) > range.size()) --order;
    set_orders(leaf, range.head(1U << order), Order(order));
    range.first += 1U << order;
  }
}

// Cuts the folio that holds both sides of `at`, if one does.
void cut(Leaf& leaf, unsigned at) BUOY_REQUIRES(leaf.lock) {
  if (at == 0 || at >= kPagesPerBlock) return;
  const Folio f = folio_of(leaf, at);
  if (f.first == at) return;
  carve(leaf, {f.first, at});
  carve(leaf, {at, f.end()});
}

}  // namespace

void join(Leaf& leaf, unsigned first, Order order) {
  BUOY_DCHECK(first % order.pages().value() == 0);
  const auto end = first + static_cast<unsigned>(order.pages().value());
  // A larger folio that reached in from either side keeps its remainder as smaller ones.
  cut(leaf, first);
  cut(leaf, end);
  set_orders(leaf, {first, end}, order);
}

unsigned split_at(Leaf& leaf, LeafRange range) {
  const unsigned folios = cut_folios(leaf, range);
  cut(leaf, range.first);
  cut(leaf, range.end);
  return folios;
}

unsigned cut_folios(const Leaf& leaf, LeafRange range) {
  const auto cuts = [&leaf](unsigned at) {
    return at != 0 && at < kPagesPerBlock && folio_of(leaf, at).first != at;
  };
  if (!cuts(range.first)) return cuts(range.end) ? 1 : 0;
  if (!cuts(range.end)) return 1;
  return folio_of(leaf, range.first).first == folio_of(leaf, range.end).first ? 1 : 2;
}

}  // namespace buoy
