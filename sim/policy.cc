#include "policy.h"

#include <algorithm>

#include "policy_arc.h"
#include "policy_clock.h"
#include "policy_lirs.h"
#include "policy_lru.h"
#include "policy_opt.h"
#include "policy_s3fifo.h"

namespace buoy::sim {

namespace {
template <typename P>
std::unique_ptr<Policy> make(const Trace& trace, std::size_t capacity) {
  return std::make_unique<P>(trace.pages, capacity);
}
std::unique_ptr<Policy> make_opt(const Trace& trace, std::size_t capacity) {
  return std::make_unique<Opt>(trace, capacity);
}
}  // namespace

const std::vector<NamedPolicy>& policies() {
  static const std::vector<NamedPolicy> all = {
      {"opt", "Belady: what is needed furthest in the future goes", make_opt},
      {"lru", "exact least recently used", make<Lru>},
      {"clock", "first in first out, a second chance to what was referenced", make<Clock>},
      {"arc", "recency and frequency balanced by two ghost lists", make<Arc>},
      {"lirs", "by the recency of the last but one access", make<Lirs>},
      {"s3fifo", "three queues: small, main, ghost", make<S3Fifo>},
  };
  return all;
}

const NamedPolicy* find_policy(std::string_view name) {
  const auto& all = policies();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const NamedPolicy& p) { return p.name == name; });
  return found == all.end() ? nullptr : &*found;
}

}  // namespace buoy::sim
