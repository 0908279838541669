// The ledger: what is leased never passes the limit, whoever asks, dies, forks or executes.
#include "control/ledger.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>
#include <vector>

#include "base/descriptors.h"

namespace buoy::control {
namespace {

constexpr std::uint64_t kMega = std::uint64_t{1} << 20;

class LedgerTest : public testing::Test {
 protected:
  void SetUp() override {
    char text[Block::kTextBytes];
    const auto made = Block::create(1, text, &fd_);
    ASSERT_TRUE(made.ok());
    block_ = *made;
    block_->tree_limit.store(100 * kMega);
  }
  void TearDown() override {
    Block::unmap(block_);
    descriptors::release(fd_);
  }
  [[nodiscard]] std::uint64_t lease(unsigned place, std::uint64_t wanted, std::uint64_t least) {
    return ledger::lease(*block_, place, wanted, least);
  }
  [[nodiscard]] std::uint64_t leased() const { return block_->leased.load(); }

  int fd_ = -1;
  Block* block_ = nullptr;
};

// A process that has ended.
int dead_process() {
  const pid_t pid = fork();
  if (pid == 0) _exit(0);
  waitpid(pid, nullptr, 0);
  return pid;
}

TEST_F(LedgerTest, AsMuchAsThereIs) {
  const unsigned one = block_->take_place(getpid());
  EXPECT_EQ(lease(one, 60 * kMega, 60 * kMega), 60 * kMega);
  EXPECT_EQ(lease(one, 60 * kMega, 60 * kMega), 0U);
  EXPECT_EQ(lease(one, 60 * kMega, 4096), 40 * kMega);
  EXPECT_EQ(lease(one, 4096, 4096), 0U);
  EXPECT_EQ(block_->place(one).lease.load(), 100 * kMega);
  const std::uint32_t before = block_->returns.load();
  ledger::give_back(*block_, one, 10 * kMega);
  EXPECT_NE(block_->returns.load(), before);
  EXPECT_EQ(leased(), 90 * kMega);
  block_->tree_limit.store(50 * kMega);
  EXPECT_EQ(lease(one, kMega, 4096), 0U);
}

TEST_F(LedgerTest, ManyThreadsNeverPassTheLimit) {
  const unsigned place = block_->take_place(getpid());
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 20'000; ++i) {
        const std::uint64_t got = lease(place, ((i * 7 + t) % 60 + 1) * kMega, 4096);
        EXPECT_LE(leased(), 100 * kMega);
        ledger::give_back(*block_, place, got);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(leased(), 0U);
  EXPECT_EQ(block_->place(place).lease.load(), 0U);
}

TEST_F(LedgerTest, OfTheDeadComesBackAndAnExecKeepsTheLeast) {
  const int dead = dead_process();
  const unsigned place = block_->take_place(dead);
  EXPECT_EQ(lease(place, 80 * kMega, kMega), 80 * kMega);
  // The same process, another program.
  ASSERT_EQ(block_->take_place(dead), place);
  EXPECT_EQ(leased(), kFirstLease);
  block_->free_place(place, block_->owner(place) + 1);  // another's
  EXPECT_EQ(leased(), kFirstLease);
  block_->free_place(place, block_->owner(place));
  EXPECT_EQ(leased(), 0U);
  EXPECT_EQ(block_->owner(place), 0U);
}

TEST_F(LedgerTest, AForkHandsOverWhatItReserved) {
  const unsigned parent = block_->take_place(getpid());
  const unsigned place = block_->reserve_place(getpid());
  ASSERT_NE(place, parent);
  const std::uint64_t reserved = block_->owner(place);
  EXPECT_EQ(lease(place, 20 * kMega, kMega), 20 * kMega);
  const int child = dead_process();
  block_->hand_over(place, reserved, child);
  block_->hand_over(place, reserved, child);  // by the child as well
  EXPECT_EQ(Block::pid_of(block_->owner(place)), child);
  block_->settle_in(place);
  EXPECT_EQ(block_->place(place).ready.load(), block_->owner(place));
  EXPECT_EQ(block_->place(place).lease.load(), 20 * kMega);
  // Freed, and taken by another, it is not the child's again.
  block_->free_place(place, block_->owner(place));
  EXPECT_EQ(leased(), 0U);
  block_->hand_over(place, reserved, child);
  EXPECT_EQ(block_->owner(place), 0U);
}

TEST_F(LedgerTest, WhoHasMostToSpareIsAskedOnceAndNeverForTheLeast) {
  const unsigned me = block_->take_place(getpid());
  unsigned others[3];
  for (unsigned& other : others) {
    other = block_->reserve_place(getpid());
    (void)lease(other, 20 * kMega, kMega);
  }
  const auto asked = [&](unsigned i) { return block_->place(others[i]).lease_wanted.exchange(0); };
  block_->place(others[0]).age_ms.store(1000);
  block_->place(others[1]).age_ms.store(5000);
  EXPECT_TRUE(ledger::ask_another(*block_, me, kMega, 500));
  EXPECT_EQ(asked(1), kMega);
  EXPECT_FALSE(ledger::ask_another(*block_, me, kMega, 4500));  // our own are about as old
  block_->place(others[2]).unused.store(3 * kMega);
  EXPECT_TRUE(ledger::ask_another(*block_, me, kMega, 4500));
  EXPECT_EQ(block_->place(others[2]).lease_wanted.load(), kMega);
  EXPECT_TRUE(ledger::ask_another(*block_, me, kMega, 500));  // who is asked is left alone
  EXPECT_EQ(asked(1), kMega);
  (void)asked(2);
  for (const unsigned other : others) ledger::give_back(*block_, other, 4 * kMega);
  EXPECT_FALSE(ledger::ask_another(*block_, me, kMega, 0));  // all have the least
}

}  // namespace
}  // namespace buoy::control
