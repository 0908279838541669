// Questions of those who touch pages on the program's behalf, or have the kernel touch them: asked
// at every system call, so without a lock; what they hear may be stale the moment after.
#include <algorithm>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

bool Vm::is_ready(Vpn v, PinFor purpose) const {
  const Leaf* leaf = context_.table.find_leaf(v);
  if (leaf == nullptr) return false;
  const Pte p = leaf->get(v.in_block());
  return purpose == PinFor::kWriting ? p.state() == PteState::kMapped : p.is_at_address();
}

PageCount Vm::permitted_prefix(PageRun run, PinFor purpose) const {
  const auto permits = [purpose](mmu::Access access) {
    const bool is_storable =
        access == mmu::Access::kReadWrite || access == mmu::Access::kReadWriteExec;
    return is_storable || (purpose == PinFor::kReading && access != mmu::Access::kNone);
  };
  PageCount permitted;
  while (permitted < run.count) {
    const PageRun rest{run.first + permitted, run.count - permitted};
    const Region* region = context_.table.find_region(rest.first);
    if (region == nullptr) break;
    const Vpn end = std::min(rest.end(), region->range().end());
    const PageCount more =
        region->extents.covered_prefix_unlocked({rest.first, end - rest.first}, permits);
    if (more.is_zero()) break;
    permitted += more;
  }
  return permitted;
}

void Vm::expect_pins() {
  if (context_.pins == mmu::Pins::kUnknown) return;
  const SignalBlock signals;
  close_for_all();
  context_.pins = mmu::Pins::kUnknown;
  context_.mmu->expect_unknown_pins();
  open_for_all();
}

}  // namespace buoy
