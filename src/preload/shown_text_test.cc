// Files that tell of memory, and what a program in a budget reads there.
#include "preload/shown_text.h"

#include <gtest/gtest.h>

#include <string>

namespace buoy::preload {
namespace {

constexpr ByteSize kMega = ByteSize{1} << 20;
constexpr ShownBudget kShown{512 * kMega, 100 * kMega};

std::string shown(ShownFile file, std::string_view line, ByteSize total = 8192 * kMega) {
  sys::Line out;
  show_line(file, line, kShown, total, &out);
  return std::string(out.view());
}

TEST(ShownFile, ByPathInOwnCgroupAndAbove) {
  const std::string own = "4:memory:/a/b\n3:cpu:/c\n0::/a/b\n";
  EXPECT_EQ(shown_file("/proc/meminfo", own), ShownFile::kMeminfo);
  EXPECT_EQ(shown_file("/sys/fs/cgroup/a/b/memory.max", own), ShownFile::kLimit);
  EXPECT_EQ(shown_file("/sys/fs/cgroup/a/memory.high", own), ShownFile::kLimit);
  EXPECT_EQ(shown_file("/sys/fs/cgroup/memory/memory.limit_in_bytes", own), ShownFile::kLimit);
  EXPECT_EQ(shown_file("/sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", own), ShownFile::kUsage);
  EXPECT_EQ(shown_file("/sys/fs/cgroup/memory/a/memory.stat", own), ShownFile::kGroupStat);
  EXPECT_EQ(shown_file("/sys/fs/cgroup/a/bc/memory.max", own), ShownFile::kNone);
  EXPECT_EQ(shown_file("/sys/fs/cgroup/other/memory.max", own), ShownFile::kNone);
  EXPECT_EQ(may_be_shown("/sys/fs/cgroup/other/memory.max"), ShownFile::kLimit);
  for (const char* path : {"/sys/fs/cgroup/a/b/memory.min", "/sys/fs/cgroupa/memory.max",
                           "/home/me/memory.max", "/proc/meminfo2", "meminfo", ""}) {
    EXPECT_EQ(may_be_shown(path), ShownFile::kNone) << path;
    EXPECT_EQ(shown_file(path, own), ShownFile::kNone) << path;
  }
}

TEST(ShownText, Meminfo) {
  const auto line = [](std::string_view text) { return shown(ShownFile::kMeminfo, text); };
  EXPECT_EQ(line("MemTotal:        8388608 kB"), "MemTotal:        524288 kB");
  EXPECT_EQ(line("MemFree:         5000000 kB"), "MemFree:         421888 kB");
  EXPECT_EQ(line("MemAvailable:       1000 kB"), "MemAvailable:       1000 kB");
  EXPECT_EQ(line("Cached:           777777 kB"), "Cached:           0 kB");
  EXPECT_EQ(line("AnonPages:        777777 kB"), "AnonPages:        102400 kB");
  EXPECT_EQ(line("HugePages_Total:       3"), "HugePages_Total:       3");
  EXPECT_EQ(line("SwapTotal:             0 kB"), "SwapTotal:             0 kB");
  EXPECT_EQ(line(""), "");
  EXPECT_EQ(shown(ShownFile::kMeminfo, "MemTotal: 4096 kB", 4 * kMega), "MemTotal: 4096 kB");
  EXPECT_EQ(meminfo_value("MemTotal:        8388608 kB", "MemTotal"), 8192 * kMega);
  EXPECT_EQ(meminfo_value("MemTotals: 8 kB", "MemTotal"), 0U);
}

TEST(ShownText, Cgroups) {
  EXPECT_EQ(shown(ShownFile::kLimit, "max"), "536870912");
  EXPECT_EQ(shown(ShownFile::kLimit, "9223372036854771712"), "536870912");
  EXPECT_EQ(shown(ShownFile::kLimit, "4096"), "4096");  // the cgroup has less
  EXPECT_EQ(shown(ShownFile::kUsage, "3221225472"), "104857600");
  EXPECT_EQ(shown(ShownFile::kUsage, "77"), "77");
  EXPECT_EQ(shown(ShownFile::kGroupStat, "hierarchical_memory_limit 9223372036854771712"),
            "hierarchical_memory_limit 536870912");
  EXPECT_EQ(shown(ShownFile::kGroupStat, "inactive_file 4096"), "inactive_file 4096");
}

}  // namespace
}  // namespace buoy::preload
