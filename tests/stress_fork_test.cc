// ctest: timeout=300
//
// fork() of a threaded program through the library, in both deliveries: the child finds what it
// owned and what was done in its own memory only; the parent goes on. Forks from several threads at
// once, and of memory in every state.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <thread>
#include <vector>

#include "pool_testing.h"

namespace buoy::testing {
namespace {

class StressFork : public ::testing::TestWithParam<Delivery> {};
INSTANTIATE_TEST_SUITE_P(Delivery, StressFork,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& delivery) { return name_of(delivery.param); });

struct Memory {
  std::byte* base = nullptr;
  std::size_t pages = 0;
  std::uint64_t owner = 0;

  Memory(buoy_pool* pool, std::size_t how_many, std::uint64_t who)
      : base(static_cast<std::byte*>(buoy_map(pool, how_many * kPageSize, 0))),
        pages(how_many),
        owner(who) {}
  [[nodiscard]] std::byte* page(std::size_t i) const { return base + i * kPageSize; }
  void stamp_all(std::uint64_t version) const {
    for (std::size_t i = 0; i < pages; ++i) stamp_page(page(i), owner << 20 | i, version);
  }
  [[nodiscard]] std::size_t wrong(std::uint64_t version) const {
    std::size_t n = 0;
    for (std::size_t i = 0; i < pages; ++i)
      if (!holds_stamp(page(i), owner << 20 | i, version)) ++n;
    return n;
  }
  void unmap() const { EXPECT_EQ(buoy_unmap(base, pages * kPageSize), 0); }
};

// The child runs `body` and ends with its answer, 0 for success.
template <typename Body>
int fork_and_run(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  EXPECT_GT(child, 0);
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return status;
}

// Threads that thrash memory of their own and look after it.
class Crowd {
 public:
  Crowd(buoy_pool* pool, unsigned threads, std::size_t pages) {
    for (unsigned i = 0; i < threads; ++i)
      threads_.push_back(started_thread([this, pool, pages, i] {
        const Memory mine(pool, pages, 100 + i);
        for (std::uint64_t version = 1; !stop_.load(); ++version) {
          mine.stamp_all(version);
          wrong_ += mine.wrong(version);
        }
        mine.unmap();
      }));
  }
  ~Crowd() {
    stop_.store(true);
    for (std::thread& t : threads_) t.join();
    EXPECT_EQ(wrong_.load(), 0U);
  }

 private:
  std::atomic<bool> stop_{false};
  std::atomic<std::size_t> wrong_{0};
  std::vector<std::thread> threads_;
};

TEST_P(StressFork, ChildHasItsOwnMemory) {
  TestPool pool(GetParam(), 24 * kMiB);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  {
    const Memory mine(pool.get(), 16 * kMiB / kPageSize, 1);
    const Crowd crowd(pool.get(), 2, 6 * kMiB / kPageSize);
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(stress_seconds(6));
    for (std::uint64_t version = 1; std::chrono::steady_clock::now() < end; version += 2) {
      mine.stamp_all(version);
      const int status = fork_and_run([&] {
        if (mine.wrong(version) != 0) return 1;
        mine.stamp_all(version + 1);
        if (mine.wrong(version + 1) != 0) return 2;
        std::uint64_t resident = 0;
        std::uint64_t budget = 0;
        if (buoy_pool_stat(pool.get(), "resident_peak_bytes", &resident) != 0) return 3;
        if (buoy_pool_stat(pool.get(), "budget_bytes", &budget) != 0) return 4;
        return resident <= budget ? 0 : 5;
      });
      ASSERT_EQ(status, 0);
      ASSERT_EQ(mine.wrong(version), 0U);
    }
    mine.unmap();
  }
  pool.validate();
}

TEST_P(StressFork, SeveralThreadsForkAtOnce) {
  TestPool pool(GetParam(), 24 * kMiB);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  std::latch all_started(3);  // for the reason that started_thread() gives
  for (unsigned t = 0; t < 3; ++t)
    threads.emplace_back([&pool, &failures, &all_started, t] {
      all_started.arrive_and_wait();
      const Memory mine(pool.get(), 10 * kMiB / kPageSize, t + 1);
      for (std::uint64_t version = 1; version <= 4; ++version) {
        mine.stamp_all(version);
        const int status = fork_and_run([&] { return mine.wrong(version) == 0 ? 0 : 1; });
        if (status != 0) ++failures;
      }
      mine.unmap();
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(failures.load(), 0);
  pool.validate();
}

// A page of each kind, seen from both sides: mapped, lazily freed, standby, compressed, pinned.
TEST_P(StressFork, EveryStateIsInherited) {
  TestPool pool(GetParam(), 16 * kMiB);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  const Memory ordinary(pool.get(), 64, 1);
  const Memory compressed(pool.get(), 64, 2);
  const Memory lazy(pool.get(), 64, 3);
  const Memory pinned(pool.get(), 64, 4);
  auto* droppable = static_cast<std::byte*>(buoy_map(pool.get(), kPageSize, BUOY_DROPPABLE));
  for (const Memory* m : {&ordinary, &compressed, &lazy, &pinned}) m->stamp_all(1);
  stamp_page(droppable, 9, 1);
  ASSERT_EQ(buoy_advise(compressed.base, 64 * kPageSize, BUOY_PAGEOUT), 0);
  ASSERT_EQ(buoy_advise(lazy.base, 64 * kPageSize, BUOY_FREE), 0);
  ASSERT_EQ(buoy_pin(pinned.base, 64 * kPageSize, BUOY_WRITE), 0);
  const int status = fork_and_run([&] {
    if (ordinary.wrong(1) != 0) return 1;
    if (compressed.wrong(1) != 0) return 2;
    if (pinned.wrong(1) != 0) return 3;
    if (!holds_stamp(droppable, 0, 0)) return 4;  // wiped
    for (std::size_t i = 0; i < lazy.pages; ++i)
      if (!holds_stamp(lazy.page(i), lazy.owner << 20 | i, 1) && !holds_stamp(lazy.page(i), 0, 0))
        return 5;
    // Its own lazy state: stored to, kept; not stored to, discarded; the parent sees neither.
    stamp_page(lazy.page(0), 3, 7);
    if (buoy_pool_reclaim(pool.get(), 8 * kMiB) < 0) return 6;
    if (!holds_stamp(lazy.page(0), 3, 7)) return 7;
    for (const Memory* m : {&ordinary, &compressed, &pinned}) m->stamp_all(2);
    if (ordinary.wrong(2) + compressed.wrong(2) + pinned.wrong(2) != 0) return 8;
    return 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(ordinary.wrong(1), 0U);
  EXPECT_EQ(compressed.wrong(1), 0U);
  EXPECT_EQ(pinned.wrong(1), 0U);
  EXPECT_TRUE(holds_stamp(droppable, 9, 1));
  EXPECT_EQ(lazy.wrong(1), 0U);
  EXPECT_EQ(buoy_unpin(pinned.base, 64 * kPageSize, 0), 0);
  EXPECT_EQ(buoy_unmap(droppable, kPageSize), 0);
  for (const Memory* m : {&ordinary, &compressed, &lazy, &pinned}) m->unmap();
  pool.validate();
}

// What a living child shares with us can be reclaimed on our side, clean and unwritable pages too.
TEST_P(StressFork, SharedPagesAreReclaimed) {
  TestPool pool(GetParam(), 16 * kMiB);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  const Memory m(pool.get(), 2048, 1);
  m.stamp_all(1);
  ASSERT_EQ(buoy_advise(m.base, 512 * kPageSize, BUOY_PAGEOUT), 0);
  for (std::size_t i = 0; i < 512; ++i) ASSERT_TRUE(holds_stamp(m.page(i), 1 << 20 | i, 1));
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t child = fork();
  if (child == 0) {
    close(pipes[1]);
    char byte = 0;
    const bool ended = read(pipes[0], &byte, 1) == 0;
    _exit(ended && m.wrong(1) == 0 ? 0 : 1);
  }
  close(pipes[0]);
  ASSERT_TRUE(reinterpret_cast<Pool*>(pool.get())
                  ->protect(m.page(1024), 256 * kPageSize, mmu::Access::kRead)
                  .ok());
  ASSERT_EQ(buoy_advise(m.base, m.pages * kPageSize, BUOY_PAGEOUT), 0);
  ASSERT_EQ(buoy_advise(m.base, m.pages * kPageSize, BUOY_PAGEOUT), 0);
  EXPECT_EQ(m.wrong(1), 0U);
  ASSERT_TRUE(reinterpret_cast<Pool*>(pool.get())
                  ->protect(m.page(1024), 256 * kPageSize, mmu::Access::kReadWrite)
                  .ok());
  m.stamp_all(2);
  EXPECT_EQ(m.wrong(2), 0U);
  close(pipes[1]);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  m.unmap();
  pool.validate();
}

}  // namespace
}  // namespace buoy::testing
