// The table's calls that move data through descriptors, wait for them, or make them. By number within
// each group.
#pragma once

#include "gate/table_build.h"

namespace buoy::gate::build {

inline constexpr Entry kTransferCalls[] = {
    call(0, "read", Class::kDescriptor, result(1, 2)),
    call(1, "write", Class::kRetry, in_array(1, 2)),
    none(8, "lseek"),
    // Without an encoded size the argument may be a number, or a structure of any size. With one it
    // may be less: FS_IOC_GETFLAGS says 8 bytes, and is an int.
    call(16, "ioctl", Class::kLossy, of(2, Direction::kInOut, Size::kIoctl, 1)),
    call(17, "pread64", Class::kRetry, result(1, 2)),
    call(18, "pwrite64", Class::kRetry, in_array(1, 2)),
    call(19, "readv", Class::kDescriptor, scatter(1, 2)),
    call(20, "writev", Class::kRetry, gather(1, 2)),
    // The offset is written when the bytes have gone: done again, they go twice.
    call(40, "sendfile", Class::kEffect, inout(2, 8)),
    none(74, "fsync"),
    none(75, "fdatasync"),
    none(162, "sync"),
    none(187, "readahead"),
    none(221, "fadvise64"),
    call(275, "splice", Class::kEffect, inout(1, 8), inout(3, 8)),
    none(276, "tee"),
    none(277, "sync_file_range"),
    // Into a pipe, which keeps the pages. Out of a pipe they are written like read's, and are kOut.
    call(278, "vmsplice", Class::kHold, gather(1, 2)),
    none(285, "fallocate"),
    call(295, "preadv", Class::kRetry, scatter(1, 2)),
    call(296, "pwritev", Class::kRetry, gather(1, 2)),
    none(306, "syncfs"),
    call(326, "copy_file_range", Class::kEffect, inout(1, 8), inout(3, 8)),
    // At offset -1 it is readv.
    call(327, "preadv2", Class::kDescriptor, scatter(1, 2)),
    call(328, "pwritev2", Class::kRetry, gather(1, 2)),
};

inline constexpr Entry kDescriptorCalls[] = {
    call(3, "close", Class::kSpecial),
    call(22, "pipe", Class::kRetry, out(0, 8)),  // closed again by the kernel when it fails
    none(32, "dup"),
    call(33, "dup2", Class::kSpecial),
    call(72, "fcntl", Class::kRetry, by_command(2, 1)),
    none(73, "flock"),
    call(282, "signalfd", Class::kRetry, in_array(1, 2)),
    none(284, "eventfd"),
    call(289, "signalfd4", Class::kRetry, in_array(1, 2)),
    none(290, "eventfd2"),
    call(292, "dup3", Class::kSpecial),
    call(293, "pipe2", Class::kRetry, out(0, 8)),
    call(319, "memfd_create", Class::kRetry, string(0)),
    call(436, "close_range", Class::kSpecial),
    none(438, "pidfd_getfd"),
    none(447, "memfd_secret"),
};

// What has been waited for is found again by a second call, but the time it took is not, and poll's
// results are written one by one: kEffect. epoll's events stay with it until they are written.
inline constexpr Entry kWaitingCalls[] = {
    call(7, "poll", Class::kEffect, inout_array(0, 1, 8)),
    call(23, "select", Class::kEffect, bits(1, Direction::kInOut, 0), bits(2, Direction::kInOut, 0),
         bits(3, Direction::kInOut, 0), inout(4, 16)),
    none(213, "epoll_create"),
    none(214, "epoll_ctl_old"),  // never implemented here, as the next one
    none(215, "epoll_wait_old"),
    call(232, "epoll_wait", Class::kRetry, result(1, 2, 12)),
    call(233, "epoll_ctl", Class::kRetry, in(3, 12)),
    call(270, "pselect6", Class::kEffect, bits(1, Direction::kInOut, 0),
         bits(2, Direction::kInOut, 0), bits(3, Direction::kInOut, 0), inout(4, 16),
         of(5, Direction::kIn, Size::kSigsetPair)),
    call(271, "ppoll", Class::kEffect, inout_array(0, 1, 8), inout(2, 16), in_array(3, 4)),
    call(281, "epoll_pwait", Class::kRetry, result(1, 2, 12), in_array(4, 5)),
    none(291, "epoll_create1"),
    call(441, "epoll_pwait2", Class::kRetry, result(1, 2, 12), in(3, 16), in_array(4, 5)),
};

inline constexpr Entry kSocketCalls[] = {
    none(41, "socket"),
    call(42, "connect", Class::kRetry, in_array(1, 2)),
    call(43, "accept", Class::kLossy, worded(1, Direction::kOut, 2), word(2)),
    call(44, "sendto", Class::kRetry, in_array(1, 2), in_array(4, 5)),
    call(45, "recvfrom", Class::kLossy, result(1, 2), worded(4, Direction::kOut, 5), word(5)),
    call(46, "sendmsg", Class::kRetry, of(1, Direction::kIn, Size::kMessage)),
    call(47, "recvmsg", Class::kLossy,
         of(1, Direction::kOut, Size::kMessage, 0, 1, Produced::kResult)),
    none(48, "shutdown"),
    call(49, "bind", Class::kRetry, in_array(1, 2)),
    none(50, "listen"),
    call(51, "getsockname", Class::kRetry, worded(1, Direction::kOut, 2), word(2)),
    call(52, "getpeername", Class::kRetry, worded(1, Direction::kOut, 2), word(2)),
    call(53, "socketpair", Class::kRetry, out(3, 8)),
    // SO_ATTACH_FILTER's value points at the filter.
    call(54, "setsockopt", Class::kRetry, in_array(3, 4), by_command(3, 2, Direction::kIn)),
    call(55, "getsockopt", Class::kLossy, worded(3, Direction::kInOut, 4), word(4)),  // SO_ERROR
    call(288, "accept4", Class::kLossy, worded(1, Direction::kOut, 2), word(2)),
    call(299, "recvmmsg", Class::kLossy, of(1, Direction::kOut, Size::kMessages, 2), inout(4, 16)),
    // What is in the messages goes in; how much of each was sent is written beside them.
    call(307, "sendmmsg", Class::kEffect, of(1, Direction::kIn, Size::kMessages, 2)),
};

inline constexpr Entry kAsynchronousCalls[] = {
    call(206, "io_setup", Class::kRetry, inout(1, 8)),
    none(207, "io_destroy"),
    call(208, "io_getevents", Class::kRetry, result(3, 2, 32), in(4, 16)),
    call(209, "io_submit", Class::kHold, of(2, Direction::kIn, Size::kPointers, 1)),
    call(210, "io_cancel", Class::kRetry, in(1, 64), out(2, 32)),
    call(333, "io_pgetevents", Class::kRetry, result(3, 2, 32), in(4, 16),
         of(5, Direction::kIn, Size::kSigsetPair)),
    call(425, "io_uring_setup", Class::kHold, inout(1, 120)),
    call(426, "io_uring_enter", Class::kHold, in_array(4, 5), by_command(4, 3, Direction::kIn)),
    call(427, "io_uring_register", Class::kHold, by_command(2, 1)),
};

}  // namespace buoy::gate::build
