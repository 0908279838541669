#include "cli/kernel_support.h"

#include <sys/prctl.h>

#include <algorithm>
#include <string_view>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

namespace buoy::cli {
namespace {

Failure missing(const mmu::Capability& capability) {
  return {kUsage, "run: this kernel, or the rights of this process, lack " +
                      std::string(capability.name) + ": " + std::string(capability.remedy)};
}

}  // namespace

Outcome<bool> check_kernel_serves(const mmu::Capabilities& capabilities, FaultDelivery wanted) {
  if (wanted == FaultDelivery::kSignal)
    return Failure{kUsage,
                   "run: --faults signal: system calls on pages that are not there would fail, and "
                   "the gate that helps them is not built yet; use --faults thread"};
  if (const mmu::Capability* line = capabilities.missing()) return missing(*line);
  if (!capabilities.allows(mmu::Delivery::kThread)) {
    const auto* line = std::find_if(
        capabilities.begin(), capabilities.end(),
        [](const mmu::Capability& c) { return c.name.substr(0, 15) == "thread delivery"; });
    if (line != capabilities.end()) return missing(*line);
    return Failure{kUsage, "run: faults of system calls cannot be served here"};
  }
  // The program's pins are unknown to us: O_DIRECT and io_uring would write to pages that left.
  if (!capabilities.detects_pins())
    return Failure{kUsage,
                   "run: this kernel lacks UFFDIO_MOVE, without which pages under O_DIRECT or "
                   "io_uring could be lost: Linux 6.8 or newer"};
  return true;
}

bool can_fork() { return prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) == 0; }

}  // namespace buoy::cli
