// Volatile memory and fork: a child has the marks, and what was purged, as its own; what either
// does with them the other does not see, though the kernel shares their pages.
//
// ctest: timeout=300
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <random>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "volatile_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBytes = 64 * kPage;

// Two processes take turns.
class Turns {
 public:
  Turns() {
    if (pipe(to_child_) != 0 || pipe(to_parent_) != 0) std::abort();
  }
  ~Turns() {
    for (const int fd : {to_child_[0], to_child_[1], to_parent_[0], to_parent_[1]}) close(fd);
  }
  Turns(const Turns&) = delete;
  Turns& operator=(const Turns&) = delete;

  void give_to_child() const { give(to_child_[1]); }
  void give_to_parent() const { give(to_parent_[1]); }
  void await_child() const { await(to_parent_[0]); }
  void await_parent() const { await(to_child_[0]); }

 private:
  static void give(int fd) {
    if (write(fd, "x", 1) != 1) std::abort();
  }
  static void await(int fd) {
    char byte = 0;
    if (read(fd, &byte, 1) != 1) std::abort();
  }
  int to_child_[2];
  int to_parent_[2];
};

class VolatileFork : public VolatileTest {
 protected:
  char* map_volatile(char filled_with, unsigned flags = 0) {
    char* at = map(kBytes, flags);
    std::memset(at, filled_with, kBytes);
    EXPECT_EQ(buoy_mark_volatile(at, kBytes, 0), static_cast<ssize_t>(kBytes));
    return at;
  }
  // True: nothing of it can be read without SIGBUS any more.
  [[nodiscard]] bool purge(char* at) const {
    (void)buoy_pool_reclaim(pool, 1024 * kMiB);
    unsigned char vec[kBytes / kPage];
    if (buoy_residency(at, kBytes, vec) != 0) return false;
    for (const unsigned char v : vec)
      if (v != (BUOY_PAGE_PURGED | BUOY_PAGE_VOLATILE)) return false;
    return true;
  }
  static bool is_full_of(const char* at, char byte) {
    for (std::size_t i = 0; i < kBytes; ++i)
      if (at[i] != byte) return false;
    return true;
  }
  // -1: the call failed.
  static int withdraw(char* at) {
    int purged = -1;
    return buoy_mark_nonvolatile(at, kBytes, &purged) == static_cast<ssize_t>(kBytes) ? purged : -1;
  }
};

TEST_P(VolatileFork, TheChildKeepsWhatTheParentPurges) {
  char* at = map_volatile(5);
  const Turns turns;
  Child child([&] {
    turns.give_to_parent();
    turns.await_parent();
    must(is_full_of(at, 5), "the child's pages are there while its mark lasts");
    must(stat("pgpurged") == 0, "the parent's purge is not the child's");
    must(withdraw(at) == 0, "nothing of the child's was lost");
    must(is_full_of(at, 5), "the child's pages are there");
    turns.give_to_parent();
    validate();
  });
  turns.await_child();
  EXPECT_TRUE(purge(at));
  turns.give_to_child();
  turns.await_child();
  EXPECT_EQ(withdraw(at), 1);
  EXPECT_TRUE(is_full_of(at, 0));
  const Ended ended = child.wait();
  EXPECT_TRUE(ended.is_success()) << ended.said;
}

TEST_P(VolatileFork, TheParentKeepsWhatTheChildPurges) {
  char* at = map_volatile(5);
  const Ended ended = run_in_child([&] {
    must(stat("volatile_bytes") == kBytes, "the mark is inherited");
    must(purge(at), "the child may purge pages that are shared");
    must(stat("pgpurged") == kBytes / kPage, "and counts them");
    must(withdraw(at) == 1, "and is told");
    must(is_full_of(at, 0), "and they read zeros");
    std::memset(at, 7, kBytes);
    validate();
  });
  EXPECT_TRUE(ended.is_success()) << ended.said;
  EXPECT_TRUE(is_full_of(at, 5));
  EXPECT_EQ(stat("pgpurged"), 0U);
  EXPECT_EQ(withdraw(at), 0);
  EXPECT_TRUE(is_full_of(at, 5));
}

TEST_P(VolatileFork, WithdrawingInOneLeavesTheOthersMark) {
  char* by_parent = map_volatile(5);
  char* by_child = map_volatile(6);
  const Turns turns;
  Child child([&] {
    must(withdraw(by_child) == 0, "withdrawn in the child");
    std::memset(by_child, 9, kBytes);
    turns.give_to_parent();
    turns.await_parent();
    must(purge(by_parent), "what the parent keeps the child's pool may purge");
    turns.give_to_parent();
    turns.await_parent();
    must(is_full_of(by_child, 9), "what the child keeps is there");
    must(withdraw(by_parent) == 1, "the loss is told");
  });
  turns.await_child();
  EXPECT_EQ(withdraw(by_parent), 0);
  std::memset(by_parent, 8, kBytes);
  turns.give_to_child();
  turns.await_child();
  EXPECT_TRUE(purge(by_child));
  turns.give_to_child();
  const Ended ended = child.wait();
  EXPECT_TRUE(ended.is_success()) << ended.said;
  EXPECT_TRUE(is_full_of(by_parent, 8));
  EXPECT_EQ(withdraw(by_child), 1);
}

sigjmp_buf escape;

bool raises_sigbus(const char* at) {
  if (sigsetjmp(escape, 1) != 0) return true;
  *const_cast<volatile const char*>(at);
  return false;
}

TEST_P(VolatileFork, LossesFromBeforeTheForkAreToldInBoth) {
  char* at = map_volatile(5);
  ASSERT_TRUE(purge(at));
  signal(SIGBUS, [](int) { siglongjmp(escape, 1); });
  // In thread delivery this leaves a poisoned entry, which the child's page table copies.
  ASSERT_TRUE(raises_sigbus(at));
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const auto tell_it_all = [&] {
    must(raises_sigbus(at), "a page that was touched before");
    must(raises_sigbus(at + kPage), "one that was not");
    must(write(fds[1], at + 2 * kPage, 1) == -1 && errno == EFAULT, "a system call");
    must(withdraw(at) == 1, "the loss is told");
    must(is_full_of(at, 0), "zeros afterwards");
    std::memset(at, 7, kBytes);
    must(withdraw(at) == 0 && is_full_of(at, 7), "and ordinary memory");
  };
  const Ended ended = run_in_child([&] {
    tell_it_all();
    validate();
    const Ended grandchild = run_in_child([&] { must(is_full_of(at, 7), "a grandchild's"); });
    must(grandchild.is_success(), grandchild.said.c_str());
  });
  EXPECT_TRUE(ended.is_success()) << ended.said;
  tell_it_all();
  close(fds[0]);
  close(fds[1]);
}

TEST_P(VolatileFork, CompressedPagesAreEachProcesssOwn) {
  char* by_parent = map_volatile(5);
  char* by_child = map_volatile(6);
  for (char* at : {by_parent, by_child}) {
    EXPECT_EQ(buoy_advise(at, kBytes, BUOY_PAGEOUT), 0);
    unsigned char v = 0;
    ASSERT_EQ(buoy_residency(at, kPage, &v), 0);
    ASSERT_EQ(v, BUOY_PAGE_COMPRESSED | BUOY_PAGE_VOLATILE);
  }
  const Turns turns;
  Child child([&] {
    must(withdraw(by_parent) == 0, "withdrawn in the child");
    turns.give_to_parent();
    turns.await_parent();
    must(purge(by_child), "purged in the child");
    must(is_full_of(by_parent, 5), "what the parent purged");
    must(withdraw(by_child) == 1, "told in the child");
    validate();
  });
  turns.await_child();
  EXPECT_EQ(withdraw(by_child), 0);
  EXPECT_TRUE(purge(by_parent));
  turns.give_to_child();
  const Ended ended = child.wait();
  EXPECT_TRUE(ended.is_success()) << ended.said;
  EXPECT_TRUE(is_full_of(by_child, 6));
  EXPECT_EQ(withdraw(by_parent), 1);
}

// Children of a process that marks and purges all the time: each is told exactly of what it lost.
TEST_P(VolatileFork, InTheMidstOfMarksAndPurgesChildrenAreToldExactly) {
  if (kIsSanitized)
    GTEST_SKIP() << "a sanitizer's allocator does not survive a fork beside threads";
  constexpr std::size_t kObjects = 256;
  constexpr std::size_t kObject = 8 * kPage;
  constexpr int kChildren = 20;
  auto* at = static_cast<char*>(buoy_map(pool, 2 * kObjects * kObject, 0));
  ASSERT_NE(at, nullptr);
  std::vector<char> contents(kObjects);  // of each object; the same in every byte
  const auto is_full_of_its = [&](std::size_t i) {
    for (std::size_t b = 0; b < kObject; b += 64)
      if (at[i * kObject + b] != contents[i]) return false;
    return true;
  };
  const auto fill = [&](std::size_t i) {
    contents[i] = static_cast<char>(1 + (contents[i] + 1) % 100);
    std::memset(at + i * kObject, contents[i], kObject);
  };
  for (std::size_t i = 0; i < kObjects; ++i) fill(i);

  std::atomic<bool> stop{false};
  std::shared_mutex stand_still;  // fork does not copy one moment of memory that is stored to
  std::atomic<int> wrong{0};
  std::thread marking = started_thread([&] {
    std::mt19937_64 random(1);
    std::vector<bool> is_marked(kObjects);
    while (!stop) {
      const std::shared_lock lock(stand_still);
      const std::size_t i = random() % kObjects;
      if (is_marked[i]) {
        int purged = 0;
        buoy_mark_nonvolatile(at + i * kObject, kObject, &purged);
        if ((purged == 0) != is_full_of_its(i)) ++wrong;
        fill(i);
      } else {
        buoy_mark_volatile(at + i * kObject, kObject, static_cast<int>(random() % 4));
      }
      is_marked[i] = !is_marked[i];
    }
  });
  // Marks, cuts and withdrawals that do not stand still for anybody.
  std::thread restless = started_thread([&] {
    std::mt19937_64 random(2);
    char* const mine = at + kObjects * kObject;
    while (!stop) {
      char* const from = mine + random() % (kObjects * 8 - 32) * kPage;
      const std::size_t length = (1 + random() % 32) * kPage;
      if (random() % 2 == 0)
        buoy_mark_volatile(from, length, 1);
      else
        buoy_mark_nonvolatile(from, length, nullptr);
    }
  });
  std::thread reclaiming = started_thread([&] {
    while (!stop) buoy_pool_reclaim(pool, 64 * kPage);
  });
  for (int n = 0; n < kChildren; ++n) {
    std::unique_lock lock(stand_still);
    const Ended ended = run_in_child([&] {
      if (n % 2 == 0) (void)buoy_pool_reclaim(pool, 128 * kPage);
      for (std::size_t i = 0; i < kObjects; ++i) {
        int purged = 0;
        buoy_mark_nonvolatile(at + i * kObject, kObject, &purged);
        must((purged == 0) == is_full_of_its(i), "the child is told exactly");
      }
      validate();
    });
    lock.unlock();
    EXPECT_TRUE(ended.is_success()) << ended.said;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  stop = true;
  marking.join();
  restless.join();
  reclaiming.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(stat("pgpurged"), 0U);
  EXPECT_EQ(buoy_unmap(at, 2 * kObjects * kObject), 0);
}

INSTANTIATE_TEST_SUITE_P(Deliveries, VolatileFork,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& way) { return name_of(way.param); });

}  // namespace
}  // namespace buoy::testing
