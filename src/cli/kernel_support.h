// Whether this kernel and these rights can serve `buoy run`.
#pragma once

#include "cli/outcome.h"
#include "cli/run_options.h"
#include "mmu/capabilities.h"

namespace buoy::cli {

// Can faults be delivered as asked for, and pages be taken away safely? kUsage, naming what is
// missing and the remedy.
[[nodiscard]] Outcome<bool> check_kernel_serves(const mmu::Capabilities& capabilities,
                                                FaultDelivery wanted);

// Can libc's fork be made to pass by us? (Syscall User Dispatch.)
[[nodiscard]] bool can_fork();
inline constexpr const char* kForkRemedy = "Linux 5.11 or newer, and prctl(2) allowed";

}  // namespace buoy::cli
