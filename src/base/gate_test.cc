#include "base/gate.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace buoy {
namespace {

using namespace std::chrono_literals;

TEST(Gate, ManyPassAtOnce) {
  Gate gate;
  const GatePass mine(gate);
  std::thread([&] { const GatePass theirs(gate); }).join();
}

TEST(Gate, TheCloserWaitsForThoseInside) {
  Gate gate;
  std::atomic<bool> closed{false};
  const unsigned shard = gate.enter();
  std::thread closer([&] {
    gate.close();
    closed.store(true);
    gate.open();
  });
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(closed.load());
  gate.leave(shard);
  closer.join();
  EXPECT_TRUE(closed.load());
}

TEST(Gate, OthersWaitUntilItOpens) {
  Gate gate;
  std::atomic<bool> passed{false};
  gate.close();
  std::thread other([&] {
    const GatePass pass(gate);
    passed.store(true);
  });
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(passed.load());
  gate.open();
  other.join();
  EXPECT_TRUE(passed.load());
}

TEST(Gate, TheCloserItselfMayPassAndSoMayWhoWorksForIt) {
  Gate gate;
  gate.close();
  { const GatePass pass(gate); }
  const int closer = sys::gettid();
  std::thread([&gate, closer] { const GatePass pass(gate, closer); }).join();
  gate.open();
}

// A clone of the gate in the middle of another thread's enter(), as a fork makes it.
TEST(Gate, AForkChildDoesNotWaitForThoseWhoWereAboutToFindItClosed) {
  Gate gate;
  (void)gate.enter();  // who will never leave
  gate.after_fork_in_child();
  { const GatePass pass(gate); }  // the child's own thread has it closed
  std::atomic<bool> passed{false};
  std::thread other([&] {
    const GatePass pass(gate);
    passed.store(true);
  });
  std::this_thread::sleep_for(20ms);
  EXPECT_FALSE(passed.load());
  gate.open();
  other.join();
  gate.close();
  gate.open();
}

TEST(Gate, ClosersTakeTurns) {
  Gate gate;
  std::atomic<int> inside{0};
  std::atomic<int> together{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 500; ++i) {
        gate.close();
        if (inside.fetch_add(1) != 0) ++together;
        inside.fetch_sub(1);
        gate.open();
        const GatePass pass(gate);
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(together.load(), 0);
}

TEST(Gate, NothingIsHalfDoneWhileItIsClosed) {
  Gate gate;
  std::atomic<bool> stop{false};
  std::uint64_t first = 0;  // two words that are equal but for a moment inside the gate
  std::uint64_t second = 0;
  std::thread worker([&] {
    while (!stop.load()) {
      const GatePass pass(gate);
      ++first;
      ++second;
    }
  });
  for (int i = 0; i < 500; ++i) {
    gate.close();
    EXPECT_EQ(first, second);
    gate.open();
  }
  stop.store(true);
  worker.join();
}

}  // namespace
}  // namespace buoy
