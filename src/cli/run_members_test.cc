// RunMembers against real processes, which are told apart, waited for and missed.
#include "cli/run_members.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

#include "api/pool.h"
#include "base/descriptors.h"
#include "cli/last_stats.h"

namespace buoy::cli {
namespace {

using control::Block;
using control::Op;
using control::Place;
using std::chrono::milliseconds;

// A process that answers as a member does, with the words 1, 2, 3, ...
class Answerer {
 public:
  explicit Answerer(Block& block) {
    int ready[2];
    if (pipe(ready) != 0) return;
    pid_ = fork();
    if (pid_ == 0) serve(block, ready[1]);
    char done = 0;
    (void)!read(ready[0], &done, 1);
    close(ready[0]);
    close(ready[1]);
  }
  ~Answerer() { end(); }
  Answerer(const Answerer&) = delete;
  Answerer& operator=(const Answerer&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void end() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  [[noreturn]] static void serve(Block& block, int ready) {
    const unsigned i = block.take_place(getpid());
    Place& place = block.place(i);
    (void)!write(ready, "x", 1);
    for (;;) {
      control::wait_for_work(place);
      std::uint32_t request = 0;
      (void)control::has_request(place, &request);
      for (std::size_t w = 0; w < Pool::stat_count(); ++w) place.words[w].store(w + 1);
      const bool refuses = place.op.load() == static_cast<std::uint32_t>(Op::kCompact);
      control::answer(place, request, refuses ? EAGAIN : 0, place.argument.load());
    }
  }

  pid_t pid_ = 0;
};

class RunMembersTest : public testing::Test {
 protected:
  void SetUp() override {
    char text[Block::kTextBytes];
    const auto made = Block::create(block_layout(), text, &fd_);
    ASSERT_TRUE(made.ok());
    block_ = *made;
    members_ = std::make_unique<RunMembers>(*block_);
  }
  void TearDown() override {
    Block::unmap(block_);
    descriptors::release(fd_);
  }
  std::vector<MemberReply> ask(Op op, std::uint64_t argument, milliseconds patience) {
    return members_->ask(members_->present(), {op, argument, patience});
  }

  int fd_ = -1;
  Block* block_ = nullptr;
  std::unique_ptr<RunMembers> members_;
};

TEST_F(RunMembersTest, EachOneAnswers) {
  EXPECT_TRUE(ask(Op::kStats, 0, milliseconds(100)).empty());
  const Answerer one(*block_);
  const Answerer two(*block_);
  const auto replies = ask(Op::kReclaim, 99, milliseconds(5000));
  ASSERT_EQ(replies.size(), 2U);
  EXPECT_EQ(replies[0].pid, std::min(one.pid(), two.pid()));
  for (const MemberReply& reply : replies) {
    EXPECT_EQ(reply.error, "");
    EXPECT_EQ(reply.result, 99U);
    EXPECT_FALSE(reply.command.empty());
    ASSERT_EQ(reply.words.size(), Pool::stat_count());
    for (std::size_t i = 0; i < reply.words.size(); ++i) EXPECT_EQ(reply.words[i], i + 1);
  }
}

TEST_F(RunMembersTest, WhoRefusesSaysWhy) {
  const Answerer one(*block_);
  const auto replies = ask(Op::kCompact, 0, milliseconds(5000));
  ASSERT_EQ(replies.size(), 1U);
  EXPECT_NE(replies[0].error.find("cannot do with less"), std::string::npos);
}

TEST_F(RunMembersTest, WhoIsStoppedIsNotWaitedForForever) {
  const Answerer one(*block_);
  const Answerer two(*block_);
  kill(one.pid(), SIGSTOP);
  const auto replies = ask(Op::kStats, 0, milliseconds(200));
  ASSERT_EQ(replies.size(), 2U);
  for (const MemberReply& reply : replies)
    EXPECT_EQ(reply.error.find("does not answer") != std::string::npos, reply.pid == one.pid());
  // The next one waits for what was left undone, and then asks.
  kill(one.pid(), SIGCONT);
  for (const MemberReply& reply : ask(Op::kReclaim, 7, milliseconds(5000))) {
    EXPECT_EQ(reply.error, "");
    EXPECT_EQ(reply.result, 7U);
  }
}

TEST_F(RunMembersTest, WhoDiedIsGoneAndItsPlaceIsFree) {
  Answerer one(*block_);
  const auto before = members_->present();
  ASSERT_EQ(before.size(), 1U);
  one.end();
  EXPECT_TRUE(members_->ask(before, {Op::kStats, 0, milliseconds(300)}).empty());
  EXPECT_TRUE(members_->present().empty());
  EXPECT_EQ(block_->owner(before[0].place), 0U);
}

TEST_F(RunMembersTest, AProcessThatStartedLaterIsNotTheOwner) {
  const Answerer one(*block_);
  ASSERT_EQ(members_->present().size(), 1U);
  // As if the place had been taken long before this process began.
  for (unsigned i = 0; i < control::kPlaces; ++i)
    if (block_->owner(i) != 0) block_->place(i).taken_at.store(1);
  EXPECT_TRUE(members_->present().empty());
}

TEST_F(RunMembersTest, AtTheEndNobodyWaits) {
  const Answerer one(*block_);
  kill(one.pid(), SIGSTOP);
  const auto present = members_->present();
  std::thread ending([&] {
    std::this_thread::sleep_for(milliseconds(100));
    members_->stop();
  });
  const auto began = std::chrono::steady_clock::now();
  EXPECT_TRUE(members_->ask(present, {Op::kStats, 0, milliseconds(60'000)}).empty());
  EXPECT_LT(std::chrono::steady_clock::now() - began, milliseconds(30'000));
  ending.join();
}

TEST_F(RunMembersTest, WhatWasPublishedLastOutlivesTheProcess) {
  Answerer one(*block_);
  (void)ask(Op::kStats, 0, milliseconds(5000));
  const pid_t pid = one.pid();
  one.end();
  (void)members_->present();  // which gives the place back
  const std::string line = format_last_stats(block_, {pid, 137, 9});
  EXPECT_EQ(line.rfind("{\"ended_by_signal\":9,\"budget_bytes\":1,\"resident_bytes\":2,", 0), 0U)
      << line;
  EXPECT_EQ(format_last_stats(block_, {pid + 1, 139, 11}), "{\"ended_by_signal\":11}\n");
  EXPECT_EQ(format_last_stats(nullptr, {pid, 139, 11}), "{\"ended_by_signal\":11}\n");
}

TEST(CommandOf, IsOneLine) {
  EXPECT_FALSE(command_of(getpid()).empty());
  EXPECT_EQ(command_of(getpid()).find('\n'), std::string::npos);
  EXPECT_EQ(command_of(0), "");
}

}  // namespace
}  // namespace buoy::cli
