#include "cli/info.h"

#include <linux/userfaultfd.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "cli/kernel_support.h"
#include "cli/size.h"
#include "mmu/uffd_abi.h"

namespace buoy::cli {
namespace {

void line(const char* what, const std::string& value, const std::string& remedy = {}) {
  std::printf("%-31s%s\n", what, value.c_str());
  if (!remedy.empty()) std::printf("%-31s-> %s\n", "", remedy.c_str());
}

std::optional<std::string> first_line_of(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  if (!file || !std::getline(file, text)) return std::nullopt;
  return text;
}

std::string error_text(int error) { return error == 0 ? "yes" : std::strerror(error); }

struct Feature {
  std::uint64_t bit;
  const char* name;
  const char* use;
  const char* since;
};
constexpr std::array<Feature, 6> kFeatures = {{
    {mmu::abi::kFeatureProtect, "write protection", "needed", "5.7"},
    {mmu::abi::kFeatureMove, "UFFDIO_MOVE", "needed by `run`", "6.8"},
    {mmu::abi::kFeatureThreadId, "thread ids", "thread delivery", "4.14"},
    {mmu::abi::kFeatureSigbus, "SIGBUS delivery", "the library", "4.14"},
    {mmu::abi::kFeatureExactAddress, "exact addresses", "optional", "5.18"},
    {mmu::abi::kFeaturePoison, "UFFDIO_POISON", "optional", "6.6"},
}};

void show_faults(const KernelSupport& support) {
  line("userfaultfd, program's faults", error_text(support.user_faults_error));
  line("userfaultfd, kernel's faults", error_text(support.kernel_faults_error),
       support.kernel_faults_error == 0 ? "" : remedy_for_faults(support));
  const char* device = "/dev/userfaultfd";
  line(device, access(device, F_OK) != 0          ? "not there (Linux 6.1 and later)"
               : access(device, R_OK | W_OK) == 0 ? "usable"
                                                  : "no permission");
  line("vm.unprivileged_userfaultfd",
       first_line_of("/proc/sys/vm/unprivileged_userfaultfd").value_or("unknown"));
  for (const Feature& f : kFeatures) {
    const bool has = (support.features & f.bit) != 0;
    line((std::string("  ") + f.name).c_str(), std::string(has ? "yes" : "no") + " (" + f.use + ")",
         has ? "" : std::string("Linux ") + f.since + " or later");
  }
  line("syscall user dispatch", support.has_call_dispatch ? "yes (fork)" : "no (fork is refused)",
       support.has_call_dispatch ? "" : "Linux 5.11 or later, and prctl allowed");
}

void show_pages() {
  const std::string root = "/sys/kernel/mm/transparent_hugepage/";
  line("transparent huge pages", first_line_of(root + "enabled").value_or("none in this kernel"));
  std::string sizes;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(root, error)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("hugepages-", 0) != 0) continue;
    const std::string setting = first_line_of(entry.path().string() + "/enabled").value_or("");
    if (setting.find("[never]") == std::string::npos)
      sizes += (sizes.empty() ? "" : " ") + name.substr(std::strlen("hugepages-"));
  }
  line("multi-size THP, enabled", sizes.empty() ? "none" : sizes);
}

// The limit of the memory cgroup this process is in: version 2, or the version 1 controller.
std::optional<std::string> memory_limit() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string entry; std::getline(file, entry);) {
    const std::size_t first = entry.find(':');
    const std::size_t second = entry.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = entry.substr(first + 1, second - first - 1);
    const std::string path = entry.substr(second + 1);
    std::optional<std::string> limit;
    if (controllers.empty()) {
      limit = first_line_of("/sys/fs/cgroup" + path + "/memory.max");
    } else if (controllers == "memory") {
      limit = first_line_of("/sys/fs/cgroup/memory" + path + "/memory.limit_in_bytes");
    }
    if (limit) return limit;
  }
  return std::nullopt;
}

void show_memory() {
  const std::string meminfo = first_line_of("/proc/meminfo").value_or("");
  const std::size_t digits = meminfo.find_first_of("0123456789");
  if (digits != std::string::npos)
    line("memory", std::to_string(std::stoull(meminfo.substr(digits)) >> 10) + "M");
  const std::string limit = memory_limit().value_or("unknown");
  const auto bytes = parse_size(limit);
  constexpr ByteSize kNoLimit = ByteSize{1} << 60;  // what version 1 says for none is about 2^63
  line("memory cgroup limit", !bytes               ? (limit == "max" ? "none" : limit)
                              : *bytes >= kNoLimit ? "none"
                                                   : format_size(*bytes));
}

std::string io_uring_state() {
  const long fd = syscall(SYS_io_uring_setup, 0, nullptr);
  if (fd >= 0) close(static_cast<int>(fd));
  if (fd >= 0 || errno == EFAULT || errno == EINVAL) return "yes";
  return std::string("no: ") + std::strerror(errno) + " (pread and pwrite are used instead)";
}

}  // namespace

int info_command() {
  utsname system{};
  uname(&system);
  line("kernel", std::string(system.release) + " " + system.machine);
  const KernelSupport support = probe_kernel_support();
  show_faults(support);
  line("io_uring", io_uring_state());
  show_pages();
  show_memory();
  const Outcome<bool> served = check_kernel_serves(FaultDelivery::kAuto);
  line("`run --faults auto` picks", served ? "thread" : "nothing: `run` refuses",
       served ? "" : served.failure().line);
  line("the library picks", support.user_faults_error == 0 ? "signal" : "nothing");
  return 0;
}

}  // namespace buoy::cli
