#include "gate/pinners.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>

#include "base/sys.h"
#include "gate/parts.h"

namespace buoy::gate::pinners {

namespace {

constexpr int kXdpLevel = 283;  // SOL_XDP

bool has_direct(long flags) { return (flags & O_DIRECT) != 0; }

bool opens_directly(Memory& memory, const long* a) {
  std::uint64_t flags = 0;
  if (!read_program(memory, &flags, {static_cast<std::uintptr_t>(a[2]), sizeof flags}))
    return false;
  return has_direct(static_cast<long>(flags));
}

bool is_of_device(const long* a) {
  if (is_copying(static_cast<unsigned long>(a[1]))) return false;
  struct stat st {};
  if (sys::call(SYS_fstat, a[0], sys::ptr(&st)) != 0) return false;
  const auto kind = st.st_mode & static_cast<unsigned>(S_IFMT);
  return kind == S_IFCHR || kind == 0;
}

bool is_direct(int fd) {
  const long flags = sys::call(SYS_fcntl, fd, F_GETFL);
  return flags >= 0 && has_direct(flags);
}

bool are_in_control(const void* control, std::size_t length) {
  msghdr m{};
  m.msg_control = const_cast<void*>(control);
  m.msg_controllen = length;
  for (cmsghdr* c = CMSG_FIRSTHDR(&m); c != nullptr; c = CMSG_NXTHDR(&m, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t bytes = c->cmsg_len - CMSG_LEN(0);
    for (std::size_t i = 0; i + sizeof(int) <= bytes; i += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(c) + i, sizeof fd);
      if (is_direct(fd)) return true;
    }
  }
  return false;
}

bool are_in_message(Memory& memory, long pointer) {
  msghdr m;
  if (!read_program(memory, &m, {static_cast<std::uintptr_t>(pointer), sizeof m})) return false;
  return m.msg_control != nullptr && are_in_control(m.msg_control, m.msg_controllen);
}

bool is_own(long pid) { return pid == sys::call(SYS_getpid); }

}  // namespace

bool are_inherited() {
  // Descriptors are handed out from the lowest; a gap of this many ends the search.
  constexpr int kGap = 64;
  for (int fd = 0, gap = 0; gap < kGap; ++fd, ++gap) {
    const long flags = sys::call(SYS_fcntl, fd, F_GETFL);
    if (flags < 0) continue;
    if (has_direct(flags)) return true;
    gap = 0;
  }
  return false;
}

bool is_one(Memory& memory, long number, const long* a) {
  switch (number) {
    case SYS_open:
      return has_direct(a[1]);
    case SYS_openat:
      return has_direct(a[2]);
    case SYS_openat2:
      return opens_directly(memory, a);
    case SYS_fcntl:
      return a[1] == F_SETFL && has_direct(a[2]);
    case SYS_pipe2:
      return false;  // O_DIRECT: packets
    case SYS_io_setup:
    case SYS_vmsplice:
      return true;
    case SYS_process_vm_readv:
    case SYS_process_vm_writev:
      return is_own(a[0]);
    case SYS_setsockopt:
      return a[1] == kXdpLevel;
    case SYS_ioctl:
      return is_of_device(a);
    default:
      return false;
  }
}

bool are_received(Memory& memory, long number, const long* a, long result) {
  if (number == SYS_recvmsg) return are_in_message(memory, a[1]);
  if (number != SYS_recvmmsg) return is_direct(static_cast<int>(result));
  for (long i = 0; i < result; ++i)
    if (are_in_message(memory, a[1] + i * static_cast<long>(sizeof(mmsghdr)))) return true;
  return false;
}

}  // namespace buoy::gate::pinners
