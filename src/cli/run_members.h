// RunMembers: the supervisor's way to the processes of its run. Each has a place in the block that
// they share (control/block.h); here they are found, asked, and waited for.
//
// Thread-safe: each process is asked one thing at a time. Costs nothing while nobody asks.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <vector>

#include "cli/control_protocol.h"
#include "control/block.h"

namespace buoy::cli {

// What the words of a block mean in this build: see control::Block.
[[nodiscard]] std::uint64_t block_layout();

// `/proc/PID/cmdline` as one line, cut to a sensible length; else the short name; else empty.
[[nodiscard]] std::string command_of(pid_t pid);

class RunMembers {
 public:
  struct Member {
    unsigned place = 0;
    std::uint64_t owner = 0;
    [[nodiscard]] pid_t pid() const { return control::Block::pid_of(owner); }
  };
  struct Question {
    control::Op op = control::Op::kStats;
    std::uint64_t argument = 0;
    std::chrono::milliseconds patience{};
  };

  // `block` outlives this.
  explicit RunMembers(control::Block& block) : block_(block) {}
  RunMembers(const RunMembers&) = delete;
  RunMembers& operator=(const RunMembers&) = delete;

  // The processes that live, by id. Places of those that do not are given back.
  [[nodiscard]] std::vector<Member> present();
  // Asks all of them at once, and waits for each. Those that ended meanwhile are left out.
  [[nodiscard]] std::vector<MemberReply> ask(const std::vector<Member>& members,
                                             const Question& question);
  // One budget for all of them (control/ledger.h)?
  [[nodiscard]] bool are_tree() const { return block_.tree_limit.load() != 0; }
  // Another one: processes give back what is too much, each by its part. Those that had to.
  [[nodiscard]] std::vector<MemberReply> set_tree_budget(ByteSize bytes,
                                                         std::chrono::milliseconds patience);
  // Whoever waits, now or later, gets no answer: the run is over.
  void stop();

  // Somebody has set a budget through the socket: nobody else changes any from now on.
  void note_set_by_hand() { set_by_hand_.store(true); }
  [[nodiscard]] bool is_set_by_hand() const { return set_by_hand_.load(); }

  [[nodiscard]] control::Block& block() { return block_; }

 private:
  using Clock = std::chrono::steady_clock;
  enum class Waited : std::uint8_t { kAnswered, kGone, kTooLong };

  // Until the last request is answered.
  [[nodiscard]] Waited wait(const Member& member, std::uint32_t request,
                            Clock::time_point deadline);
  [[nodiscard]] bool lives(const Member& member);
  [[nodiscard]] MemberReply read(const Member& member);

  control::Block& block_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> set_by_hand_{false};
  std::array<std::timed_mutex, control::kPlaces> busy_;
};

}  // namespace buoy::cli
