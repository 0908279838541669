// The table's calls on processes, threads, identities, signals, time and scheduling. By number within
// each group.
#pragma once

#include "gate/table_build.h"

namespace buoy::gate::build {

// set_robust_list and set_tid_address touch nothing: the kernel keeps the address until the thread
// ends. restart_syscall writes where the call that it goes on with was told to.
inline constexpr Entry kProcessCalls[] = {
    none(39, "getpid"),
    call(56, "clone", Class::kSpecial, out(2, 4), out(3, 4)),
    call(57, "fork", Class::kSpecial),
    call(58, "vfork", Class::kSpecial),
    call(59, "execve", Class::kSpecial, string(0), strings(1), strings(2)),
    call(60, "exit", Class::kSpecial),
    call(61, "wait4", Class::kLossy, out(1, 4), out(3, 144)),
    call(63, "uname", Class::kRetry, out(0, 390)),
    call(97, "getrlimit", Class::kRetry, out(1, 16)),
    call(98, "getrusage", Class::kRetry, out(1, 144)),
    call(99, "sysinfo", Class::kRetry, out(0, 112)),
    call(101, "ptrace", Class::kSpecial, by_command(2, 0), by_command(3, 0)),
    none(110, "getppid"),
    none(135, "personality"),
    call(157, "prctl", Class::kSpecial, by_command(1, 0), by_command(2, 0), by_command(3, 0),
         by_command(4, 0)),
    call(158, "arch_prctl", Class::kSpecial, by_command(1, 0)),
    call(160, "setrlimit", Class::kRetry, in(1, 16)),
    none(186, "gettid"),
    none(205, "set_thread_area"),  // not of the 64-bit table, as get_thread_area
    none(211, "get_thread_area"),
    call(218, "set_tid_address", Class::kSpecial),
    none(219, "restart_syscall"),
    call(231, "exit_group", Class::kSpecial),
    // Of a siginfo_t the first 28 bytes are written, but for the padding at 12.
    call(247, "waitid", Class::kLossy, inout(2, 28), out(4, 144)),
    none(272, "unshare"),
    call(273, "set_robust_list", Class::kSpecial),
    call(274, "get_robust_list", Class::kRetry, out(1, 8), out(2, 8)),
    call(302, "prlimit64", Class::kEffect, in(2, 16), out(3, 16)),
    none(308, "setns"),
    call(309, "getcpu", Class::kRetry, out(0, 4), out(1, 4)),
    // Through the other side the pages are taken hold of; both sides may be this process.
    call(310, "process_vm_readv", Class::kHold, scatter(1, 2), in_array(3, 4, 16)),
    call(311, "process_vm_writev", Class::kHold, gather(1, 2), in_array(3, 4, 16)),
    call(312, "kcmp", Class::kRetry, by_command(4, 2, Direction::kIn)),
    call(322, "execveat", Class::kSpecial, string(1), strings(2), strings(3)),
    call(334, "rseq", Class::kSpecial, inout_array(0, 1)),
    none(335, "uretprobe"),  // the kernel's own trampoline calls it, as the next one
    none(336, "uprobe"),
    none(434, "pidfd_open"),
    call(435, "clone3", Class::kSpecial, in_array(0, 1), by_command(0, 1, Direction::kOut)),
    none(448, "process_mrelease"),
};

inline constexpr Entry kIdentityCalls[] = {
    none(102, "getuid"),
    none(104, "getgid"),
    none(105, "setuid"),
    none(106, "setgid"),
    none(107, "geteuid"),
    none(108, "getegid"),
    none(109, "setpgid"),
    none(111, "getpgrp"),
    none(112, "setsid"),
    none(113, "setreuid"),
    none(114, "setregid"),
    call(115, "getgroups", Class::kRetry, result(1, 0, 4)),
    call(116, "setgroups", Class::kRetry, in_array(1, 0, 4)),
    none(117, "setresuid"),
    call(118, "getresuid", Class::kRetry, out(0, 4), out(1, 4), out(2, 4)),
    none(119, "setresgid"),
    call(120, "getresgid", Class::kRetry, out(0, 4), out(1, 4), out(2, 4)),
    none(121, "getpgid"),
    none(122, "setfsuid"),
    none(123, "setfsgid"),
    none(124, "getsid"),
    // Two data structures, but one in the first version of the header.
    call(125, "capget", Class::kRetry, inout(0, 8), out(1, 24)),
    call(126, "capset", Class::kRetry, inout(0, 8), in(1, 24)),
};

// The kernel's sigset has 8 bytes; calls that take its size accept no other (rt_sigpending a smaller).
inline constexpr Entry kSignalCalls[] = {
    call(13, "rt_sigaction", Class::kSpecial, in(1, 32), out(2, 32)),
    call(14, "rt_sigprocmask", Class::kSpecial, in_array(1, 3), out_array(2, 3)),
    call(15, "rt_sigreturn", Class::kSpecial),
    none(34, "pause"),
    none(62, "kill"),
    call(127, "rt_sigpending", Class::kRetry, out_array(0, 1)),
    call(128, "rt_sigtimedwait", Class::kLossy, in_array(0, 3), out(1, 128), in(2, 16)),
    call(129, "rt_sigqueueinfo", Class::kRetry, in(2, 128)),
    call(130, "rt_sigsuspend", Class::kSpecial, in_array(0, 1)),
    call(131, "sigaltstack", Class::kSpecial, in(0, 24), out(1, 24)),
    none(200, "tkill"),
    none(234, "tgkill"),
    call(297, "rt_tgsigqueueinfo", Class::kRetry, in(3, 128)),
    call(424, "pidfd_send_signal", Class::kRetry, in(2, 128)),
};

inline constexpr Entry kTimeCalls[] = {
    call(35, "nanosleep", Class::kEffect, in(0, 16), out(1, 16)),
    call(36, "getitimer", Class::kRetry, out(1, 32)),
    none(37, "alarm"),
    call(38, "setitimer", Class::kEffect, in(1, 32), out(2, 32)),
    call(96, "gettimeofday", Class::kRetry, out(0, 16), out(1, 8)),
    call(100, "times", Class::kRetry, out(0, 32)),
    call(159, "adjtimex", Class::kEffect, inout(0, 208)),
    call(164, "settimeofday", Class::kRetry, in(0, 16), in(1, 8)),
    call(201, "time", Class::kRetry, out(0, 8)),
    call(222, "timer_create", Class::kRetry, in(1, 64), out(2, 4)),
    call(223, "timer_settime", Class::kEffect, in(2, 32), out(3, 32)),
    call(224, "timer_gettime", Class::kRetry, out(1, 32)),
    none(225, "timer_getoverrun"),
    none(226, "timer_delete"),
    call(227, "clock_settime", Class::kRetry, in(1, 16)),
    call(228, "clock_gettime", Class::kRetry, out(1, 16)),
    call(229, "clock_getres", Class::kRetry, out(1, 16)),
    call(230, "clock_nanosleep", Class::kEffect, in(2, 16), out(3, 16)),
    none(283, "timerfd_create"),
    call(286, "timerfd_settime", Class::kEffect, in(2, 32), out(3, 32)),
    call(287, "timerfd_gettime", Class::kRetry, out(1, 32)),
    call(305, "clock_adjtime", Class::kEffect, inout(1, 208)),
};

inline constexpr Entry kSchedulingCalls[] = {
    none(24, "sched_yield"),
    none(140, "getpriority"),
    none(141, "setpriority"),
    call(142, "sched_setparam", Class::kRetry, in(1, 4)),
    call(143, "sched_getparam", Class::kRetry, out(1, 4)),
    call(144, "sched_setscheduler", Class::kRetry, in(2, 4)),
    none(145, "sched_getscheduler"),
    none(146, "sched_get_priority_max"),
    none(147, "sched_get_priority_min"),
    call(148, "sched_rr_get_interval", Class::kRetry, out(1, 16)),
    // The word, the second word, and a time or a count: what they are depends on the operation.
    call(202, "futex", Class::kRetry, by_command(0, 1), by_command(3, 1), by_command(4, 1)),
    call(203, "sched_setaffinity", Class::kRetry, in_array(2, 1)),
    call(204, "sched_getaffinity", Class::kRetry, result(2, 1)),
    none(251, "ioprio_set"),
    none(252, "ioprio_get"),
    // Too new a structure, and the kernel writes the size that it knows into it.
    call(314, "sched_setattr", Class::kRetry, of(1, Direction::kIn, Size::kSelfSized)),
    call(315, "sched_getattr", Class::kRetry, out_array(1, 2)),
    none(324, "membarrier"),
    call(449, "futex_waitv", Class::kRetry, of(0, Direction::kIn, Size::kWaiters, 1), in(3, 16)),
    call(454, "futex_wake", Class::kRetry, in(0, 4)),
    call(455, "futex_wait", Class::kRetry, in(0, 4), in(4, 16)),
    call(456, "futex_requeue", Class::kRetry, of(0, Direction::kIn, Size::kWaiters, 0, 2)),
};

}  // namespace buoy::gate::build
