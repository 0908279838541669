#include "gate/descriptor_kinds.h"

#include <linux/magic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

#include "base/sys.h"

namespace buoy::gate {

constinit DescriptorKinds descriptor_kinds;

namespace {

// Files that the kernel makes up: some of them are read once, and wait when there is no more
// (/proc/kmsg, trace_pipe).
bool is_made_up(int fd) {
  constexpr long kTypes[] = {PROC_SUPER_MAGIC,    SYSFS_MAGIC,   DEBUGFS_MAGIC,
                             TRACEFS_MAGIC,       BPF_FS_MAGIC,  SECURITYFS_MAGIC,
                             CGROUP2_SUPER_MAGIC, PSTOREFS_MAGIC};
  struct statfs fs {};
  if (sys::call(SYS_fstatfs, fd, sys::ptr(&fs)) != 0) return true;
  return std::find(std::begin(kTypes), std::end(kTypes), fs.f_type) != std::end(kTypes);
}

DescriptorKind ask(int fd) {
  struct stat st {};
  if (const long rc = sys::call(SYS_fstat, fd, sys::ptr(&st)); rc != 0)
    return rc == -EBADF ? DescriptorKind::kFile : DescriptorKind::kOther;
  switch (st.st_mode & static_cast<unsigned>(S_IFMT)) {
    case S_IFREG:
      return is_made_up(fd) ? DescriptorKind::kOther : DescriptorKind::kFile;
    case S_IFBLK:
    case S_IFDIR:
      return DescriptorKind::kFile;
    case S_IFIFO:
      return DescriptorKind::kStream;
    case S_IFSOCK: {
      int type = 0;
      socklen_t length = sizeof type;
      const long rc =
          sys::call(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, sys::ptr(&type), sys::ptr(&length));
      return rc == 0 && type == SOCK_STREAM ? DescriptorKind::kStream : DescriptorKind::kOther;
    }
    default:
      return DescriptorKind::kOther;
  }
}

}  // namespace

DescriptorKind DescriptorKinds::kind_of(int fd) {
  if (fd < 0) return DescriptorKind::kFile;
  if (static_cast<unsigned>(fd) >= kMost) return ask(fd);
  std::uint32_t seen = entries_[fd].load(std::memory_order_acquire);
  if (const auto kind = static_cast<DescriptorKind>(seen & kKindMask);
      kind != DescriptorKind::kUnknown)
    return kind;
  const DescriptorKind kind = ask(fd);
  entries_[fd].compare_exchange_strong(seen, seen | static_cast<std::uint32_t>(kind),
                                       std::memory_order_release);
  return kind;
}

void DescriptorKinds::forget_range(unsigned first, unsigned last) {
  for (unsigned fd = first; fd <= last && fd < kMost; ++fd) {
    std::uint32_t now = entries_[fd].load(std::memory_order_relaxed);
    while (!entries_[fd].compare_exchange_weak(now, (now & ~kKindMask) + kOneForgotten)) {
    }
  }
}

}  // namespace buoy::gate
