// Seals (mseal(2)): ranges that stay mapped as they are until the program ends.
//
// The seal is ours, not the kernel's: pages of sealed memory leave and come back like any other, which
// takes changes of the kernel's mappings that a seal of its own would refuse. Who asks on the program's
// behalf (preload/address_space.cc) keeps it.

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

Status Vm::seal(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  if (mapped_prefix_locked(run) != run.count) return Error{ENOMEM};
  if (Status s = sealed_.prepare(); !s) return s;
  sealed_.assign(run, true);
  return {};
}

PageCount Vm::discardable_prefix(PageRun run) const {
  Vpn at = run.first;
  while (at < run.end()) {
    at += sealed_.gap_prefix_unlocked({at, run.end() - at});
    if (at == run.end()) break;
    // Whoever may store there may as well store zeros.
    const PageCount writable = permitted_prefix({at, run.end() - at}, PinFor::kWriting);
    if (writable.is_zero()) break;
    at += writable;
  }
  return at - run.first;
}

}  // namespace buoy
