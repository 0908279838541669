// Who may make the kernel hold pages beyond a system call: direct I/O, AIO, devices, vmsplice.
//
// As long as nobody has, pages leave in the cheapest way, which does not notice a held page. The
// first call that might lead to one turns that off for good, before it is made (Vm::expect_pins).
// What reads pages only and does not outlive what they hold (MSG_ZEROCOPY) does not count: a page that
// has left is with the kernel still, as it was.
#pragma once

#include "gate/memory.h"

namespace buoy::gate::pinners {

// ioctl(2)'s commands of terminals, sockets, files and block devices: they copy. All others on a device,
// or on something made by one (a virtual machine), may do anything.
[[nodiscard]] inline bool is_copying(unsigned long command) {
  constexpr unsigned kCopying[] = {'T', 'f', 'X', 0x89, 0x12, 'v', 0xaa /* userfaultfd */};
  constexpr unsigned kTypeShift = 8;
  for (const unsigned type : kCopying)
    if ((command >> kTypeShift & 0xffU) == type) return true;
  return false;
}

// Descriptors that the process was started with.
[[nodiscard]] bool are_inherited();
// Might this call, or what it opens, make the kernel hold pages?
[[nodiscard]] bool is_one(Memory& memory, long number, const long* arguments);
// Are there such descriptors among those that a call has brought (recvmsg, recvmmsg, pidfd_getfd)?
[[nodiscard]] bool are_received(Memory& memory, long number, const long* arguments, long result);

}  // namespace buoy::gate::pinners
