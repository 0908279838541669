#include "gate/descriptor_kinds.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include "base/sys.h"

namespace buoy::gate {

constinit DescriptorKinds descriptor_kinds;

namespace {

DescriptorKind ask(int fd) {
  struct stat st {};
  if (sys::call(SYS_fstat, fd, sys::ptr(&st)) != 0) return DescriptorKind::kFile;
  switch (st.st_mode & static_cast<unsigned>(S_IFMT)) {
    case S_IFREG:
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
