// The ledger: one budget for all processes of a run (`--budget-scope tree`), of which each has leased
// a part. A process's own budget is its lease: so their resident memory never passes the whole.
//
//   tree_limit >= leased >= sum of the leases >= sum of what is resident
//
// `leased` is raised before a lease is, and lowered after it: whoever is killed in between leaves a
// little leased to nobody, and never too much to all. A process that dies gives its lease back with
// its place (Block::free_place), which the supervisor looks after.
//
// Not here: when to lease, and whom to ask for more; that is the member's (preload/lease.h).
#pragma once

#include "control/block.h"

namespace buoy::control::ledger {

// Bytes leased to the place, on top of what it has: as much as there is of `wanted`, in pages, but
// no less than `least`; else 0. Lock-free.
[[nodiscard]] std::uint64_t lease(Block& block, unsigned place, std::uint64_t wanted,
                                  std::uint64_t least);
// What the place no longer uses. Wakes those who wait.
void give_back(Block& block, unsigned place, std::uint64_t bytes);
// Waits until something came back, for at most that long.
void wait_for_return(Block& block, std::uint64_t timeout_ns);

// Asks the process for so much that has most to spare: what it does not use, else what it has not
// used for longest, if that is longer than `age_ms`, the asker's own. Not who was asked already. False:
// nobody has more than the least that is not asked for, nor is anybody about to give some back.
bool ask_another(Block& block, unsigned place, std::uint64_t wanted, std::uint64_t age_ms);

}  // namespace buoy::control::ledger
