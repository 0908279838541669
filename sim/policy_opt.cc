#include "policy_opt.h"

#include <stdexcept>

namespace buoy::sim {

Opt::Opt(const Trace& trace, std::size_t capacity)
    : capacity_(capacity), next_of_access_(trace.accesses), next_(trace.pages, kAbsent) {
  if (trace.accesses >= kNever)
    throw std::runtime_error("OPT takes traces of less than 4 billion accesses");
  std::vector<Time> seen(trace.pages, kNever);
  auto access = static_cast<Time>(trace.accesses);
  for (auto e = trace.events.rbegin(); e != trace.events.rend(); ++e) {
    if (e->is_access()) {
      --access;
      next_of_access_[access] = seen[e->page()];
      seen[e->page()] = access;
    } else if (e->forgets()) {
      for (Page p = e->page(); p < e->page() + e->count(); ++p) seen[p] = kNever;
    }
  }
}

Lookup Opt::access(Page page) {
  const Lookup result = next_[page] == kAbsent ? Lookup::kMiss : Lookup::kHit;
  if (result == Lookup::kMiss) {
    if (resident_ == capacity_) evict();
    ++resident_;
  }
  next_[page] = next_of_access_[now_++];
  candidates_.push({next_[page], page});
  return result;
}

void Opt::evict() {
  for (;;) {
    const Candidate furthest = candidates_.top();
    candidates_.pop();
    if (next_[furthest.page] != furthest.next) continue;
    next_[furthest.page] = kAbsent;
    --resident_;
    return;
  }
}

void Opt::forget(Page page) {
  if (next_[page] == kAbsent) return;
  next_[page] = kAbsent;
  --resident_;
}

}  // namespace buoy::sim
