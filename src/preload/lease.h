// Lease: this process's part of the one budget of its tree (`--budget-scope tree`; control/ledger.h).
//
// The pool's budget is the lease. It grows when the pool runs short and the ledger has some; when
// it has none, the process whose pages are oldest is asked, and we go on within what we have. It shrinks when
// another asks, or when we use less; that is done by the member's thread (member.h).
//
// Where each process has a budget of its own, all of this does nothing.
#pragma once

#include "base/result.h"
#include "base/units.h"
#include "control/block.h"
#include "reclaim/reclaimer.h"

namespace buoy::preload::lease {

// Before the pool is made: a place in the run, and the lease to begin with; waits for it. 0: none
// can be had, and a line says why.
[[nodiscard]] ByteSize begin(control::Block& block);
// Is there a ledger?
[[nodiscard]] bool is_in_tree();
// The place that begin() took.
[[nodiscard]] unsigned place();

// Reclaim is short of room. True: the budget is larger now. Called inside the gate, without locks.
// kSome: there is nothing left to reclaim; whoever has more than the least is asked, and waited for.
[[nodiscard]] bool find_more_room(Reclaimer::Patience patience);
// What all processes may have, and what they have leased. Bytes.
[[nodiscard]] ByteSize whole();
[[nodiscard]] ByteSize leased();
// By the member's thread: gives back what was asked for.
void give_back_wanted();
// By the member's thread: another budget for this process. 0 or an errno.
[[nodiscard]] int resize(ByteSize bytes);
// Ten times a second: tells the others how old our pages are, and asks ourselves for what we do not
// use.
void beat();

// Before a fork: the child's copies of our pages need a lease as large as ours. ENOMEM, and a line.
[[nodiscard]] Status before_fork();
// `child`: its id; negative, if there is none.
void after_fork_in_parent(long child);
// Before the pool has threads.
void after_fork_in_child();

}  // namespace buoy::preload::lease
