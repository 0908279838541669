#include "swap/disk_ledger.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <vector>

namespace buoy::swap {
namespace {

class DiskLedgerTest : public testing::Test {
 protected:
  static constexpr ByteSize kBound = 100;

  void SetUp() override {
    auto made = DiskLedger::create(kBound, text_);
    ASSERT_TRUE(made.ok());
    ledger_ = *made;
  }
  void TearDown() override { ledger_.close(); }
  // A child that has done `body` and lives on; killed and waited for by end().
  template <typename Body>
  static pid_t start(Body body) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
      const bool done = body();
      (void)!write(ready[1], done ? "y" : "n", 1);
      for (;;) pause();
    }
    char answer = 0;
    EXPECT_EQ(read(ready[0], &answer, 1), 1);
    EXPECT_EQ(answer, 'y');
    close(ready[0]);
    close(ready[1]);
    return child;
  }
  static void end(pid_t child) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }

  char text_[DiskLedger::kTextBytes] = {};
  DiskLedger ledger_;
};

TEST_F(DiskLedgerTest, TheTextLeadsToTheSameLedger) {
  auto other = DiskLedger::accept(text_);
  ASSERT_TRUE(other.ok());
  auto share = other->claim();
  ASSERT_TRUE(share.ok());
  EXPECT_TRUE(share->book(30));
  EXPECT_EQ(ledger_.booked(), 30U);
  EXPECT_EQ(ledger_.left(), kBound - 30);
  EXPECT_EQ(ledger_.bound(), kBound);
  share->close();
}

TEST_F(DiskLedgerTest, WhatIsNotThereIsNotAccepted) {
  EXPECT_EQ(DiskLedger::accept("").code(), ENOENT);
  EXPECT_EQ(DiskLedger::accept("0:1").code(), ENOENT);
}

TEST_F(DiskLedgerTest, NoMoreIsBookedThanTheBound) {
  auto a = ledger_.claim();
  auto b = ledger_.claim();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_TRUE(a->book(60));
  EXPECT_FALSE(b->book(41));
  EXPECT_TRUE(b->book(40));
  EXPECT_FALSE(a->book(1));
  EXPECT_FALSE(a->book(UINT64_MAX));
  a->unbook(10);
  EXPECT_TRUE(b->book(10));
  EXPECT_EQ(ledger_.left(), 0U);
  a->close();
  b->close();
}

TEST_F(DiskLedgerTest, WhatAKilledProcessHadComesBack) {
  auto mine = ledger_.claim();
  ASSERT_TRUE(mine.ok());
  const pid_t child = start([&] {
    auto theirs = ledger_.claim();
    return theirs.ok() && theirs->book(80);
  });
  EXPECT_FALSE(mine->book(50));
  end(child);
  EXPECT_TRUE(mine->book(50));
  EXPECT_EQ(ledger_.booked(), 50U);
  mine->close();
}

TEST_F(DiskLedgerTest, AShareLivesAsLongAsAnybodyHasItOpen) {
  auto share = ledger_.claim();
  auto other = ledger_.claim();
  ASSERT_TRUE(share.ok() && other.ok());
  ASSERT_TRUE(share->book(80));
  const pid_t child = start([] { return true; });
  share->close();
  EXPECT_FALSE(other->book(50)) << "the child has the file, and its share, from us";
  end(child);
  EXPECT_TRUE(other->book(50));
  other->close();
}

TEST_F(DiskLedgerTest, EntriesOfTheDeadAreUsedAnew) {
  const pid_t child = start([&] {
    for (unsigned i = 0; i < 200; ++i)
      if (!ledger_.claim().ok()) return false;
    return true;
  });
  end(child);
  auto share = ledger_.claim();
  ASSERT_TRUE(share.ok());
  // Books what is left, and finds the 200 while it does.
  EXPECT_TRUE(share->book(kBound));
  EXPECT_FALSE(share->book(1));
  share->close();
}

TEST_F(DiskLedgerTest, AForeignFileUnderOurNumberIsNotLocked) {
  auto share = ledger_.claim();
  ASSERT_TRUE(share.ok());
  const int theirs = open("/dev/null", O_RDWR);
  ASSERT_EQ(dup2(theirs, ledger_.fd()), ledger_.fd());
  EXPECT_EQ(ledger_.claim().code(), EBADF);
  close(theirs);
  share->close();
}

TEST_F(DiskLedgerTest, ManyAtOnceNeverPassTheBound) {
  constexpr unsigned kThreads = 4;
  std::vector<std::thread> threads;
  std::atomic<ByteSize> held{0};
  std::atomic<ByteSize> most{0};
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&] {
      auto share = ledger_.claim();
      ASSERT_TRUE(share.ok());
      for (unsigned i = 0; i < 3000; ++i) {
        if (!share->book(30)) continue;
        const ByteSize now = held.fetch_add(30) + 30;
        for (ByteSize seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
        }
        held.fetch_sub(30);
        share->unbook(30);
      }
      share->close();
    });
  for (std::thread& t : threads) t.join();
  EXPECT_LE(most.load(), kBound);
  EXPECT_EQ(ledger_.booked(), 0U);
}

}  // namespace
}  // namespace buoy::swap
