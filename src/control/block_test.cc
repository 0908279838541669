#include "control/block.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>
#include <thread>
#include <vector>

#include "base/descriptors.h"

namespace buoy::control {
namespace {

constexpr std::uint64_t kLayout = 42;

class BlockTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto made = Block::create(kLayout, text_, &fd_);
    ASSERT_TRUE(made.ok());
    block_ = *made;
  }
  void TearDown() override {
    Block::unmap(block_);
    if (fd_ >= 0) descriptors::release(fd_);
  }
  // Runs `body` in a child; its exit status.
  template <typename Body>
  static int in_child(Body body) {
    const pid_t child = fork();
    if (child == 0) _exit(body());
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  char text_[Block::kTextBytes] = {};
  int fd_ = -1;
  Block* block_ = nullptr;
};

TEST_F(BlockTest, TheTextLeadsToTheSameMemory) {
  Block* const other = Block::accept(text_, kLayout);
  ASSERT_NE(other, nullptr);
  ASSERT_NE(other, block_);
  block_->budget_of_run.store(7);
  EXPECT_EQ(other->budget_of_run.load(), 7U);
  Block::unmap(other);
}

TEST_F(BlockTest, IsInheritedThroughExec) { EXPECT_EQ(fcntl(fd_, F_GETFD) & FD_CLOEXEC, 0); }

TEST_F(BlockTest, NobodyCanMakeItSmaller) { EXPECT_EQ(ftruncate(fd_, 4096), -1); }

TEST_F(BlockTest, ForeignTextsAndFilesAreNotAccepted) {
  const std::string good = text_;
  for (const std::string& bad :
       {std::string(), std::string(":"), std::string("x"), good + "0", good + " ",
        good.substr(0, good.find(':')), std::string("99999:1"), std::string("-1:1"),
        std::string("99999999999999999999:1"), good.substr(0, good.find(':') + 1)})
    EXPECT_EQ(Block::accept(bad.c_str(), kLayout), nullptr) << bad;
  EXPECT_EQ(Block::accept(text_, kLayout + 1), nullptr);
  // Somebody has put another file under the number.
  const int null = open("/dev/null", O_RDWR);
  ASSERT_EQ(dup2(null, fd_), fd_);
  close(null);
  EXPECT_EQ(Block::accept(text_, kLayout), nullptr);
}

TEST_F(BlockTest, AProcessKeepsItsPlaceThroughExec) {
  const unsigned first = block_->take_place(getpid());
  const std::uint64_t word = block_->owner(first);
  EXPECT_EQ(Block::pid_of(word), getpid());
  EXPECT_EQ(block_->take_place(getpid()), first);
  EXPECT_FALSE(block_->is_owner(first, word)) << "the program before the exec is no more";
  EXPECT_EQ(Block::pid_of(block_->owner(first)), getpid());
}

TEST_F(BlockTest, WhatWasAskedBeforeExecIsNotAskedAfterIt) {
  const unsigned place = block_->take_place(getpid());
  (void)post(block_->place(place), Op::kReclaim, 1);
  ASSERT_EQ(block_->take_place(getpid()), place);
  EXPECT_EQ(block_->place(place).request.load(), block_->place(place).answered.load());
}

TEST_F(BlockTest, EachProcessHasAPlaceOfItsOwn) {
  const unsigned mine = block_->take_place(getpid());
  const int other = in_child([&] { return static_cast<int>(block_->take_place(getpid())); });
  EXPECT_NE(static_cast<unsigned>(other), mine);
  EXPECT_LT(static_cast<unsigned>(other), kPlaces);
}

TEST_F(BlockTest, AFreedPlaceIsNotFreedTwice) {
  const unsigned place = block_->take_place(getpid());
  const std::uint64_t word = block_->owner(place);
  block_->free_place(place, word);
  EXPECT_EQ(block_->owner(place), 0U);
  ASSERT_EQ(block_->take_place(getpid()), place);
  block_->free_place(place, word);
  EXPECT_EQ(Block::pid_of(block_->owner(place)), getpid());
}

TEST_F(BlockTest, PlacesOfTheDeadAreTakenOnlyWhenThereAreNoOthers) {
  for (unsigned i = 0; i < kPlaces; ++i)
    ASSERT_EQ(in_child([&] { return block_->take_place(getpid()) == i ? 0 : 1; }), 0) << i;
  EXPECT_LT(block_->take_place(getpid()), kPlaces);
  EXPECT_EQ(block_->turned_away.load(), 0U);
}

TEST_F(BlockTest, WhoFindsNoPlaceIsCounted) {
  std::vector<pid_t> children;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  for (unsigned i = 0; i < kPlaces; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      const char taken = block_->take_place(getpid()) < kPlaces ? 'y' : 'n';
      (void)!write(ready[1], &taken, 1);
      for (;;) pause();
    }
    children.push_back(child);
    char taken = 0;
    ASSERT_EQ(read(ready[0], &taken, 1), 1);
    ASSERT_EQ(taken, 'y');
  }
  EXPECT_EQ(block_->take_place(getpid()), kPlaces);
  EXPECT_EQ(block_->turned_away.load(), 1U);
  for (const pid_t child : children) {
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
}

TEST_F(BlockTest, RequestsAreAnsweredByAnotherProcess) {
  constexpr std::uint64_t kRequests = 300;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const unsigned i = block_->take_place(getpid());
    (void)!write(ready[1], &i, sizeof i);
    Place& place = block_->place(i);
    for (std::uint64_t n = 0; n < kRequests; ++n) {
      wait_for_work(place);
      std::uint32_t request = 0;
      (void)has_request(place, &request);
      place.words[0].store(n, std::memory_order_relaxed);
      answer(place, request, static_cast<int>(place.op.load()), place.argument.load() * 2);
    }
    _exit(0);
  }
  unsigned i = 0;
  ASSERT_EQ(read(ready[0], &i, sizeof i), static_cast<ssize_t>(sizeof i));
  Place& place = block_->place(i);
  for (std::uint64_t n = 0; n < kRequests; ++n) {
    const std::uint32_t request = post(place, Op::kReclaim, n);
    while (!wait_for_answer(place, request, 1'000'000'000)) {
    }
    EXPECT_EQ(place.words[0].load(), n);
    EXPECT_EQ(place.result.load(), 2 * n);
    EXPECT_EQ(place.error.load(), static_cast<int>(Op::kReclaim));
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(BlockTest, NoAnswerComesToAnEnd) {
  Place& place = block_->place(block_->take_place(getpid()));
  const std::uint32_t request = post(place, Op::kStats, 0);
  EXPECT_FALSE(wait_for_answer(place, request, 1'000'000));
}

TEST(BlockLayout, NamesAndTheirOrderCount) {
  const auto of = [](const std::vector<std::string>& names) {
    LayoutOf layout;
    for (const std::string& name : names) layout.add(name);
    return layout.word();
  };
  EXPECT_EQ(of({"a", "b"}), of({"a", "b"}));
  EXPECT_NE(of({"a", "b"}), of({"b", "a"}));
  EXPECT_NE(of({"ab"}), of({"a", "b"}));
  EXPECT_NE(of({"ab", "c"}), of({"a", "bc"}));
}

}  // namespace
}  // namespace buoy::control
