// Limits as cgroups of both versions tell them, from a tree of files that stands for the system; and
// what the budgets that are computed from them come to.
#include "cli/memory_room.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cli/budget_request.h"

namespace buoy::cli {
namespace {

constexpr ByteSize kMega = ByteSize{1} << 20;

class MemoryRoomTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/buoy-room.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
    put("proc/meminfo", "MemTotal:       4194304 kB\nMemFree: 1 kB\nMemAvailable:    3145728 kB\n");
    put("proc/self/mountinfo", "");
    put("proc/self/cgroup", "");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void put(const std::string& path, const std::string& text) const {
    const std::filesystem::path whole = std::filesystem::path(root_) / path;
    std::filesystem::create_directories(whole.parent_path());
    std::ofstream(whole) << text;
  }
  void mount_version_2(const std::string& mounted_root, const std::string& own) const {
    put("proc/self/mountinfo", "31 23 0:28 / /run rw - tmpfs tmpfs rw\n41 31 0:38 " + mounted_root +
                                   " /sys/fs/my\\040cgroup rw shared:4 - cgroup2 cgroup2 rw\n");
    put("proc/self/cgroup", "1:cpu:/else\n0::" + own + "\n");
  }
  void group_of_version_2(const std::string& path, const std::string& max, ByteSize used,
                          ByteSize cache) const {
    const std::string folder = "sys/fs/my cgroup/" + path;
    put(folder + "/memory.max", max + "\n");
    put(folder + "/memory.current", std::to_string(used) + "\n");
    put(folder + "/memory.stat", "anon 5\ninactive_file " + std::to_string(cache / 2) +
                                     "\nactive_file " + std::to_string(cache / 2) + "\n");
  }
  [[nodiscard]] MemoryRoom room() const { return read_memory_room(root_); }

  std::string root_;
};

TEST_F(MemoryRoomTest, WithoutACgroupItIsTheMachine) {
  EXPECT_EQ(room().limit, 4096 * kMega);
  EXPECT_EQ(room().free, 3072 * kMega);
  EXPECT_FALSE(room().is_cgroup);
}

TEST_F(MemoryRoomTest, Version2NestedTheTightestCounts) {
  mount_version_2("/", "/outer/inner");
  group_of_version_2("outer/inner", "max", 100 * kMega, 0);
  group_of_version_2("outer", std::to_string(512 * kMega), 300 * kMega, 100 * kMega);
  EXPECT_EQ(room().limit, 512 * kMega);
  EXPECT_EQ(room().free, 312 * kMega);  // page cache can go
  EXPECT_TRUE(room().is_cgroup);
  group_of_version_2("outer/inner", std::to_string(256 * kMega), 100 * kMega, 0);
  EXPECT_EQ(room().limit, 256 * kMega);
  EXPECT_EQ(room().free, 156 * kMega);
  put("sys/fs/my cgroup/outer/inner/memory.high", std::to_string(128 * kMega));
  EXPECT_EQ(room().limit, 128 * kMega);
  // A sibling's use of what both share counts.
  group_of_version_2("outer", std::to_string(512 * kMega), 510 * kMega, 0);
  EXPECT_EQ(room().limit, 128 * kMega);
  EXPECT_EQ(room().free, 2 * kMega);
}

TEST_F(MemoryRoomTest, AContainerSeesItsCgroupAsTheRoot) {
  mount_version_2("/docker/1234", "/docker/1234");
  group_of_version_2("", std::to_string(64 * kMega), 16 * kMega, 0);
  EXPECT_EQ(room().limit, 64 * kMega);
  mount_version_2("/docker/1234", "/docker/1234/part");
  group_of_version_2("part", std::to_string(32 * kMega), 16 * kMega, 0);
  EXPECT_EQ(room().limit, 32 * kMega);
  // Of another's: nothing above us is mounted but the mount itself.
  mount_version_2("/docker/1234", "/elsewhere");
  EXPECT_EQ(room().limit, 64 * kMega);
}

TEST_F(MemoryRoomTest, Version1) {
  put("proc/self/mountinfo",
      "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
      "36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
      "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n");
  put("proc/self/cgroup", "4:memory:/a/b\n3:cpu:/else\n0::/\n");
  const std::string top = "sys/fs/cgroup/memory/";
  put(top + "memory.limit_in_bytes", "9223372036854771712\n");
  put(top + "memory.usage_in_bytes", "1\n");
  put(top + "a/memory.limit_in_bytes", std::to_string(1024 * kMega));
  put(top + "a/memory.usage_in_bytes", std::to_string(256 * kMega));
  put(top + "a/b/memory.limit_in_bytes", std::to_string(512 * kMega));
  put(top + "a/b/memory.usage_in_bytes", std::to_string(200 * kMega));
  put(top + "a/b/memory.stat", "inactive_file 7\ntotal_inactive_file " +
                                   std::to_string(10 * kMega) + "\ntotal_active_file " +
                                   std::to_string(20 * kMega) + "\n");
  EXPECT_EQ(room().limit, 512 * kMega);
  EXPECT_EQ(room().free, 342 * kMega);
}

BudgetRequest request_of(const std::string& budget, const std::string& least = "") {
  BudgetRequest request;
  EXPECT_EQ(set_budget(request, budget), "");
  if (!least.empty()) {
    EXPECT_EQ(set_least_budget(request, least), "");
  }
  return request;
}

TEST(BudgetRequest, ComesTo) {
  MemoryRoom room;
  room.limit = 512 * kMega;
  room.free = 300 * kMega;
  EXPECT_EQ(*first_budget(request_of("256M"), room), 256 * kMega);
  EXPECT_EQ(*first_budget(request_of("75%"), room), room.limit / 100 * 75);
  EXPECT_EQ(*first_budget(request_of("auto"), room), 284 * kMega);  // 16M are left
  EXPECT_EQ(*first_budget(request_of("auto:pressure=7"), room), 284 * kMega);
  EXPECT_EQ(*first_budget(request_of("1%", "32M"), room), 32 * kMega);
  EXPECT_FALSE(first_budget(request_of("1%"), room));
  room.free = 10 * kMega;
  EXPECT_EQ(*first_budget(request_of("auto"), room), 16 * kMega);
  EXPECT_EQ(*first_budget(request_of("auto", "64M"), room), 64 * kMega);
  EXPECT_FALSE(first_budget(request_of("auto"), MemoryRoom()));
}

TEST(BudgetRequest, WordsThatAreRefused) {
  for (const char* word : {"0%", "101%", "7.5%", "%", "-3%", "automatic", "auto:", "auto:pressure=",
                           "auto:pressure=0", "auto:pressure:3", "Auto"}) {
    BudgetRequest request;
    EXPECT_NE(set_budget(request, word), "") << word;
  }
}

}  // namespace
}  // namespace buoy::cli
