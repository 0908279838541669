// What the kernel and the rights of this process offer for `buoy run`, and what to do about what
// they do not.
#pragma once

#include <cstdint>

#include "cli/outcome.h"
#include "cli/run_options.h"

namespace buoy::cli {

struct KernelSupport {
  int user_faults_error = 0;       // of opening a userfaultfd for accesses by the program; 0: works
  int kernel_faults_error = 0;     // of one that serves system calls as well; 0: works
  std::uint64_t features = 0;      // UFFD_FEATURE_*; 0 where none opens
  bool has_call_dispatch = false;  // Syscall User Dispatch, which fork needs
};

[[nodiscard]] KernelSupport probe_kernel_support();

// How to get at a userfaultfd that serves system calls, for a process that has not.
[[nodiscard]] std::string remedy_for_faults(const KernelSupport& support);

// Can faults be delivered as asked for, and pages be taken away safely? kUsage, naming what is
// missing and the remedy.
[[nodiscard]] Outcome<bool> check_kernel_serves(FaultDelivery wanted);

}  // namespace buoy::cli
