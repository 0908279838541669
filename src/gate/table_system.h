// The table's calls on the address space, on System V and POSIX objects, and those by which a system
// is run: modules, keys, security, names. By number within each group.
#pragma once

#include "gate/table_build.h"

namespace buoy::gate::build {

inline constexpr Entry kMemoryCalls[] = {
    call(9, "mmap", Class::kSpecial),
    call(10, "mprotect", Class::kSpecial),
    call(11, "munmap", Class::kSpecial),
    call(12, "brk", Class::kSpecial),
    call(25, "mremap", Class::kSpecial),
    call(26, "msync", Class::kSpecial),
    call(27, "mincore", Class::kSpecial, of(2, Direction::kOut, Size::kPages, 1)),
    call(28, "madvise", Class::kSpecial),
    call(30, "shmat", Class::kSpecial),
    call(67, "shmdt", Class::kSpecial),
    call(149, "mlock", Class::kSpecial),
    call(150, "munlock", Class::kSpecial),
    call(151, "mlockall", Class::kSpecial),
    call(152, "munlockall", Class::kSpecial),
    call(216, "remap_file_pages", Class::kSpecial),
    // NUMA: the ranges they name stay what they are, and a page that is not there is passed over.
    call(237, "mbind", Class::kRetry, nodes(3, Direction::kIn, 4)),
    call(238, "set_mempolicy", Class::kRetry, nodes(1, Direction::kIn, 2)),
    call(239, "get_mempolicy", Class::kRetry, out(0, 4), nodes(1, Direction::kOut, 2), in(3, 1)),
    call(256, "migrate_pages", Class::kRetry, nodes(2, Direction::kIn, 1),
         nodes(3, Direction::kIn, 1)),
    call(279, "move_pages", Class::kRetry, of(2, Direction::kIn, Size::kPointers, 1),
         in_array(3, 1, 4), out_array(4, 1, 4)),
    none(323, "userfaultfd"),
    call(325, "mlock2", Class::kSpecial),
    call(329, "pkey_mprotect", Class::kSpecial),
    none(330, "pkey_alloc"),
    none(331, "pkey_free"),
    call(440, "process_madvise", Class::kSpecial, in_array(1, 2, 16)),
    none(450, "set_mempolicy_home_node"),
    call(453, "map_shadow_stack", Class::kSpecial),
    call(462, "mseal", Class::kSpecial),
};

inline constexpr Entry kObjectCalls[] = {
    none(29, "shmget"),
    call(31, "shmctl", Class::kRetry, by_command(2, 1)),
    none(64, "semget"),
    call(65, "semop", Class::kRetry, in_array(1, 2, 6)),
    call(66, "semctl", Class::kRetry, by_command(3, 2)),
    none(68, "msgget"),
    call(69, "msgsnd", Class::kRetry, of(1, Direction::kIn, Size::kMsgbuf, 2)),
    call(70, "msgrcv", Class::kLossy,
         of(1, Direction::kOut, Size::kMsgbuf, 2, 1, Produced::kResult)),
    call(71, "msgctl", Class::kRetry, by_command(2, 1)),
    call(220, "semtimedop", Class::kRetry, in_array(1, 2, 6), in(3, 16)),
    call(240, "mq_open", Class::kRetry, string(0), in(3, 64)),
    call(241, "mq_unlink", Class::kRetry, string(0)),
    call(242, "mq_timedsend", Class::kRetry, in_array(1, 2), in(4, 16)),
    call(243, "mq_timedreceive", Class::kLossy, result(1, 2), out(3, 4), in(4, 16)),
    // SIGEV_THREAD's sigev_value points at a cookie of 32 bytes.
    call(244, "mq_notify", Class::kRetry, in(1, 64), by_command(1, 1, Direction::kIn)),
    call(245, "mq_getsetattr", Class::kEffect, in(1, 64), out(2, 64)),
};

inline constexpr Entry kSecurityCalls[] = {
    call(248, "add_key", Class::kRetry, string(0), string(1), in_array(2, 3)),
    call(249, "request_key", Class::kRetry, string(0), string(1), string(2)),
    call(250, "keyctl", Class::kRetry, by_command(1, 0), by_command(2, 0), by_command(3, 0),
         by_command(4, 0)),
    call(317, "seccomp", Class::kRetry, by_command(2, 0)),
    call(444, "landlock_create_ruleset", Class::kRetry, in_array(0, 1)),
    call(445, "landlock_add_rule", Class::kRetry, by_command(2, 1, Direction::kIn)),
    none(446, "landlock_restrict_self"),
    call(459, "lsm_get_self_attr", Class::kRetry, worded(1, Direction::kInOut, 2), word(2)),
    call(460, "lsm_set_self_attr", Class::kRetry, in_array(1, 2)),
    call(461, "lsm_list_modules", Class::kRetry, worded(0, Direction::kOut, 1), word(1)),
};

inline constexpr Entry kSystemCalls[] = {
    call(103, "syslog", Class::kLossy, result(1, 2)),  // SYSLOG_ACTION_READ takes what it reads
    call(134, "uselib", Class::kRetry, string(0)),
    call(139, "sysfs", Class::kRetry, by_command(1, 0, Direction::kIn),
         by_command(2, 0, Direction::kOut)),
    none(153, "vhangup"),
    call(154, "modify_ldt", Class::kRetry, by_command(1, 0)),
    call(163, "acct", Class::kRetry, string(0)),
    call(169, "reboot", Class::kRetry, by_command(3, 2, Direction::kIn)),
    call(170, "sethostname", Class::kRetry, in_array(0, 1)),
    call(171, "setdomainname", Class::kRetry, in_array(0, 1)),
    none(172, "iopl"),
    none(173, "ioperm"),
    call(175, "init_module", Class::kRetry, in_array(0, 1), string(2)),
    call(176, "delete_module", Class::kRetry, string(0)),
    call(246, "kexec_load", Class::kRetry, in_array(2, 1, 32), by_command(2, 1, Direction::kIn)),
    call(298, "perf_event_open", Class::kRetry, of(0, Direction::kIn, Size::kSelfSized, 1)),
    call(313, "finit_module", Class::kRetry, string(1)),
    // Nothing is lost, but it stops short, which it promises not to do for few bytes.
    call(318, "getrandom", Class::kLossy, result(0, 1)),
    call(320, "kexec_file_load", Class::kRetry, in_array(3, 2)),
    // Some take an element out of a map, and what they do is behind pointers in the structure.
    call(321, "bpf", Class::kLossy, inout_array(1, 2), by_command(1, 0)),
};

// Given up by the kernel, or never part of it: they answer ENOSYS and look at nothing.
inline constexpr Entry kGoneCalls[] = {
    none(156, "_sysctl"),      none(174, "create_module"),  none(177, "get_kernel_syms"),
    none(178, "query_module"), none(180, "nfsservctl"),     none(181, "getpmsg"),
    none(182, "putpmsg"),      none(183, "afs_syscall"),    none(184, "tuxcall"),
    none(185, "security"),     none(212, "lookup_dcookie"), none(236, "vserver"),
};

}  // namespace buoy::gate::build
