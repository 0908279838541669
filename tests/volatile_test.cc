// Volatile memory on real pages, by the C API, in both fault deliveries.
//
// ctest: timeout=300
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <csetjmp>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "volatile_testing.h"

namespace buoy::testing {
namespace {

class Volatile : public VolatileTest {
 protected:
  static unsigned char residency(const char* page) {
    unsigned char vec = 0xff;
    EXPECT_EQ(buoy_residency(const_cast<char*>(page), kPage, &vec), 0);
    return vec;
  }
};

// Past the C library: sanitizers put a mlock in its place that does nothing.
int lock_in_memory(void* at, std::size_t bytes) {
  return static_cast<int>(syscall(SYS_mlock, at, bytes));
}
int unlock_in_memory(void* at, std::size_t bytes) {
  return static_cast<int>(syscall(SYS_munlock, at, bytes));
}

// ---- What calls return ------------------------------------------------------------------------

TEST_P(Volatile, RefusesBadInput) {
  char* at = map(4 * kPage);
  int purged = 7;
  const auto refused = [](ssize_t result, int code) { return result == -1 && errno == code; };
  EXPECT_TRUE(refused(buoy_mark_volatile(at + 1, kPage, 0), EINVAL));
  EXPECT_TRUE(refused(buoy_mark_volatile(at, 0, 0), EINVAL));
  EXPECT_TRUE(refused(buoy_mark_volatile(at, kPage, -1), EINVAL));
  EXPECT_TRUE(refused(buoy_mark_volatile(at, kPage, 4), EINVAL));
  EXPECT_TRUE(refused(buoy_mark_volatile(at, SIZE_MAX, 0), EINVAL));
  EXPECT_TRUE(refused(buoy_mark_volatile(nullptr, kPage, 0), ENOMEM));
  EXPECT_TRUE(refused(buoy_mark_nonvolatile(at + 1, kPage, &purged), EINVAL));
  EXPECT_TRUE(refused(buoy_mark_nonvolatile(at, 0, &purged), EINVAL));
  alignas(4096) static char foreign[kPage];
  EXPECT_TRUE(refused(buoy_mark_volatile(foreign, kPage, 0), ENOMEM));
  EXPECT_TRUE(refused(buoy_mark_nonvolatile(foreign, kPage, &purged), ENOMEM));
  EXPECT_EQ(purged, 7);
  EXPECT_EQ(stat("volatile_bytes"), 0U);
}

// Each call that must fail changes neither marks, nor contents, nor *purged, nor what was lost.
TEST_P(Volatile, BadInputChangesNothing) {
  char* at = map(8 * kPage);
  std::memset(at, 3, 8 * kPage);
  buoy_mark_volatile(at, 4 * kPage, 2);
  purge_all();
  buoy_mark_volatile(at + 4 * kPage, 2 * kPage, 1);
  unsigned char before[8];
  ASSERT_EQ(buoy_residency(at, 8 * kPage, before), 0);
  const std::uint64_t marks = stat("pgvolatile");
  int purged = 7;
  const auto refused = [](ssize_t result, int code) { return result == -1 && errno == code; };
  // Wrapping, and just not wrapping.
  const std::size_t to_the_end = SIZE_MAX - reinterpret_cast<std::uintptr_t>(at) + 1;
  for (const std::size_t length : {SIZE_MAX, SIZE_MAX - kPage, SIZE_MAX - kPage + 1, to_the_end,
                                   to_the_end + 1, to_the_end + kPage}) {
    EXPECT_TRUE(refused(buoy_mark_volatile(at, length, 0), EINVAL)) << length;
    EXPECT_TRUE(refused(buoy_mark_nonvolatile(at, length, &purged), EINVAL)) << length;
  }
  for (const int priority : {-1, 4, 5, 256, INT_MIN, INT_MAX})
    EXPECT_TRUE(refused(buoy_mark_volatile(at, 8 * kPage, priority), EINVAL)) << priority;
  for (const std::size_t off : {std::size_t{1}, std::size_t{8}, kPage / 2, kPage - 1}) {
    EXPECT_TRUE(refused(buoy_mark_volatile(at + off, kPage, 0), EINVAL)) << off;
    EXPECT_TRUE(refused(buoy_mark_nonvolatile(at + off, kPage, &purged), EINVAL)) << off;
  }
  EXPECT_TRUE(refused(buoy_mark_volatile(at, 0, 0), EINVAL));
  EXPECT_TRUE(refused(buoy_mark_nonvolatile(at, 0, &purged), EINVAL));
  for (void* foreign : {static_cast<void*>(nullptr), reinterpret_cast<void*>(kPage),
                        reinterpret_cast<void*>(~std::uintptr_t{0} << 47 >> 1 & ~(kPage - 1))}) {
    EXPECT_TRUE(refused(buoy_mark_volatile(foreign, kPage, 0), ENOMEM)) << foreign;
    EXPECT_TRUE(refused(buoy_mark_nonvolatile(foreign, kPage, &purged), ENOMEM)) << foreign;
  }
  EXPECT_EQ(purged, 7);
  EXPECT_EQ(stat("pgvolatile"), marks);
  EXPECT_EQ(stat("pgnonvolatile"), 0U);
  EXPECT_EQ(stat("volatile_bytes"), 6 * kPage);
  unsigned char after[8];
  ASSERT_EQ(buoy_residency(at, 8 * kPage, after), 0);
  EXPECT_EQ(std::memcmp(before, after, sizeof before), 0);
  EXPECT_EQ(buoy_mark_nonvolatile(at, 8 * kPage, &purged), static_cast<ssize_t>(8 * kPage));
  EXPECT_EQ(purged, 1);
}

// Where only the head of the range is ours, that is done, and told.
TEST_P(Volatile, ARangeThatLeavesOursIsDoneUpToThere) {
  // Between two pages that are nobody's.
  char* whole = map(6 * kPage);
  ASSERT_EQ(buoy_unmap(whole, kPage), 0);
  ASSERT_EQ(buoy_unmap(whole + 5 * kPage, kPage), 0);
  char* at = whole + kPage;
  std::memset(at, 3, 4 * kPage);
  EXPECT_EQ(buoy_mark_volatile(whole, 5 * kPage, 0), -1);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(stat("volatile_bytes"), 0U);
  errno = 0;
  EXPECT_EQ(buoy_mark_volatile(at, 64 * kPage, 0), static_cast<ssize_t>(4 * kPage));
  EXPECT_EQ(errno, ENOMEM);
  purge_all();
  int purged = 7;
  EXPECT_EQ(buoy_mark_nonvolatile(whole, 5 * kPage, &purged), -1);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(purged, 7);
  errno = 0;
  // A loss in front of the hole is told though the call is short.
  EXPECT_EQ(buoy_mark_nonvolatile(at + kPage, 64 * kPage, &purged),
            static_cast<ssize_t>(3 * kPage));
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(purged, 1);
  // Who does not ask is not told, and need not be: the call is all.
  EXPECT_EQ(buoy_mark_nonvolatile(at, 4 * kPage, nullptr), static_cast<ssize_t>(4 * kPage));
  EXPECT_EQ(buoy_mark_nonvolatile(at, 4 * kPage, &purged), static_cast<ssize_t>(4 * kPage));
  EXPECT_EQ(purged, 0);
}

TEST_P(Volatile, ALengthIsRoundedUpToPages) {
  char* at = map(4 * kPage);
  EXPECT_EQ(buoy_mark_volatile(at, kPage + 1, 0), static_cast<ssize_t>(kPage + 1));
  EXPECT_EQ(stat("volatile_bytes"), 2 * kPage);
  EXPECT_EQ(buoy_mark_nonvolatile(at, 1, nullptr), 1);
  EXPECT_EQ(stat("volatile_bytes"), kPage);
}

TEST_P(Volatile, AHoleEndsTheCall) {
  char* at = map(8 * kPage);
  ASSERT_EQ(buoy_unmap(at + 4 * kPage, kPage), 0);
  errno = 0;
  EXPECT_EQ(buoy_mark_volatile(at, 8 * kPage, 0), static_cast<ssize_t>(4 * kPage));
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(stat("volatile_bytes"), 4 * kPage);
  EXPECT_EQ(buoy_mark_volatile(at + 4 * kPage, kPage, 0), -1);
  EXPECT_EQ(errno, ENOMEM);
  int purged = 7;
  errno = 0;
  EXPECT_EQ(buoy_mark_nonvolatile(at, 8 * kPage, &purged), static_cast<ssize_t>(4 * kPage));
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(purged, 0);
  EXPECT_EQ(stat("volatile_bytes"), 0U);
}

TEST_P(Volatile, RefusesMlockedMemory) {
  char* at = map(4 * kPage);
  std::memset(at, 1, 4 * kPage);
  if (lock_in_memory(at + kPage, kPage) != 0) GTEST_SKIP() << "mlock: " << std::strerror(errno);
  EXPECT_EQ(buoy_mark_volatile(at, 4 * kPage, 0), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(stat("volatile_bytes"), 0U);
  ASSERT_EQ(unlock_in_memory(at + kPage, kPage), 0);
  EXPECT_EQ(buoy_mark_volatile(at, 4 * kPage, 0), static_cast<ssize_t>(4 * kPage));
}

TEST_P(Volatile, WhatIsMlockedBehindOurBackIsNotPurged) {
  char* at = map(4 * kPage);
  std::memset(at, 1, 4 * kPage);
  ASSERT_EQ(buoy_mark_volatile(at, 4 * kPage, 0), static_cast<ssize_t>(4 * kPage));
  if (lock_in_memory(at + 2 * kPage, kPage) != 0) GTEST_SKIP() << "mlock: " << std::strerror(errno);
  purge_all();
  EXPECT_EQ(at[2 * kPage], 1);
  int purged = 0;
  EXPECT_EQ(buoy_mark_nonvolatile(at, 4 * kPage, &purged), static_cast<ssize_t>(4 * kPage));
  EXPECT_EQ(purged, 1);
  EXPECT_EQ(at[0], 0);
  EXPECT_EQ(at[2 * kPage], 1);
  EXPECT_EQ(unlock_in_memory(at + 2 * kPage, kPage), 0);
}

// ---- What purging does ------------------------------------------------------------------------

TEST_P(Volatile, KeepsContentsUntilPurged) {
  char* at = map(64 * kPage);
  std::memset(at, 3, 64 * kPage);
  ASSERT_EQ(buoy_mark_volatile(at, 64 * kPage, 0), static_cast<ssize_t>(64 * kPage));
  at[5] = 4;
  EXPECT_EQ(residency(at), BUOY_PAGE_MAPPED | BUOY_PAGE_VOLATILE);
  int purged = 7;
  ASSERT_EQ(buoy_mark_nonvolatile(at, 64 * kPage, &purged), static_cast<ssize_t>(64 * kPage));
  EXPECT_EQ(purged, 0);
  EXPECT_EQ(at[5], 4);
  EXPECT_EQ(at[63 * kPage], 3);
}

TEST_P(Volatile, PurgedPagesAreReportedOnceAndReadZeros) {
  char* at = map(64 * kPage);
  std::memset(at, 3, 64 * kPage);
  buoy_mark_volatile(at, 64 * kPage, 0);
  purge_all();
  EXPECT_EQ(residency(at), BUOY_PAGE_PURGED | BUOY_PAGE_VOLATILE);
  EXPECT_EQ(stat("pgpurged"), 64U);
  EXPECT_EQ(stat("volatile_bytes"), 64 * kPage);
  int purged = 0;
  // In parts: each part tells of its own pages.
  EXPECT_EQ(buoy_mark_nonvolatile(at + 8 * kPage, 8 * kPage, &purged),
            static_cast<ssize_t>(8 * kPage));
  EXPECT_EQ(purged, 1);
  EXPECT_EQ(buoy_mark_nonvolatile(at + 8 * kPage, 8 * kPage, &purged),
            static_cast<ssize_t>(8 * kPage));
  EXPECT_EQ(purged, 0);
  EXPECT_EQ(buoy_mark_nonvolatile(at, 64 * kPage, &purged), static_cast<ssize_t>(64 * kPage));
  EXPECT_EQ(purged, 1);
  for (std::size_t i = 0; i < 64 * kPage; i += 512) ASSERT_EQ(at[i], 0);
}

TEST_P(Volatile, PriorityThenAgeDecideWhoGoesFirst) {
  constexpr std::size_t kObject = 512 * kPage;
  char* at[4];
  for (char*& object : at) {
    object = map(kObject);
    std::memset(object, 1, kObject);
  }
  buoy_mark_volatile(at[0], kObject, 3);
  buoy_mark_volatile(at[1], kObject, 1);
  buoy_mark_volatile(at[2], kObject, 0);
  buoy_mark_volatile(at[3], kObject, 0);
  const int order[] = {2, 3, 1, 0};
  for (unsigned gone = 1; gone <= 4; ++gone) {
    EXPECT_GT(buoy_pool_reclaim(pool, kPage), 0);
    for (unsigned i = 0; i < 4; ++i)
      EXPECT_EQ((residency(at[order[i]]) & 0xf) == BUOY_PAGE_PURGED, i < gone) << gone << ' ' << i;
  }
}

TEST_P(Volatile, PinnedPagesStay) {
  char* at = map(8 * kPage);
  std::memset(at, 5, 8 * kPage);
  ASSERT_EQ(buoy_pin(at + kPage, kPage, BUOY_WRITE), 0);
  buoy_mark_volatile(at, 8 * kPage, 0);
  purge_all();
  EXPECT_EQ(at[kPage], 5);
  EXPECT_EQ(residency(at + 2 * kPage), BUOY_PAGE_PURGED | BUOY_PAGE_VOLATILE);
  EXPECT_EQ(buoy_pin(at, kPage, 0), -1);
  EXPECT_EQ(errno, EIO);
  EXPECT_EQ(buoy_unpin(at + kPage, kPage, 0), 0);
}

TEST_P(Volatile, ReadsZerosWhereAskedTo) {
  char* at = map(8 * kPage, BUOY_PURGED_READS_ZERO);
  std::memset(at, 5, 8 * kPage);
  buoy_mark_volatile(at, 8 * kPage, 0);
  purge_all();
  EXPECT_EQ(at[3 * kPage], 0);
  at[3 * kPage] = 1;
  int purged = 0;
  EXPECT_EQ(buoy_mark_nonvolatile(at, 8 * kPage, &purged), static_cast<ssize_t>(8 * kPage));
  EXPECT_EQ(purged, 1);
  EXPECT_EQ(at[3 * kPage], 1);
  EXPECT_EQ(at[4 * kPage], 0);
}

TEST_P(Volatile, GoesBeforeOrdinaryMemoryIsSqueezed) {
  char* ordinary = map(8 * kMiB);
  std::memset(ordinary, 1, 8 * kMiB);
  char* at = map(8 * kMiB);
  std::memset(at, 2, 8 * kMiB);
  buoy_mark_volatile(at, 8 * kMiB, 3);
  char* more = map(20 * kMiB);
  std::memset(more, 3, 16 * kMiB);  // as much as the budget has, of which reclaim has its reserve
  EXPECT_GT(stat("pgpurged"), 0U);
  EXPECT_EQ(stat("pswpout"), 0U);
}

TEST_P(Volatile, MayBeCompressedWhereAskedTo) {
  char* at = map(20 * kMiB, BUOY_VOLATILE_MAY_COMPRESS);
  std::memset(at, 2, 20 * kMiB);
  buoy_mark_volatile(at, 20 * kMiB, 0);
  char* more = map(24 * kMiB);
  std::memset(more, 3, 24 * kMiB);
  EXPECT_EQ(stat("pgpurged"), 0U);
  EXPECT_GT(stat("pswpout"), 0U);
  EXPECT_EQ(at[0], 2);
  int purged = 1;
  buoy_mark_nonvolatile(at, 20 * kMiB, &purged);
  EXPECT_EQ(purged, 0);
}

TEST_P(Volatile, UserDiscardsAreNotLosses) {
  char* at = map(8 * kPage);
  std::memset(at, 5, 8 * kPage);
  buoy_mark_volatile(at, 8 * kPage, 0);
  purge_all();
  EXPECT_EQ(buoy_advise(at, 8 * kPage, BUOY_DONTNEED), 0);
  EXPECT_EQ(at[0], 0);
  int purged = 1;
  buoy_mark_nonvolatile(at, 8 * kPage, &purged);
  EXPECT_EQ(purged, 0);
}

TEST_P(Volatile, AFreshMappingIsNotVolatile) {
  char* at = map(64 * kMiB);
  std::memset(at, 5, kMiB);
  buoy_mark_volatile(at, 64 * kMiB, 0);
  purge_all();
  ASSERT_EQ(buoy_unmap(at + kMiB / 2, kMiB), 0);
  EXPECT_EQ(stat("volatile_bytes"), 63 * kMiB);
  char* next = map(kMiB);
  EXPECT_EQ(residency(next), BUOY_PAGE_EMPTY);
  std::memset(next, 1, kMiB);
  purge_all();
  EXPECT_EQ(next[kPage], 1);
}

TEST_P(Volatile, RemapTakesMarksAndLossesAlong) {
  char* at = map(64 * kPage);
  std::memset(at, 5, 64 * kPage);
  buoy_mark_volatile(at, 16 * kPage, 0);
  purge_all();
  buoy_mark_volatile(at + 32 * kPage, 16 * kPage, 0);
  // Neighbours in the way, so that it moves.
  map(kPage);
  auto* moved = static_cast<char*>(buoy_remap(at, 64 * kPage, 256 * kMiB));
  ASSERT_NE(moved, nullptr);
  mapped.emplace_back(moved, 0);
  EXPECT_EQ(stat("volatile_bytes"), 32 * kPage);
  EXPECT_EQ(residency(moved) & 0xf, BUOY_PAGE_PURGED);
  int purged = 0;
  buoy_mark_nonvolatile(moved, 16 * kPage, &purged);
  EXPECT_EQ(purged, 1);
  buoy_mark_nonvolatile(moved + 32 * kPage, 16 * kPage, &purged);
  EXPECT_EQ(purged, 0);
  EXPECT_EQ(moved[20 * kPage], 5);
  EXPECT_EQ(moved[33 * kPage], 5);
  EXPECT_EQ(buoy_unmap(moved, 256 * kMiB), 0);
}

// ---- Touching purged pages --------------------------------------------------------------------

char* refill_at;
std::size_t refill_bytes;
std::atomic<int> handled{0};
std::atomic<void*> fault_address{nullptr};
std::atomic<int> fault_code{0};

void refill(int, siginfo_t* info, void*) {
  ++handled;
  fault_address = info->si_addr;
  fault_code = info->si_code;
  int purged = 0;
  if (buoy_mark_nonvolatile(refill_at, refill_bytes, &purged) !=
          static_cast<ssize_t>(refill_bytes) ||
      purged != 1)
    _exit(99);
  std::memset(refill_at, 7, refill_bytes);
}

TEST_P(Volatile, ATouchRaisesSigbusWhoseHandlerMayRefill) {
  install(&refill);
  refill_bytes = 32 * kPage;
  refill_at = map(refill_bytes);
  handled = 0;
  for (int round = 1; round <= 3; ++round) {
    std::memset(refill_at, 1, refill_bytes);
    buoy_mark_volatile(refill_at, refill_bytes, 0);
    purge_all();
    auto* volatile touched = refill_at + 9 * kPage + 123;
    if (round == 2)
      *touched = 8;
    else
      EXPECT_EQ(*touched, 7);
    EXPECT_EQ(handled, round);
    EXPECT_EQ(fault_address, touched);
    EXPECT_EQ(fault_code, BUS_ADRERR);
    EXPECT_EQ(*touched, round == 2 ? 8 : 7);
    EXPECT_EQ(refill_at[31 * kPage], 7);
  }
}

TEST_P(Volatile, SystemCallsFailWithEfault) {
  char* at = map(4 * kPage);
  std::memset(at, 1, 4 * kPage);
  buoy_mark_volatile(at, 4 * kPage, 0);
  purge_all();
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  EXPECT_EQ(write(fds[1], at, 10), -1);
  EXPECT_EQ(errno, EFAULT);
  close(fds[0]);
  close(fds[1]);
  // And afterwards it is ordinary memory.
  int purged = 0;
  buoy_mark_nonvolatile(at, 4 * kPage, &purged);
  EXPECT_EQ(purged, 1);
  EXPECT_EQ(at[0], 0);
  at[0] = 1;
  EXPECT_EQ(at[0], 1);
}

TEST_P(Volatile, WithoutAHandlerTheProgramEnds) {
  char* at = map(4 * kPage);
  std::memset(at, 1, 4 * kPage);
  buoy_mark_volatile(at, 4 * kPage, 0);
  const Ended ended = run_in_child([&] {
    purge_all();
    *const_cast<volatile char*>(at) = 1;
  });
  EXPECT_TRUE(WIFSIGNALED(ended.status));
  EXPECT_EQ(WTERMSIG(ended.status), SIGBUS);
}

TEST_P(Volatile, AHandlerThatTouchesPurgedMemoryEndsTheProgram) {
  refill_at = map(4 * kPage);
  std::memset(refill_at, 1, 4 * kPage);
  buoy_mark_volatile(refill_at, 4 * kPage, 0);
  const Ended ended = run_in_child([&] {
    install([](int, siginfo_t*, void*) {
      *const_cast<volatile char*>(refill_at + kPage) = 1;
      _exit(1);
    });
    purge_all();
    *const_cast<volatile char*>(refill_at) = 1;
    _exit(2);
  });
  ASSERT_TRUE(WIFSIGNALED(ended.status)) << ended.status << ended.said;
  EXPECT_EQ(WTERMSIG(ended.status), SIGBUS);
  EXPECT_NE(ended.said.find("buoy: the program's SIGBUS handler itself raised SIGBUS"),
            std::string::npos)
      << ended.said;
}

sigjmp_buf escape;

TEST_P(Volatile, AHandlerMayLeaveByLongjmpAgainAndAgain) {
  char* at = map(4 * kPage);
  std::memset(at, 1, 4 * kPage);
  buoy_mark_volatile(at, 4 * kPage, 0);
  purge_all();
  install([](int, siginfo_t*, void*) { siglongjmp(escape, 1); });
  volatile int caught = 0;
  for (int i = 0; i < 100; ++i) {
    if (sigsetjmp(escape, 1) == 0)
      *const_cast<volatile char*>(at + (i % 4) * kPage) = 1;
    else
      caught = caught + 1;
  }
  EXPECT_EQ(caught, 100);
}

// ---- No system call ---------------------------------------------------------------------------

// From here on any system call of this thread but exit ends the process.
void allow_no_system_call() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
  };
  const sock_fprog filter{4, program};
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
    _exit(77);
}
// Not _exit, before which AddressSanitizer makes system calls of its own.
void exit_by_one_system_call(int status) { syscall(SYS_exit_group, status); }

TEST_P(Volatile, MarkingMakesNoSystemCall) {
  constexpr std::size_t kBytes = 1024 * kMiB;
  char* at = map(kBytes);
  std::memset(at, 1, 4 * kMiB);
  const Ended ended = run_in_child([&] {
    buoy_mark_volatile(at, kBytes, 0);
    allow_no_system_call();
    int purged = 0;
    const auto must = [](bool good) {
      if (!good) exit_by_one_system_call(3);
    };
    for (int i = 0; i < 1000; ++i) {
      must(buoy_mark_volatile(at, kBytes, i % 4) == static_cast<ssize_t>(kBytes));
      must(buoy_mark_nonvolatile(at, kBytes, &purged) == static_cast<ssize_t>(kBytes));
      must(purged == 0);
    }
    // Parts of it, cut anew each time.
    for (std::size_t i = 0; i < 1000; ++i) {
      must(buoy_mark_volatile(at, kBytes, 0) == static_cast<ssize_t>(kBytes));
      char* part = at + i * 3 * kPage;
      must(buoy_mark_nonvolatile(part, 5 * kPage, &purged) == static_cast<ssize_t>(5 * kPage));
      must(buoy_mark_volatile(part + kPage, 2 * kPage, 1) == static_cast<ssize_t>(2 * kPage));
    }
    exit_by_one_system_call(0);
  });
  if (WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 77) GTEST_SKIP() << "no seccomp";
  EXPECT_TRUE(WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 0) << ended.status;
}

// ---- Fork -------------------------------------------------------------------------------------

TEST_P(Volatile, AChildInheritsTheMarksAsItsOwn) {
  char* at = map(64 * kPage);
  std::memset(at, 5, 64 * kPage);
  buoy_mark_volatile(at, 32 * kPage, 0);
  const Ended ended = run_in_child([&] {
    if (stat("volatile_bytes") != 32 * kPage) _exit(1);
    purge_all();
    if (stat("pgpurged") != 32) _exit(2);
    int purged = 0;
    buoy_mark_nonvolatile(at, 64 * kPage, &purged);
    if (purged != 1 || at[0] != 0 || at[40 * kPage] != 5) _exit(3);
  });
  EXPECT_TRUE(WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 0) << ended.status;
  // What the child's purge took was the child's.
  int purged = 1;
  EXPECT_EQ(buoy_mark_nonvolatile(at, 64 * kPage, &purged), static_cast<ssize_t>(64 * kPage));
  EXPECT_EQ(purged, 0);
  for (std::size_t i = 0; i < 64 * kPage; i += kPage) ASSERT_EQ(at[i], 5);
}

TEST_P(Volatile, AParentsPurgeIsNotSeenByTheChild) {
  char* at = map(64 * kPage);
  std::memset(at, 5, 64 * kPage);
  buoy_mark_volatile(at, 64 * kPage, 0);
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  std::thread parent = started_thread([&] {
    char byte = 0;
    EXPECT_EQ(read(ready[0], &byte, 1), 1);
    purge_all();
    int purged = 0;
    buoy_mark_nonvolatile(at, 64 * kPage, &purged);
    EXPECT_EQ(purged, 1);
  });
  const Ended ended = run_in_child([&] {
    if (write(ready[1], "x", 1) != 1) _exit(1);
    usleep(50'000);
    int purged = 1;
    buoy_mark_nonvolatile(at, 64 * kPage, &purged);
    if (purged != 0 || at[63 * kPage] != 5) _exit(2);
  });
  EXPECT_TRUE(WIFEXITED(ended.status) && WEXITSTATUS(ended.status) == 0) << ended.status;
  close(ready[1]);  // a child that came to nothing leaves nobody waiting
  parent.join();
  close(ready[0]);
}

// ---- Stress: stamps tell every loss -----------------------------------------------------------

struct Stamp {
  std::uint64_t page;
  std::uint64_t version;
};

class Objects {
 public:
  static constexpr std::size_t kCount = 512;
  static constexpr std::size_t kObjectPages = 12;
  static constexpr std::size_t kObject = kObjectPages * kPage;

  explicit Objects(char* at) : at_(at), versions_(kCount) {
    for (std::size_t i = 0; i < kCount; ++i) fill(i);
  }
  char* object(std::size_t i) { return at_ + i * kObject; }
  void fill(std::size_t i) {
    ++versions_[i];
    for (std::size_t p = 0; p < kObjectPages; ++p) *stamp(i, p) = {name(i, p), versions_[i]};
  }
  bool is_intact(std::size_t i) {
    for (std::size_t p = 0; p < kObjectPages; ++p)
      if (stamp(i, p)->page != name(i, p) || stamp(i, p)->version != versions_[i]) return false;
    return true;
  }
  Stamp* stamp(std::size_t i, std::size_t p) {
    // At the end of the page, so that a half-filled page shows.
    return reinterpret_cast<Stamp*>(object(i) + (p + 1) * kPage - sizeof(Stamp));
  }
  static std::uint64_t name(std::size_t i, std::size_t p) { return 1 + i * kObjectPages + p; }

 private:
  char* at_;
  std::vector<std::uint64_t> versions_;
};

thread_local sigjmp_buf reader_escape;
thread_local volatile bool reader_may_escape = false;

// False: it raised SIGBUS.
bool try_read(const std::uint64_t* from, std::uint64_t* value) {
  if (sigsetjmp(reader_escape, 1) != 0) {
    reader_may_escape = false;
    return false;
  }
  reader_may_escape = true;
  *value = __atomic_load_n(from, __ATOMIC_RELAXED);
  reader_may_escape = false;
  return true;
}

TEST_P(Volatile, EveryPurgeIsReported) {
  Objects objects(map(Objects::kCount * Objects::kObject));
  install([](int, siginfo_t*, void*) {
    if (!reader_may_escape) _exit(98);
    siglongjmp(reader_escape, 1);
  });
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> unreported{0};
  std::atomic<std::uint64_t> wrong_reads{0};
  std::atomic<std::uint64_t> losses{0};
  std::atomic<std::uint64_t> kept{0};
  std::atomic<std::uint64_t> bus_errors{0};

  const auto marker = [&](unsigned self) {
    std::mt19937_64 random(self);
    std::vector<bool> is_marked(Objects::kCount);
    for (int n = 0; n < 40'000; ++n) {
      const std::size_t i = random() % (Objects::kCount / 2) * 2 + self;
      char* at = objects.object(i);
      if (is_marked[i]) {
        int purged = 0;
        int more = 0;
        if (random() % 4 == 0) {
          const std::size_t cut = 1 + random() % (Objects::kObjectPages - 1);
          buoy_mark_nonvolatile(at, cut * kPage, &purged);
          buoy_mark_nonvolatile(at + cut * kPage, Objects::kObject - cut * kPage, &more);
        } else {
          buoy_mark_nonvolatile(at, Objects::kObject, &purged);
        }
        if (purged == 0 && more == 0) {
          if (!objects.is_intact(i)) ++unreported;
          ++kept;
        } else {
          if (objects.is_intact(i)) ++wrong_reads;
          ++losses;
          objects.fill(i);
        }
        is_marked[i] = false;
        if (random() % 2 == 0) continue;
      }
      if (random() % 8 == 0) objects.fill(i);
      buoy_mark_volatile(at, Objects::kObject, static_cast<int>(random() % 4));
      is_marked[i] = true;
    }
  };
  const auto reader = [&] {
    std::mt19937_64 random(99);
    while (!stop) {
      const std::size_t i = random() % Objects::kCount;
      const std::size_t p = random() % Objects::kObjectPages;
      std::uint64_t seen = 0;
      if (!try_read(&objects.stamp(i, p)->page, &seen))
        ++bus_errors;
      else if (seen != 0 && seen != Objects::name(i, p))  // zero: lost, and to be filled again
        ++wrong_reads;
    }
  };
  std::thread reading(reader);
  std::thread reclaiming([&] {
    std::mt19937_64 random(7);
    while (!stop) {
      buoy_pool_reclaim(pool, (1 + random() % 64) * kPage);
      usleep(static_cast<useconds_t>(random() % 200));
    }
  });
  std::thread first(marker, 0);
  std::thread second(marker, 1);
  first.join();
  second.join();
  stop = true;
  reading.join();
  reclaiming.join();
  std::cout << "kept " << kept << ", lost " << losses << ", bus errors " << bus_errors
            << ", pages purged " << stat("pgpurged") << '\n';
  EXPECT_EQ(unreported, 0U);
  EXPECT_EQ(wrong_reads, 0U);
  EXPECT_GT(losses, 0U);
  EXPECT_GT(kept, 0U);
}

INSTANTIATE_TEST_SUITE_P(Deliveries, Volatile,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& way) { return name_of(way.param); });

}  // namespace
}  // namespace buoy::testing
