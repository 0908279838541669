#include "policy_lirs.h"

#include <algorithm>

namespace buoy::sim {

Lirs::Lirs(Page pages, std::size_t capacity)
    : capacity_(capacity),
      most_lir_(capacity - std::max<std::size_t>(capacity / 100, 1)),
      stack_links_(pages),
      queue_links_(pages),
      status_(pages) {}

void Lirs::put_on_top(Page page) {
  take_off_stack(page);
  stack_.push_newest(page);
  status_[page].is_on_stack = true;
}

void Lirs::take_off_stack(Page page) {
  if (status_[page].is_on_stack) stack_.remove(page);
  status_[page].is_on_stack = false;
}

void Lirs::enqueue(Page page) {
  queue_.push_newest(page);
  status_[page].is_queued = true;
}

void Lirs::dequeue(Page page) {
  if (status_[page].is_queued) queue_.remove(page);
  status_[page].is_queued = false;
}

void Lirs::make_lir(Page page) {
  dequeue(page);
  status_[page].is_lir = true;
  ++lir_pages_;
}

void Lirs::demote_bottom() {
  prune();  // after pages were forgotten, the bottom may be HIR
  const Page bottom = stack_.oldest();
  take_off_stack(bottom);
  status_[bottom].is_lir = false;
  --lir_pages_;
  enqueue(bottom);
  prune();
}

void Lirs::prune() {
  while (!stack_.is_empty() && !status_[stack_.oldest()].is_lir) take_off_stack(stack_.oldest());
}

Lookup Lirs::access(Page page) {
  Status& status = status_[page];
  if (status.is_lir) {
    put_on_top(page);
    prune();
    return Lookup::kHit;
  }
  const Lookup result = status.is_queued ? Lookup::kHit : Lookup::kMiss;
  const bool is_recent = status.is_on_stack;
  if (result == Lookup::kMiss && resident() == capacity_) dequeue(queue_.oldest());
  dequeue(page);
  put_on_top(page);
  if (is_recent) {
    make_lir(page);
    if (lir_pages_ > most_lir_) demote_bottom();
  } else if (lir_pages_ < most_lir_ && result == Lookup::kMiss) {
    make_lir(page);  // the first pages are all LIR
  } else {
    enqueue(page);
  }
  return result;
}

void Lirs::forget(Page page) {
  dequeue(page);
  take_off_stack(page);
  if (!status_[page].is_lir) return;
  status_[page].is_lir = false;
  --lir_pages_;
  prune();
}

}  // namespace buoy::sim
