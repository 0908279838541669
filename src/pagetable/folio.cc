#include "pagetable/folio.h"

namespace buoy {

namespace {

void set_orders(Leaf& leaf, unsigned first, unsigned end, Order order) BUOY_REQUIRES(leaf.lock) {
  for (unsigned i = first; i < end; ++i)
    leaf.ptes[i].store(leaf.get(i).with_order(order).bits(), std::memory_order_relaxed);
}

// Rewrites [first, end), which is a part of one old folio, as the fewest aligned folios.
void carve(Leaf& leaf, unsigned first, unsigned end) BUOY_REQUIRES(leaf.lock) {
  while (first < end) {
    unsigned order = first == 0 ? kMaxOrder : static_cast<unsigned>(__builtin_ctz(first));
    if (order > kMaxOrder) order = kMaxOrder;
    while (first + (1U << order) > end) --order;
    set_orders(leaf, first, first + (1U << order), Order(order));
    first += 1U << order;
  }
}

// Cuts the folio that holds both sides of `at`, if one does.
void cut(Leaf& leaf, unsigned at) BUOY_REQUIRES(leaf.lock) {
  if (at == 0 || at >= kPagesPerBlock) return;
  const Folio f = folio_of(leaf, at);
  if (f.first == at) return;
  carve(leaf, f.first, at);
  carve(leaf, at, f.end());
}

}  // namespace

void join(Leaf& leaf, unsigned first, Order order) {
  BUOY_DCHECK(first % order.pages().value() == 0);
  const auto end = first + static_cast<unsigned>(order.pages().value());
  // A larger folio that reached in from either side keeps its remainder as smaller ones.
  cut(leaf, first);
  cut(leaf, end);
  set_orders(leaf, first, end, order);
}

unsigned split_at(Leaf& leaf, unsigned begin, unsigned end) {
  const unsigned folios = cut_folios(leaf, begin, end);
  cut(leaf, begin);
  cut(leaf, end);
  return folios;
}

unsigned cut_folios(const Leaf& leaf, unsigned begin, unsigned end) {
  const auto cuts = [&leaf](unsigned at) {
    return at != 0 && at < kPagesPerBlock && folio_of(leaf, at).first != at;
  };
  if (!cuts(begin)) return cuts(end) ? 1 : 0;
  if (!cuts(end)) return 1;
  return folio_of(leaf, begin).first == folio_of(leaf, end).first ? 1 : 2;
}

}  // namespace buoy
