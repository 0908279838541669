#include "base/thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <csignal>

#include "base/lock.h"
#include "base/sys.h"

namespace buoy {
namespace {

thread_local std::uint64_t of_this_thread = 0;

struct Report {
  std::atomic<int> tid{0};
  std::uint64_t local_at_start = 1;
  std::uint64_t local_at_end = 0;
  std::uint64_t blocked = 0;
  std::uint64_t sum = 0;
};

// Keeps an array on the stack, so that a compiler with a stack protector puts a canary there.
__attribute__((noinline)) std::uint64_t use_the_stack(std::uint64_t n) {
  volatile char room[512] = {};
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < sizeof room; ++i) {
    room[i] = static_cast<char>(i + n);
    sum += static_cast<unsigned char>(room[i]);
  }
  return n == 0 ? sum : sum + use_the_stack(n - 1);
}

void report(void* argument) {
  auto* r = static_cast<Report*>(argument);
  r->tid.store(sys::gettid());
  r->local_at_start = of_this_thread;
  of_this_thread = 42;
  sys::call(SYS_rt_sigprocmask, SIG_BLOCK, 0, sys::ptr(&r->blocked), sizeof r->blocked);
  Mutex<LockRank::kLru> lock;  // the order of locks is kept in thread-local memory
  {
    const Guard guard(lock);
    r->sum = use_the_stack(100);
  }
  r->local_at_end = of_this_thread;
}

TEST(BareThread, RunsWithItsOwnStackAndThreadLocals) {
  of_this_thread = 7;
  BareThread thread;
  Report r;
  ASSERT_TRUE(thread.start("bare", &report, &r).ok());
  EXPECT_TRUE(thread.is_started());
  thread.join();
  EXPECT_FALSE(thread.is_started());
  EXPECT_NE(r.tid.load(), sys::gettid());
  EXPECT_EQ(r.local_at_start, 0U);
  EXPECT_EQ(r.local_at_end, 42U);
  EXPECT_EQ(of_this_thread, 7U);
  EXPECT_EQ(r.sum, use_the_stack(100));
}

TEST(BareThread, HasEverySignalBlocked) {
  BareThread thread;
  Report r;
  ASSERT_TRUE(thread.start("bare", &report, &r).ok());
  thread.join();
  for (const int signal : {SIGTERM, SIGUSR1, SIGALRM, SIGINT, SIGPROF})
    EXPECT_NE(r.blocked >> (signal - 1) & 1U, 0U) << signal;
  std::uint64_t mine = ~std::uint64_t{0};
  sys::call(SYS_rt_sigprocmask, SIG_BLOCK, 0, sys::ptr(&mine), sizeof mine);
  EXPECT_EQ(mine >> (SIGTERM - 1) & 1U, 0U);  // ours are as they were
}

TEST(BareThread, CanBeStartedAgain) {
  BareThread thread;
  for (int i = 0; i < 100; ++i) {
    Report r;
    ASSERT_TRUE(thread.start("bare", &report, &r).ok());
    thread.join();
    ASSERT_NE(r.tid.load(), 0);
  }
}

void wait_for_word(void* argument) {
  auto* word = static_cast<std::atomic<std::uint32_t>*>(argument);
  while (word->load() == 0) sys::futex_wait(word, 0);
}

TEST(BareThread, JoinWaits) {
  std::atomic<std::uint32_t> word{0};
  BareThread thread;
  ASSERT_TRUE(thread.start("waits", &wait_for_word, &word).ok());
  EXPECT_TRUE(thread.is_started());
  word.store(1);
  sys::futex_wake(&word, 1);
  thread.join();
}

}  // namespace
}  // namespace buoy
