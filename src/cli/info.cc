#include "cli/info.h"

#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>

#include "cli/kernel_support.h"
#include "cli/size.h"

namespace buoy::cli {
namespace {

void line(const std::string& what, const std::string& value, const std::string& remedy = {}) {
  std::printf("%-51s%s\n", what.c_str(), value.c_str());
  if (!remedy.empty()) std::printf("    remedy: %s\n", remedy.c_str());
}

std::optional<std::string> first_line_of(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  if (!file || !std::getline(file, text)) return std::nullopt;
  return text;
}

void show_faults(const mmu::Capabilities& capabilities) {
  for (const mmu::Capability& c : capabilities)
    line(std::string(c.name),
         c.available ? "yes" : (c.required ? "no, and nothing works without" : "no"),
         std::string(c.remedy));
  const char* device = "/dev/userfaultfd";
  line(device, access(device, F_OK) != 0          ? "not there (Linux 6.1 and newer)"
               : access(device, R_OK | W_OK) == 0 ? "usable"
                                                  : "no permission");
  line("vm.unprivileged_userfaultfd",
       first_line_of("/proc/sys/vm/unprivileged_userfaultfd").value_or("unknown"));
  line("fork under `run` (system call user dispatch)", can_fork() ? "yes" : "no",
       can_fork() ? "" : kForkRemedy);
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
  const mmu::Capabilities capabilities = mmu::Capabilities::probe();
  show_faults(capabilities);
  line("io_uring", io_uring_state());
  show_pages();
  show_memory();
  const Outcome<bool> served = check_kernel_serves(capabilities, FaultDelivery::kAuto);
  line("`run --faults auto` picks",
       !served                                       ? "nothing: it refuses"
       : capabilities.allows(mmu::Delivery::kSignal) ? "signal, with the system call gate"
                                                     : "thread",
       served ? "" : served.failure().line);
  line("the library's `auto` picks",
       capabilities.allows(mmu::Delivery::kSignal) ? "signal" : "nothing: it refuses");
  return 0;
}

}  // namespace buoy::cli
