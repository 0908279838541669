#include "preload/shown_budget.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <string_view>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/gate.h"
#include "gate/parts.h"
#include "preload/lease.h"
#include "preload/runtime.h"
#include "preload/shown_text.h"

namespace buoy::preload {
namespace {

constinit bool is_shown = false;

ShownBudget current_budget() {
  ShownBudget shown;
  if (lease::is_in_tree()) return {lease::whole(), lease::leased()};
  (void)pool().stat("budget_bytes", &shown.budget);
  (void)pool().stat("resident_bytes", &shown.resident);
  return shown;
}

// Files of the kernel's own file systems have no size and no blocks, and no device.
bool may_be_kernels(int fd) {
  struct stat st {};
  return sys::call(SYS_fstat, fd, sys::ptr(&st)) == 0 && S_ISREG(st.st_mode) && st.st_blocks == 0 &&
         major(st.st_dev) == 0;
}

std::string_view path_of(int fd, char* buffer, std::size_t capacity) {
  sys::Line link;
  link.text("/proc/self/fd/").number(static_cast<unsigned>(fd)).text({"\0", 1});
  const long n = sys::call(SYS_readlink, sys::ptr(link.view().data()), sys::ptr(buffer),
                           static_cast<long>(capacity));
  return n > 0 ? std::string_view(buffer, static_cast<std::size_t>(n)) : std::string_view();
}

ShownFile file_behind(int fd) {
  char path[512];
  const std::string_view name = path_of(fd, path, sizeof path);
  const ShownFile file = may_be_shown(name);
  if (file == ShownFile::kNone || file == ShownFile::kMeminfo) return file;
  char own[2048];
  const long n = sys::read_file("/proc/self/cgroup", own, sizeof own);
  return n > 0 ? shown_file(name, {own, static_cast<std::size_t>(n)}) : ShownFile::kNone;
}

// False: it could not be written whole.
bool write_shown(int fd, ShownFile file, std::string_view text) {
  const ShownBudget shown = current_budget();
  const std::size_t first = std::min(text.find('\n'), text.size());
  const ByteSize total = meminfo_value(text.substr(0, first), "MemTotal");
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    sys::Line line;
    show_line(file, text.substr(at, end - at), shown, total, &line);
    if (end < text.size()) line.text("\n");
    const auto size = static_cast<long>(line.view().size());
    if (sys::call(SYS_write, fd, sys::ptr(line.view().data()), size) != size) return false;
    at = end + 1;
  }
  return true;
}

}  // namespace

void show_budget() {
  if (settings().show_budget != ShowBudget::kYes || !gate::is_installed()) return;
  is_shown = true;
  gate::route_opens();
}

bool is_budget_shown() { return is_shown; }

void show_opened(long descriptor) {
  const int fd = static_cast<int>(descriptor);
  if (!may_be_kernels(fd)) return;
  const ShownFile file = file_behind(fd);
  if (file == ShownFile::kNone) return;
  char text[4096];  // of what is longer, nothing is changed
  const long n = sys::call(SYS_pread64, fd, sys::ptr(text), sizeof text, 0);
  if (n <= 0 || n == static_cast<long>(sizeof text)) return;
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  const long flags = sys::call(SYS_fcntl, fd, F_GETFD);
  const long made = sys::call(SYS_memfd_create, sys::ptr("buoy-shown"),
                              static_cast<long>(MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (made < 0) return;
  if (write_shown(static_cast<int>(made), file, {text, static_cast<std::size_t>(n)}) &&
      sys::call(SYS_lseek, made, 0, SEEK_SET) == 0) {
    sys::call(SYS_fcntl, made, F_ADD_SEALS, kSeals);
    sys::call(SYS_dup3, made, fd, (flags & FD_CLOEXEC) != 0 ? O_CLOEXEC : 0);
  }
  sys::call(SYS_close, made);
}

long sysinfo_shown(long address) {
  struct sysinfo info {};
  const long rc = sys::call(SYS_sysinfo, sys::ptr(&info));
  if (rc != 0) return rc;
  const ShownBudget shown = current_budget();
  const ByteSize unit = std::max(info.mem_unit, 1U);
  if (shown.budget < info.totalram * unit) {
    info.totalram = shown.budget / unit;
    info.freeram = std::min<ByteSize>(info.freeram, shown.free() / unit);
    info.bufferram = 0;
  }
  const gate::Bytes to{static_cast<std::uintptr_t>(address), sizeof info};
  return gate::write_program(*gate::memory_if_set(), to, &info) ? 0 : -EFAULT;
}

}  // namespace buoy::preload
