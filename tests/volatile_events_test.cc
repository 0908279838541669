// The eventfd of a pool: what it tells of purges and of pressure, and to whom.
//
// ctest: timeout=300
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "volatile_testing.h"

namespace buoy::testing {
namespace {

class VolatileEvents : public VolatileTest {};

TEST(VolatileEventsPool, AnEventfdNeedsAPool) {
  EXPECT_EQ(buoy_pool_eventfd(nullptr), -1);
  EXPECT_EQ(errno, EINVAL);
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = 32 * kMiB;
  options.faults = BUOY_FAULTS_SIGNAL;
  buoy_pool* pool = nullptr;
  ASSERT_EQ(buoy_pool_create(&options, &pool), 0);
  const int fd = buoy_pool_eventfd(pool);
  EXPECT_GE(fd, 0);
  ASSERT_EQ(buoy_pool_destroy(pool), 0);
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);  // it went with its pool
  EXPECT_EQ(buoy_pool_eventfd(pool), -1);
  EXPECT_EQ(errno, EINVAL);
}

// Without room for descriptors.
TEST_P(VolatileEvents, AnEventfdThatCannotBeMadeIsToldAndMadeLater) {
  const Ended ended = run_in_child([&] {
    rlimit limit{};
    must(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
    const rlim_t soft = std::exchange(limit.rlim_cur, 0);
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
    must(buoy_pool_eventfd(pool) == -1 && errno == EMFILE, "EMFILE");
    limit.rlim_cur = soft;
    must(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit back");
    must(buoy_pool_eventfd(pool) >= 0, "made later");
  });
  EXPECT_TRUE(ended.is_success()) << ended.said;
}

TEST_P(VolatileEvents, TheEventfdTellsOfPurgesAndPressure) {
  const int fd = buoy_pool_eventfd(pool);
  ASSERT_GE(fd, 0);
  EXPECT_EQ(buoy_pool_eventfd(pool), fd);
  EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  std::uint64_t value = 0;
  EXPECT_EQ(read(fd, &value, sizeof value), -1);
  EXPECT_EQ(errno, EAGAIN);
  char* at = map(8 * kPage);
  std::memset(at, 5, 8 * kPage);
  buoy_mark_volatile(at, 8 * kPage, 0);
  EXPECT_GT(buoy_pool_reclaim(pool, kPage), 0);
  ASSERT_EQ(read(fd, &value, sizeof value), static_cast<ssize_t>(sizeof value));
  EXPECT_EQ(BUOY_EVENT_PURGES(value), 1U);
  EXPECT_EQ(BUOY_EVENT_MODERATE(value), 0U);
  EXPECT_EQ(stat("pressure_level"), 0U);
  char* much = map(48 * kMiB);
  std::memset(much, 5, 48 * kMiB);
  ASSERT_EQ(read(fd, &value, sizeof value), static_cast<ssize_t>(sizeof value));
  EXPECT_EQ(BUOY_EVENT_MODERATE(value), 1U);
  EXPECT_EQ(stat("pressure_level"), 1U);
}

// Up through the levels and down again; each rise is told once, and again only after it was left.
TEST_P(VolatileEvents, EachLevelOfPressureIsToldWhenItIsReachedAndFallsAgain) {
  const int fd = buoy_pool_eventfd(pool);
  ASSERT_GE(fd, 0);
  const auto await_level = [&](std::uint64_t level) {
    // Falling is noticed when memory is, or by the background thread, ten times a second.
    for (int i = 0; i < 500 && stat("pressure_level") != level; ++i) usleep(10'000);
    return stat("pressure_level");
  };
  const auto news = [&] {
    std::uint64_t value = 0;
    if (read(fd, &value, sizeof value) != static_cast<ssize_t>(sizeof value)) value = 0;
    return value;
  };
  EXPECT_EQ(stat("pressure_level"), 0U);
  EXPECT_EQ(news(), 0U);
  for (int round = 0; round < 2; ++round) {
    // More than fits, and compresses well.
    char* much = map(48 * kMiB);
    std::memset(much, 5, 48 * kMiB);
    pollfd waits{fd, POLLIN, 0};
    EXPECT_EQ(poll(&waits, 1, 0), 1);
    std::uint64_t value = news();
    EXPECT_EQ(BUOY_EVENT_MODERATE(value), 1U) << round;
    EXPECT_EQ(BUOY_EVENT_CRITICAL(value), 0U) << round;
    EXPECT_EQ(BUOY_EVENT_PURGES(value), 0U) << round;
    EXPECT_EQ(stat("pressure_level"), 1U);
    // The same level again is no news.
    std::memset(much, 6, 48 * kMiB);
    EXPECT_EQ(news(), 0U) << round;
    // Pinned memory that fills the budget: nothing is left to reclaim.
    std::size_t pinned = 0;
    while (buoy_pin(much + pinned, kPage, BUOY_WRITE) == 0) pinned += kPage;
    EXPECT_EQ(errno, EAGAIN);
    value = news();
    EXPECT_GE(BUOY_EVENT_CRITICAL(value), 1U) << round;  // more often if it was left on the way
    EXPECT_EQ(BUOY_EVENT_MODERATE(value), 0U) << round;
    EXPECT_EQ(stat("pressure_level"), 2U);
    EXPECT_EQ(buoy_unpin(much, pinned, 0), 0);
    ASSERT_EQ(buoy_unmap(much, 48 * kMiB), 0);
    mapped.pop_back();
    EXPECT_EQ(await_level(0), 0U);
    EXPECT_EQ(news(), 0U) << round;  // relief is not told; who wants to know asks for the level
  }
}

TEST_P(VolatileEvents, PurgesAreToldInBatchesAndReadingTakesThemBack) {
  const int fd = buoy_pool_eventfd(pool);
  char* at = map(64 * kPage);
  for (std::uint64_t n = 1; n <= 3; ++n) {
    for (std::uint64_t i = 0; i < n; ++i) {
      std::memset(at, 5, 64 * kPage);
      buoy_mark_volatile(at, 64 * kPage, 0);
      EXPECT_GT(buoy_pool_reclaim(pool, kPage), 0);
      buoy_mark_nonvolatile(at, 64 * kPage, nullptr);
    }
    std::uint64_t value = 0;
    ASSERT_EQ(read(fd, &value, sizeof value), static_cast<ssize_t>(sizeof value));
    EXPECT_EQ(BUOY_EVENT_PURGES(value), n);
    EXPECT_EQ(BUOY_EVENT_MODERATE(value), 0U);
    EXPECT_EQ(BUOY_EVENT_CRITICAL(value), 0U);
    EXPECT_EQ(read(fd, &value, sizeof value), -1);
    EXPECT_EQ(errno, EAGAIN);
  }
}

TEST_P(VolatileEvents, AChildHasAnEventfdOfItsOwn) {
  const int fd = buoy_pool_eventfd(pool);
  char* at = map(8 * kPage);
  std::memset(at, 5, 8 * kPage);
  buoy_mark_volatile(at, 8 * kPage, 0);
  const Ended ended = run_in_child([&] {
    must(buoy_pool_eventfd(pool) == fd, "the same number");
    must(buoy_pool_reclaim(pool, kPage) > 0, "a purge in the child");
    std::uint64_t value = 0;
    must(read(fd, &value, sizeof value) == sizeof value && BUOY_EVENT_PURGES(value) == 1,
         "is told in the child");
  });
  EXPECT_TRUE(ended.is_success()) << ended.said;
  std::uint64_t value = 0;
  EXPECT_EQ(read(fd, &value, sizeof value), -1) << "the child's news are not the parent's";
  EXPECT_EQ(errno, EAGAIN);
}

INSTANTIATE_TEST_SUITE_P(Deliveries, VolatileEvents,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& way) { return name_of(way.param); });

}  // namespace
}  // namespace buoy::testing
