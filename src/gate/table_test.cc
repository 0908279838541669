// Is the table complete, and is what it says possible? Whether it is true is table_calls_test.cc's.
#include "gate/table.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/aio_abi.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <time.h>
#include <utime.h>

#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <map>
#include <string>

namespace buoy::gate {
namespace {

constexpr const char* kHeaders[] = {"/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
                                    "/usr/include/asm/unistd_64.h"};

// Number by name, as this machine's headers have it.
std::map<std::string, long> numbers_of_headers() {
  std::map<std::string, long> numbers;
  for (const char* path : kHeaders) {
    std::ifstream header(path);
    long number = 0;
    for (std::string line; std::getline(header, line);) {
      char word[64];
      if (std::sscanf(line.c_str(), "#define __NR_%63s %ld", word, &number) == 2)
        numbers.emplace(word, number);
    }
    if (!numbers.empty()) break;
  }
  return numbers;
}

TEST(Table, KnowsAllCallsOfTheHeaders) {
  const auto numbers = numbers_of_headers();
  if (numbers.empty()) GTEST_SKIP() << "no asm/unistd_64.h on this machine";
  EXPECT_GE(numbers.size(), 350U);
  for (const auto& [name, number] : numbers) {
    const Entry& e = entry_of(number);
    ASSERT_EQ(e.number, number) << name;
    EXPECT_EQ(e.name, name);
    EXPECT_NE(e.kind, Class::kUnknown) << name;
  }
}

// Newer than the headers of the oldest system that Buoy is built on.
TEST(Table, KnowsNewerCalls) {
  const std::pair<long, const char*> newer[] = {
      {335, "uretprobe"},
      {336, "uprobe"},
      {449, "futex_waitv"},
      {451, "cachestat"},
      {452, "fchmodat2"},
      {453, "map_shadow_stack"},
      {454, "futex_wake"},
      {455, "futex_wait"},
      {456, "futex_requeue"},
      {457, "statmount"},
      {458, "listmount"},
      {459, "lsm_get_self_attr"},
      {462, "mseal"},
      {460, "lsm_set_self_attr"},
      {461, "lsm_list_modules"},
      {463, "setxattrat"},
      {464, "getxattrat"},
      {465, "listxattrat"},
      {466, "removexattrat"},
      {467, "open_tree_attr"},
      {468, "file_getattr"},
      {469, "file_setattr"},
  };
  for (const auto& [number, name] : newer) EXPECT_STREQ(entry_of(number).name, name);
  EXPECT_EQ(table_end(), 470);
}

TEST(Table, UnknownNumbersAreUnknown) {
  for (const long number : {-1L, -470L, 337L, 400L, 423L, 470L, 512L, 0x40000000L, 1L << 40}) {
    EXPECT_EQ(entry_of(number).kind, Class::kUnknown) << number;
    EXPECT_EQ(entry_of(number).count, 0) << number;
  }
}

template <typename Visit>
void for_each_entry(Visit visit) {
  for (long n = 0; n < table_end(); ++n)
    if (entry_of(n).number >= 0) visit(entry_of(n));
}

bool has_length(Size size) {
  switch (size) {
    case Size::kCounted:
    case Size::kCountedWord:
    case Size::kBits:
    case Size::kVector:
    case Size::kMessages:
    case Size::kPointers:
    case Size::kMsgbuf:
    case Size::kPages:
    case Size::kIoctl:
      return true;
    default:
      return false;
  }
}

void check_operand(const Entry& e, const Operand& o) {
  EXPECT_LE(o.argument, 5) << e.name;
  EXPECT_LE(o.by, 5) << e.name;
  if (has_length(o.size)) {
    EXPECT_NE(o.argument, o.by) << e.name << " takes a pointer for a length";
  }
  if (o.size == Size::kFixed || o.size == Size::kCounted) {
    EXPECT_GT(o.bytes, 0) << e.name;
  }
  if (o.size == Size::kFixed) {
    EXPECT_EQ(o.by, 0) << e.name;
  }
  if (o.size == Size::kSelfSized) {
    EXPECT_LE(o.by, 1) << e.name;
  }
  if (o.produced == Produced::kResult) {
    EXPECT_NE(o.direction, Direction::kIn) << e.name;
  }
  if (o.size == Size::kString || o.size == Size::kStrings || o.size == Size::kSigsetPair) {
    EXPECT_EQ(o.direction, Direction::kIn) << e.name;
  }
}

// One operand an argument; a second one only for what the first points at.
void check_arguments_differ(const Entry& e) {
  for (unsigned i = 0; i < e.count; ++i)
    for (unsigned k = 0; k < i; ++k) {
      if (e.operands[i].argument != e.operands[k].argument) continue;
      EXPECT_EQ(e.operands[i].size, Size::kByCommand) << e.name;
    }
}

// A size that stands in memory stands in an operand.
void check_words_are_operands(const Entry& e, const Operand& o) {
  if (o.size != Size::kCountedWord) return;
  bool found = false;
  for (unsigned i = 0; i < e.count; ++i) {
    const Operand& w = e.operands[i];
    found |= w.argument == o.by && w.direction == Direction::kInOut && w.bytes == 4;
  }
  EXPECT_TRUE(found) << e.name;
}

TEST(Table, OperandsArePossible) {
  for_each_entry([](const Entry& e) {
    EXPECT_LE(e.count, Entry::kMostOperands) << e.name;
    check_arguments_differ(e);
    for (unsigned i = 0; i < e.count; ++i) {
      check_operand(e, e.operands[i]);
      check_words_are_operands(e, e.operands[i]);
    }
  });
}

TEST(Table, ClassesSuitTheirOperands) {
  for_each_entry([](const Entry& e) {
    bool writes = false;
    for (unsigned i = 0; i < e.count; ++i) writes |= e.operands[i].direction != Direction::kIn;
    EXPECT_NE(e.kind, Class::kUnknown) << e.name;
    EXPECT_EQ(e.kind == Class::kNone, e.count == 0 && e.kind != Class::kSpecial) << e.name;
    if (e.kind == Class::kDescriptor || e.kind == Class::kEffect) {
      EXPECT_TRUE(writes || e.operands[0].size == Size::kMessages) << e.name;
    }
  });
}

// Those that whoever makes calls has to know by name, not by their operands.
TEST(Table, CallsThatChangeTheProcessAreSpecial) {
  for (const char* name : {"mmap",
                           "munmap",
                           "mremap",
                           "mprotect",
                           "pkey_mprotect",
                           "madvise",
                           "mlock",
                           "mlock2",
                           "munlock",
                           "mlockall",
                           "munlockall",
                           "mincore",
                           "msync",
                           "brk",
                           "remap_file_pages",
                           "mseal",
                           "shmat",
                           "shmdt",
                           "close",
                           "dup2",
                           "dup3",
                           "close_range",
                           "execve",
                           "execveat",
                           "fork",
                           "vfork",
                           "clone",
                           "clone3",
                           "exit",
                           "exit_group",
                           "rt_sigaction",
                           "rt_sigprocmask",
                           "rt_sigsuspend",
                           "rt_sigreturn",
                           "sigaltstack",
                           "set_robust_list",
                           "rseq",
                           "set_tid_address",
                           "prctl",
                           "arch_prctl",
                           "ptrace",
                           "process_madvise"}) {
    bool found = false;
    for_each_entry([&](const Entry& e) {
      if (std::string(e.name) != name) return;
      found = true;
      EXPECT_EQ(e.kind, Class::kSpecial) << name;
    });
    EXPECT_TRUE(found) << name;
  }
}

// ---------------------------------------------------------------- sizes

const Operand* operand_of(const char* name, int argument) {
  const Operand* found = nullptr;
  for_each_entry([&](const Entry& e) {
    if (std::string(e.name) != name) return;
    for (unsigned i = 0; i < e.count && found == nullptr; ++i)
      if (e.operands[i].argument == argument) found = &e.operands[i];
  });
  return found;
}

struct Where {
  const char* name;
  int argument;
};

void expect_bytes(std::size_t bytes, std::initializer_list<Where> places) {
  for (const Where& w : places) {
    const Operand* o = operand_of(w.name, w.argument);
    ASSERT_NE(o, nullptr) << w.name;
    EXPECT_EQ(o->bytes, bytes) << w.name << ", argument " << w.argument;
  }
}

TEST(Table, FixedSizesAreThoseOfTheHeaders) {
  expect_bytes(sizeof(struct stat), {{"stat", 1}, {"fstat", 1}, {"lstat", 1}, {"newfstatat", 2}});
  expect_bytes(sizeof(struct statx), {{"statx", 4}});
  expect_bytes(sizeof(struct statfs), {{"statfs", 1}, {"fstatfs", 1}});
  expect_bytes(sizeof(utimbuf), {{"utime", 1}});
  expect_bytes(2 * sizeof(timeval), {{"utimes", 1}, {"futimesat", 2}});
  expect_bytes(2 * sizeof(timespec), {{"utimensat", 2}});
  expect_bytes(sizeof(timeval), {{"select", 4}, {"gettimeofday", 0}, {"settimeofday", 0}});
  expect_bytes(sizeof(struct timezone), {{"gettimeofday", 1}, {"settimeofday", 1}});
  expect_bytes(sizeof(timespec), {{"nanosleep", 0},
                                  {"nanosleep", 1},
                                  {"clock_gettime", 1},
                                  {"clock_settime", 1},
                                  {"clock_getres", 1},
                                  {"clock_nanosleep", 2},
                                  {"clock_nanosleep", 3},
                                  {"ppoll", 2},
                                  {"pselect6", 4},
                                  {"epoll_pwait2", 3},
                                  {"recvmmsg", 4},
                                  {"semtimedop", 3},
                                  {"mq_timedsend", 4},
                                  {"io_getevents", 4},
                                  {"io_pgetevents", 4},
                                  {"mq_timedreceive", 4},
                                  {"futex_waitv", 3},
                                  {"rt_sigtimedwait", 2},
                                  {"sched_rr_get_interval", 1}});
  expect_bytes(sizeof(itimerval), {{"getitimer", 1}, {"setitimer", 1}, {"setitimer", 2}});
  expect_bytes(sizeof(itimerspec), {{"timer_settime", 2},
                                    {"timer_settime", 3},
                                    {"timer_gettime", 1},
                                    {"timerfd_settime", 2},
                                    {"timerfd_settime", 3},
                                    {"timerfd_gettime", 1}});
  expect_bytes(sizeof(timex), {{"adjtimex", 0}, {"clock_adjtime", 1}});
  expect_bytes(sizeof(tms), {{"times", 0}});
  expect_bytes(sizeof(rusage), {{"getrusage", 1}, {"wait4", 3}, {"waitid", 4}});
  expect_bytes(sizeof(rlimit),
               {{"getrlimit", 1}, {"setrlimit", 1}, {"prlimit64", 2}, {"prlimit64", 3}});
  expect_bytes(sizeof(utsname), {{"uname", 0}});
  expect_bytes(sizeof(struct sysinfo), {{"sysinfo", 0}});
  expect_bytes(sizeof(siginfo_t), {{"rt_sigtimedwait", 1},
                                   {"rt_sigqueueinfo", 2},
                                   {"rt_tgsigqueueinfo", 3},
                                   {"pidfd_send_signal", 2}});
  expect_bytes(offsetof(siginfo_t, si_status) + sizeof(int), {{"waitid", 2}});
  expect_bytes(sizeof(sigevent), {{"timer_create", 1}, {"mq_notify", 1}});
  expect_bytes(sizeof(stack_t), {{"sigaltstack", 0}, {"sigaltstack", 1}});
  expect_bytes(sizeof(sched_param),
               {{"sched_setparam", 1}, {"sched_getparam", 1}, {"sched_setscheduler", 2}});
  expect_bytes(sizeof(mq_attr), {{"mq_open", 3}, {"mq_getsetattr", 1}, {"mq_getsetattr", 2}});
  expect_bytes(sizeof(__user_cap_header_struct), {{"capget", 0}, {"capset", 0}});
  expect_bytes(2 * sizeof(__user_cap_data_struct), {{"capget", 1}, {"capset", 1}});
  expect_bytes(sizeof(io_uring_params), {{"io_uring_setup", 1}});
  expect_bytes(sizeof(iocb), {{"io_cancel", 1}});
  expect_bytes(sizeof(int[2]), {{"pipe", 0}, {"pipe2", 0}, {"socketpair", 3}});
  expect_bytes(sizeof(off_t), {{"sendfile", 2},
                               {"splice", 1},
                               {"splice", 3},
                               {"copy_file_range", 1},
                               {"copy_file_range", 3}});
}

TEST(Table, ElementsAreThoseOfTheHeaders) {
  expect_bytes(sizeof(pollfd), {{"poll", 0}, {"ppoll", 0}});
  expect_bytes(sizeof(epoll_event),
               {{"epoll_wait", 1}, {"epoll_pwait", 1}, {"epoll_pwait2", 1}, {"epoll_ctl", 3}});
  expect_bytes(sizeof(io_event), {{"io_getevents", 3}, {"io_pgetevents", 3}, {"io_cancel", 2}});
  expect_bytes(sizeof(sembuf), {{"semop", 1}, {"semtimedop", 1}});
  expect_bytes(sizeof(gid_t), {{"getgroups", 1}, {"setgroups", 1}});
  expect_bytes(sizeof(iovec),
               {{"process_madvise", 1}, {"process_vm_readv", 3}, {"process_vm_writev", 3}});
  expect_bytes(sizeof(std::uint64_t), {{"listmount", 1}});
}

}  // namespace
}  // namespace buoy::gate
