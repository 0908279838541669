// The table's calls on paths, attributes of files, and mounts. By number within each group.
//
// They look their operands up before they change anything, or only tell something: kRetry, but for
// what closes or replaces descriptors.
#pragma once

#include "gate/table_build.h"

namespace buoy::gate::build {

inline constexpr Entry kPathCalls[] = {
    call(2, "open", Class::kRetry, string(0)),
    call(4, "stat", Class::kRetry, string(0), out(1, 144)),
    call(5, "fstat", Class::kRetry, out(1, 144)),
    call(6, "lstat", Class::kRetry, string(0), out(1, 144)),
    call(21, "access", Class::kRetry, string(0)),
    call(76, "truncate", Class::kRetry, string(0)),
    none(77, "ftruncate"),
    // The directory's position has moved on when the last entry's offset cannot be written.
    call(78, "getdents", Class::kLossy, result(1, 2)),
    call(79, "getcwd", Class::kRetry, result(0, 1)),
    call(80, "chdir", Class::kRetry, string(0)),
    none(81, "fchdir"),
    call(82, "rename", Class::kRetry, string(0), string(1)),
    call(83, "mkdir", Class::kRetry, string(0)),
    call(84, "rmdir", Class::kRetry, string(0)),
    call(85, "creat", Class::kRetry, string(0)),
    call(86, "link", Class::kRetry, string(0), string(1)),
    call(87, "unlink", Class::kRetry, string(0)),
    call(88, "symlink", Class::kRetry, string(0), string(1)),
    call(89, "readlink", Class::kRetry, string(0), result(1, 2)),
    call(90, "chmod", Class::kRetry, string(0)),
    none(91, "fchmod"),
    call(92, "chown", Class::kRetry, string(0)),
    none(93, "fchown"),
    call(94, "lchown", Class::kRetry, string(0)),
    none(95, "umask"),
    call(132, "utime", Class::kRetry, string(0), in(1, 16)),
    call(133, "mknod", Class::kRetry, string(0)),
    call(136, "ustat", Class::kRetry, out(1, 32)),
    call(137, "statfs", Class::kRetry, string(0), out(1, 120)),
    call(138, "fstatfs", Class::kRetry, out(1, 120)),
    call(161, "chroot", Class::kRetry, string(0)),
    call(217, "getdents64", Class::kLossy, result(1, 2)),
    call(235, "utimes", Class::kRetry, string(0), in(1, 32)),
    none(253, "inotify_init"),
    call(254, "inotify_add_watch", Class::kRetry, string(1)),
    none(255, "inotify_rm_watch"),
    call(257, "openat", Class::kRetry, string(1)),
    call(258, "mkdirat", Class::kRetry, string(1)),
    call(259, "mknodat", Class::kRetry, string(1)),
    call(260, "fchownat", Class::kRetry, string(1)),
    call(261, "futimesat", Class::kRetry, string(1), in(2, 32)),
    call(262, "newfstatat", Class::kRetry, string(1), out(2, 144)),
    call(263, "unlinkat", Class::kRetry, string(1)),
    call(264, "renameat", Class::kRetry, string(1), string(3)),
    call(265, "linkat", Class::kRetry, string(1), string(3)),
    call(266, "symlinkat", Class::kRetry, string(0), string(2)),
    call(267, "readlinkat", Class::kRetry, string(1), result(2, 3)),
    call(268, "fchmodat", Class::kRetry, string(1)),
    call(269, "faccessat", Class::kRetry, string(1)),
    call(280, "utimensat", Class::kRetry, string(1), in(2, 32)),
    none(294, "inotify_init1"),
    none(300, "fanotify_init"),
    call(301, "fanotify_mark", Class::kRetry, string(4)),
    // The handle's size is in-out. The mount's id is 4 bytes, or 8 with AT_HANDLE_MNT_ID_UNIQUE.
    call(303, "name_to_handle_at", Class::kRetry, string(1),
         of(2, Direction::kInOut, Size::kSelfSized, 0, 8), by_command(3, 4, Direction::kOut)),
    call(304, "open_by_handle_at", Class::kRetry, of(1, Direction::kIn, Size::kSelfSized, 0, 8)),
    call(316, "renameat2", Class::kRetry, string(1), string(3)),
    call(332, "statx", Class::kRetry, string(1), out(4, 256)),
    call(437, "openat2", Class::kRetry, string(1), in_array(2, 3)),
    call(439, "faccessat2", Class::kRetry, string(1)),
    call(451, "cachestat", Class::kRetry, in(1, 16), out(2, 40)),
    call(452, "fchmodat2", Class::kRetry, string(1)),
    call(468, "file_getattr", Class::kRetry, string(1), out_array(2, 3)),
    call(469, "file_setattr", Class::kRetry, string(1), in_array(2, 3)),
};

inline constexpr Entry kAttributeCalls[] = {
    call(188, "setxattr", Class::kRetry, string(0), string(1), in_array(2, 3)),
    call(189, "lsetxattr", Class::kRetry, string(0), string(1), in_array(2, 3)),
    call(190, "fsetxattr", Class::kRetry, string(1), in_array(2, 3)),
    call(191, "getxattr", Class::kRetry, string(0), string(1), result(2, 3)),
    call(192, "lgetxattr", Class::kRetry, string(0), string(1), result(2, 3)),
    call(193, "fgetxattr", Class::kRetry, string(1), result(2, 3)),
    call(194, "listxattr", Class::kRetry, string(0), result(1, 2)),
    call(195, "llistxattr", Class::kRetry, string(0), result(1, 2)),
    call(196, "flistxattr", Class::kRetry, result(1, 2)),
    call(197, "removexattr", Class::kRetry, string(0), string(1)),
    call(198, "lremovexattr", Class::kRetry, string(0), string(1)),
    call(199, "fremovexattr", Class::kRetry, string(1)),
    // xattr_args: { value's address, its size, flags }.
    call(463, "setxattrat", Class::kRetry, string(1), string(3), in_array(4, 5),
         by_command(4, 5, Direction::kIn)),
    call(464, "getxattrat", Class::kRetry, string(1), string(3), in_array(4, 5),
         by_command(4, 5, Direction::kOut)),
    call(465, "listxattrat", Class::kRetry, string(1), result(3, 4)),
    call(466, "removexattrat", Class::kRetry, string(1), string(3)),
};

inline constexpr Entry kMountCalls[] = {
    call(155, "pivot_root", Class::kRetry, string(0), string(1)),
    // Of the options it takes what it can read, and is content. They may be a binary structure (NFS),
    // of a page at most.
    call(165, "mount", Class::kLossy, string(0), string(1), string(2), string(4)),
    call(166, "umount2", Class::kRetry, string(0)),
    call(167, "swapon", Class::kRetry, string(0)),
    call(168, "swapoff", Class::kRetry, string(0)),
    call(179, "quotactl", Class::kRetry, string(1), by_command(3, 0)),
    call(428, "open_tree", Class::kRetry, string(1)),
    call(429, "move_mount", Class::kRetry, string(1), string(3)),
    call(430, "fsopen", Class::kRetry, string(0)),
    call(431, "fsconfig", Class::kRetry, string(2), by_command(3, 1, Direction::kIn)),
    none(432, "fsmount"),
    call(433, "fspick", Class::kRetry, string(1)),
    call(442, "mount_setattr", Class::kRetry, string(1), in_array(3, 4)),
    call(443, "quotactl_fd", Class::kRetry, by_command(3, 1)),
    call(457, "statmount", Class::kRetry, of(0, Direction::kIn, Size::kSelfSized), out_array(1, 2)),
    call(458, "listmount", Class::kRetry, of(0, Direction::kIn, Size::kSelfSized), result(1, 2, 8)),
    call(467, "open_tree_attr", Class::kRetry, string(1), in_array(3, 4)),
};

}  // namespace buoy::gate::build
