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
  if (const mmu::Capability* line = capabilities.missing()) return missing(*line);
  const auto needs = [&](std::string_view name) -> Outcome<bool> {
    const auto* line = std::find_if(
        capabilities.begin(), capabilities.end(),
        [&](const mmu::Capability& c) { return c.name.substr(0, name.size()) == name; });
    if (line != capabilities.end() && !line->available) return missing(*line);
    return Failure{kUsage, "run: " + std::string(name) + " is not possible here"};
  };
  const bool by_signal = capabilities.allows(mmu::Delivery::kSignal);
  const bool by_thread = capabilities.allows(mmu::Delivery::kThread);
  if (wanted == FaultDelivery::kSignal && !by_signal) return needs("signal delivery");
  if (wanted == FaultDelivery::kThread && !by_thread) return needs("thread delivery");
  if (!by_signal && !by_thread) return needs("signal delivery");
  // The program's pins are unknown to us: O_DIRECT and io_uring would write to pages that left.
  if (!capabilities.detects_pins())
    return Failure{kUsage,
                   "run: this kernel lacks UFFDIO_MOVE, without which pages under O_DIRECT or "
                   "io_uring could be lost: Linux 6.8 or newer"};
  return true;
}

bool can_fork() { return prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) == 0; }

}  // namespace buoy::cli
