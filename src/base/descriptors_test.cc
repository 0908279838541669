#include "base/descriptors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/sys.h"

namespace buoy {
namespace {

int open_something() { return open("/dev/null", O_RDWR | O_CLOEXEC); }

TEST(Descriptors, AdoptedOnesLieBeyondTheProgramsLimit) {
  struct rlimit limit {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const struct rlimit small { 64, limit.rlim_max };
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &small), 0);
  const int fd = descriptors::adopt(open_something());
  EXPECT_GE(fd, limit.rlim_max > 64 ? 64 : 48);
  EXPECT_TRUE(descriptors::is_own(fd));
  EXPECT_TRUE(descriptors::is_intact(fd));
  struct rlimit after {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &after), 0);
  EXPECT_EQ(after.rlim_cur, 64U);
  EXPECT_EQ(after.rlim_max, limit.rlim_max);
  descriptors::release(fd);
  EXPECT_FALSE(descriptors::is_own(fd));
  EXPECT_EQ(fcntl(fd, F_GETFD), -1);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

TEST(Descriptors, AdoptionWorksWhenTheProgramHasUsedUpAllNumbers) {
  struct rlimit limit {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const int mine = open_something();
  const struct rlimit tight { static_cast<rlim_t>(mine) + 1, limit.rlim_max };
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  EXPECT_EQ(open_something(), -1);
  int more = -1;
  {
    const descriptors::RoomForOne room;
    more = open_something();
  }
  const bool could = limit.rlim_max > tight.rlim_cur;
  EXPECT_EQ(more >= 0, could);
  const int fd = descriptors::adopt(mine);
  EXPECT_TRUE(descriptors::is_own(fd));
  if (could) {
    EXPECT_GT(fd, mine);
  }
  descriptors::release(fd);
  if (more >= 0) close(more);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

TEST(Descriptors, WhatSomebodyElsePutUnderOurNumberIsNotClosed) {
  int pipe_ends[2];
  ASSERT_EQ(pipe(pipe_ends), 0);
  const int fd = descriptors::adopt(open_something());
  ASSERT_EQ(sys::call(SYS_close, fd), 0);
  EXPECT_FALSE(descriptors::is_intact(fd));
  // Natively nobody can have this number; behind our back it may come about.
  {
    const descriptors::RoomForOne room;
    ASSERT_EQ(sys::call(SYS_dup3, pipe_ends[0], fd, 0), fd);
  }
  EXPECT_TRUE(descriptors::is_own(fd));
  EXPECT_FALSE(descriptors::is_intact(fd));
  descriptors::release(fd);
  EXPECT_NE(fcntl(fd, F_GETFD), -1);
  close(fd);
  close(pipe_ends[0]);
  close(pipe_ends[1]);
}

TEST(Descriptors, OwnOnesAreFoundInOrder) {
  const int first = descriptors::adopt(open_something());
  const int second = descriptors::adopt(open_something());
  ASSERT_LT(first, second);
  EXPECT_EQ(descriptors::next_own(0), first);
  EXPECT_EQ(descriptors::next_own(first), first);
  EXPECT_EQ(descriptors::next_own(first + 1), second);
  EXPECT_EQ(descriptors::next_own(second + 1), -1);
  descriptors::release(first);
  EXPECT_EQ(descriptors::next_own(0), second);
  descriptors::release(second);
  EXPECT_EQ(descriptors::next_own(0), -1);
}

}  // namespace
}  // namespace buoy
