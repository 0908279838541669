#include "cli/kernel_support.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>

#include "mmu/uffd.h"
#include "mmu/uffd_abi.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

namespace buoy::cli {
namespace {

int error_of_opening(mmu::Modes modes) {
  const Result<int> fd = mmu::Uffd::open_raw(modes);
  if (!fd) return fd.code();
  close(*fd);
  return 0;
}

Failure missing(const std::string& what) { return {kUsage, "run: " + what}; }

}  // namespace

KernelSupport probe_kernel_support() {
  KernelSupport s;
  s.user_faults_error = error_of_opening(mmu::Modes::kUserOnly);
  s.kernel_faults_error = error_of_opening(mmu::Modes::kUserAndKernel);
  s.features = mmu::Uffd::kernel_features();
  s.has_call_dispatch = prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0) == 0;
  return s;
}

std::string remedy_for_faults(const KernelSupport& support) {
  if (support.user_faults_error == ENOSYS)
    return "a kernel with CONFIG_USERFAULTFD, and a seccomp filter that lets userfaultfd through";
  if (support.user_faults_error != 0)
    return "the userfaultfd system call is filtered (Docker's default profile does that): allow it "
           "in the seccomp profile, or pass the device: docker run --device /dev/userfaultfd";
  return "run as root or with CAP_SYS_PTRACE, or give your user /dev/userfaultfd (setfacl -m "
         "u:NAME:rw /dev/userfaultfd), or sysctl vm.unprivileged_userfaultfd=1";
}

Outcome<bool> check_kernel_serves(FaultDelivery wanted) {
  if (wanted == FaultDelivery::kSignal)
    return missing(
        "--faults signal: system calls on pages that are not there would fail, and the "
        "gate that helps them is not built yet; use --faults thread");
  const KernelSupport support = probe_kernel_support();
  if (support.kernel_faults_error != 0)
    return missing("this kernel gives no right to handle page faults of system calls; " +
                   remedy_for_faults(support));
  if ((support.features & mmu::abi::kFeatureProtect) == 0)
    return missing("this kernel cannot write-protect by userfaultfd; Linux 5.7 or later can");
  if ((support.features & mmu::abi::kFeatureMove) == 0)
    return missing(
        "this kernel lacks UFFDIO_MOVE, without which pages under O_DIRECT or io_uring "
        "could be lost; Linux 6.8 or later has it");
  return true;
}

}  // namespace buoy::cli
