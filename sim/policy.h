// Policy: a replacement policy as the literature has it, to compare the engine with. Plain, exact
// and of the simulator only: it knows pages and a capacity, no windows, no tiers and no time.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "trace.h"

namespace buoy::sim {

enum class Lookup : std::uint8_t { kHit, kMiss };

class Policy {
 public:
  virtual ~Policy() = default;
  // The page is accessed, and resident afterwards.
  virtual Lookup access(Page page) = 0;
  // The page's contents are gone for good, and with them what was remembered of it.
  virtual void forget(Page page) = 0;
  // Pages that are resident: never more than the capacity.
  [[nodiscard]] virtual std::size_t resident() const = 0;
};

struct NamedPolicy {
  std::string_view name;
  std::string_view what;  // a few words
  // `capacity`: pages, at least 2. The trace is what will be replayed from its beginning on, which
  // OPT looks ahead in and others take the number of pages from. It outlives the policy.
  std::unique_ptr<Policy> (*make)(const Trace& trace, std::size_t capacity);
};

// OPT first, then LRU, then the others.
[[nodiscard]] const std::vector<NamedPolicy>& policies();
[[nodiscard]] const NamedPolicy* find_policy(std::string_view name);

}  // namespace buoy::sim
