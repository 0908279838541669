#include "control/ledger.h"

#include <algorithm>
#include <climits>

#include "base/sys.h"
#include "base/units.h"

namespace buoy::control::ledger {

std::uint64_t lease(Block& block, unsigned place, std::uint64_t wanted, std::uint64_t least) {
  std::uint64_t leased = block.leased.load();
  std::uint64_t got = 0;
  do {
    const std::uint64_t limit = block.tree_limit.load();
    const std::uint64_t free = (limit - std::min(limit, leased)) / kPageSize * kPageSize;
    got = std::min(wanted, free);
    if (got == 0 || got < least) return 0;
  } while (!block.leased.compare_exchange_weak(leased, leased + got));
  block.place(place).lease.fetch_add(got);
  return got;
}

void give_back(Block& block, unsigned place, std::uint64_t bytes) {
  if (bytes == 0) return;
  block.place(place).lease.fetch_sub(bytes);
  block.leased.fetch_sub(bytes);
  block.returns.fetch_add(1);
  sys::futex_wake_shared(&block.returns, INT_MAX);
}

void wait_for_return(Block& block, std::uint64_t timeout_ns) {
  sys::futex_wait_shared(&block.returns, block.returns.load(), timeout_ns);
}

bool ask_another(Block& block, unsigned place, std::uint64_t wanted, std::uint64_t age_ms) {
  constexpr std::uint64_t kWorthIt = std::uint64_t{1} << 20;
  unsigned chosen = kPlaces;
  std::uint64_t most_unused = kWorthIt;
  std::uint64_t oldest = age_ms + age_ms / 4;
  bool is_unused = false;
  bool is_any_asked = false;
  for (unsigned i = 0; i < kPlaces; ++i) {
    if (i == place || block.owner(i) == 0) continue;
    const Place& other = block.place(i);
    const std::uint64_t lease = other.lease.load(std::memory_order_relaxed);
    if (lease <= kFirstLease) continue;
    if (other.lease_wanted.load(std::memory_order_relaxed) != 0) {
      is_any_asked = true;
      continue;
    }
    const std::uint64_t unused =
        std::min(other.unused.load(std::memory_order_relaxed), lease - kFirstLease);
    if (unused > most_unused) {
      most_unused = unused;
      chosen = i;
      is_unused = true;
    } else if (const std::uint64_t age = other.age_ms.load(std::memory_order_relaxed);
               !is_unused && age > oldest) {
      oldest = age;
      chosen = i;
    }
  }
  if (chosen == kPlaces) return is_any_asked;
  Place& other = block.place(chosen);
  std::uint64_t asked = 0;
  if (other.lease_wanted.compare_exchange_strong(asked, wanted)) ring(other);
  return true;
}

}  // namespace buoy::control::ledger
