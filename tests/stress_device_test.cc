// ctest: timeout=120
//
// Direct I/O into pinned memory while that memory is lazily freed, reclaimed and paged out: what
// the device wrote is what is read, in every order of pin, free, read and unpin.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "pool_testing.h"

namespace buoy::testing {
namespace {

class StressDevice : public ::testing::TestWithParam<Delivery> {};
INSTANTIATE_TEST_SUITE_P(Delivery, StressDevice,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& delivery) { return name_of(delivery.param); });

constexpr std::size_t kPages = 256;
constexpr std::uint64_t kOwner = 77;

// A file of stamped pages, open for direct I/O; -1 where the file system has none.
class StampedFile {
 public:
  StampedFile() {
    const char* folder = std::getenv("BUILD_DIR");
    std::string path = std::string(folder == nullptr ? "." : folder) + "/direct-io-XXXXXX";
    const int fd = mkstemp(path.data());
    std::vector<std::byte> page(kPageSize);
    for (std::size_t i = 0; i < kPages; ++i) {
      stamp_page(page.data(), kOwner, i + 1);
      EXPECT_EQ(pwrite(fd, page.data(), kPageSize, static_cast<off_t>(i * kPageSize)),
                static_cast<ssize_t>(kPageSize));
    }
    direct_ = open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
    unlink(path.c_str());
    close(fd);
  }
  ~StampedFile() {
    if (direct_ >= 0) close(direct_);
  }
  StampedFile(const StampedFile&) = delete;
  StampedFile& operator=(const StampedFile&) = delete;
  [[nodiscard]] int fd() const { return direct_; }

 private:
  int direct_ = -1;
};

TEST_P(StressDevice, DirectReadsAreKept) {
  const StampedFile file;
  if (file.fd() < 0) GTEST_SKIP() << "the file system has no direct I/O";
  TestPool pool(GetParam(), 16 * kMiB);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  auto* memory = static_cast<std::byte*>(buoy_map(pool.get(), kPages * kPageSize, 0));
  ASSERT_NE(memory, nullptr);
  std::atomic<bool> stop{false};
  std::thread pressure([&] {
    while (!stop.load()) {
      (void)buoy_pool_reclaim(pool.get(), 2 * kMiB);
      EXPECT_EQ(buoy_advise(memory, kPages * kPageSize, BUOY_PAGEOUT), 0);
    }
  });
  const auto free_lazily = [memory](std::byte* at, std::size_t bytes) {
    EXPECT_EQ(buoy_advise(at, bytes, BUOY_FREE), 0) << at - memory;
  };
  std::mt19937_64 random(5);
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(stress_seconds(3));
  std::uint64_t reads = 0;
  while (std::chrono::steady_clock::now() < end) {
    const std::size_t n = 1 + random() % 16;
    const std::size_t from = random() % (kPages - n);
    const std::size_t to = random() % (kPages - n);
    std::byte* at = memory + to * kPageSize;
    const std::size_t bytes = n * kPageSize;
    const std::uint64_t order = random() % 4;
    if (order == 0) free_lazily(at, bytes);
    ASSERT_EQ(buoy_pin(at, bytes, BUOY_WRITE), 0);
    if (order == 1) free_lazily(at, bytes);
    ASSERT_EQ(pread(file.fd(), at, bytes, static_cast<off_t>(from * kPageSize)),
              static_cast<ssize_t>(bytes));
    if (order == 2) free_lazily(at, bytes);
    ASSERT_EQ(buoy_unpin(at, bytes, BUOY_DIRTIED), 0);
    for (std::size_t i = 0; i < n; ++i)
      ASSERT_TRUE(holds_stamp(at + i * kPageSize, kOwner, from + i + 1)) << "order " << order;
    ++reads;
  }
  stop.store(true);
  pressure.join();
  EXPECT_GT(reads, 0U);
  EXPECT_EQ(pool.stat("pinned_bytes"), 0U);
  EXPECT_EQ(buoy_unmap(memory, kPages * kPageSize), 0);
  pool.validate();
}

}  // namespace
}  // namespace buoy::testing
