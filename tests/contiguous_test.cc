// ctest: timeout=180
//
// Contiguous memory and compaction by the C API: good and bad input, a full budget, the reserve.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "pool_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBudget = 64 * kMiB;

template <typename F>
int errno_of(F call) {
  errno = 0;
  return call() ? 0 : errno;
}

buoy_pool* make_pool(std::size_t reserve = 0, std::size_t budget = kBudget) {
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = budget;
  options.faults = BUOY_FAULTS_SIGNAL;
  options.contiguous_reserve = reserve;
  buoy_pool* pool = nullptr;
  EXPECT_EQ(buoy_pool_create(&options, &pool), 0) << std::strerror(errno);
  return pool;
}
std::uint64_t stat(buoy_pool* pool, const char* name) {
  std::uint64_t value = 0;
  EXPECT_EQ(buoy_pool_stat(pool, name, &value), 0) << name;
  return value;
}

class Contiguous : public ::testing::Test {
 protected:
  void SetUp() override { make(0); }
  void TearDown() override { EXPECT_EQ(buoy_pool_destroy(pool_), 0) << std::strerror(errno); }
  void make(std::size_t reserve) {
    if (pool_ != nullptr) {
      EXPECT_EQ(buoy_pool_destroy(pool_), 0);
    }
    pool_ = make_pool(reserve);
    ASSERT_NE(pool_, nullptr);
  }
  [[nodiscard]] std::byte* allocate(std::size_t bytes, unsigned flags = 0) {
    return static_cast<std::byte*>(buoy_alloc_contiguous(pool_, bytes, flags));
  }
  void release(void* p) { EXPECT_EQ(buoy_free_contiguous(pool_, p), 0) << std::strerror(errno); }
  // Stamped pages of a region, more than the budget holds: most are compressed then.
  [[nodiscard]] std::byte* overfill(std::size_t pages) {
    auto* memory = static_cast<std::byte*>(buoy_map(pool_, pages * kPageSize, 0));
    EXPECT_NE(memory, nullptr);
    for (std::size_t i = 0; i < pages; ++i) stamp_page(memory + i * kPageSize, 3, i + 1);
    return memory;
  }
  static void expect_stamps(const std::byte* memory, std::size_t pages) {
    for (std::size_t i = 0; i < pages; ++i)
      ASSERT_TRUE(holds_stamp(memory + i * kPageSize, 3, i + 1)) << i;
  }

  buoy_pool* pool_ = nullptr;
};

TEST_F(Contiguous, IsAlignedUsableAndCounted) {
  for (const std::size_t bytes : {std::size_t{1}, kPageSize, kPageSize + 1, 100 * kPageSize, kMiB,
                                  2 * kMiB, 2 * kMiB + 1, 7 * kMiB, 20 * kMiB}) {
    std::byte* p = allocate(bytes);
    ASSERT_NE(p, nullptr) << bytes;
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % kPageSize, 0U);
    if (bytes >= 2 * kMiB) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % (2 * kMiB), 0U);
    }
    std::memset(p, 0x5a, bytes);
    EXPECT_GE(stat(pool_, "contiguous_bytes"), bytes);
    // System calls need no pin.
    const int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    EXPECT_EQ(read(zero, p, bytes), static_cast<ssize_t>(bytes));
    close(zero);
    EXPECT_EQ(p[bytes - 1], std::byte{0});
    release(p);
  }
  EXPECT_EQ(stat(pool_, "contiguous_bytes"), 0U);
  EXPECT_EQ(stat(pool_, "cma_alloc_success"), 9U);
  EXPECT_EQ(buoy_compact(pool_), 0);
  EXPECT_EQ(stat(pool_, "arena_bytes"), 0U);
}

TEST_F(Contiguous, BadInputIsRefusedAndChangesNothing) {
  std::byte* p = allocate(3 * kMiB);
  ASSERT_NE(p, nullptr);
  std::memset(p, 0x33, 3 * kMiB);
  const std::uint64_t before = stat(pool_, "contiguous_bytes");
  auto* region = static_cast<std::byte*>(buoy_map(pool_, kPageSize, 0));
  stamp_page(region, 1, 1);
  alignas(4096) static std::byte foreign[4096];
  EXPECT_EQ(errno_of([&] { return allocate(0) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return allocate(kBudget + 1) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return allocate(SIZE_MAX) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return allocate(kPageSize, 2) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_alloc_contiguous(nullptr, 1, 0) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_compact(nullptr) == 0; }), EINVAL);
  const auto free_errno = [&](void* q) {
    return errno_of([&] { return buoy_free_contiguous(pool_, q) == 0; });
  };
  EXPECT_EQ(free_errno(nullptr), EINVAL);
  EXPECT_EQ(free_errno(foreign), EINVAL);
  EXPECT_EQ(free_errno(region), EINVAL);
  EXPECT_EQ(free_errno(p + 1), EINVAL);
  EXPECT_EQ(free_errno(p + kPageSize), EINVAL);
  EXPECT_EQ(free_errno(p + 2 * kMiB), EINVAL);
  EXPECT_EQ(free_errno(p + 1024 * kMiB), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_free_contiguous(nullptr, p) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_pool_destroy(pool_) == 0; }), EBUSY);
  EXPECT_EQ(stat(pool_, "contiguous_bytes"), before);
  EXPECT_EQ(p[0], std::byte{0x33});
  EXPECT_EQ(p[3 * kMiB - 1], std::byte{0x33});
  release(p);
  EXPECT_EQ(free_errno(p), EINVAL);
  EXPECT_EQ(buoy_unmap(region, kPageSize), 0);
}

TEST_F(Contiguous, RegionPagesMakeRoomForIt) {
  constexpr std::size_t kPages = 3 * kBudget / kPageSize / 2;
  std::byte* memory = overfill(kPages);
  std::byte* p = allocate(16 * kMiB);
  ASSERT_NE(p, nullptr) << stat(pool_, "cma_blocked_by");
  std::memset(p, 0x77, 16 * kMiB);
  expect_stamps(memory, kPages);
  for (std::size_t i = 0; i < 16 * kMiB; i += 997) ASSERT_EQ(p[i], std::byte{0x77});
  EXPECT_LE(stat(pool_, "resident_peak_bytes"), kBudget);
  release(p);
  EXPECT_EQ(buoy_unmap(memory, kPages * kPageSize), 0);
}

TEST_F(Contiguous, TellsWhoIsInTheWay) {
  std::vector<std::byte*> all;
  for (std::byte* p = allocate(4 * kMiB); p != nullptr; p = allocate(4 * kMiB)) all.push_back(p);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_GE(all.size(), kBudget / (4 * kMiB) - 3);
  EXPECT_EQ(stat(pool_, "cma_blocked_by"), 1U);
  EXPECT_EQ(stat(pool_, "cma_alloc_fail"), 1U);
  EXPECT_EQ(stat(pool_, "cma_fail_budget"), 1U);
  for (std::byte* p : all) release(p);
}

TEST_F(Contiguous, TheReserveIsAlwaysThere) {
  make(16 * kMiB);
  EXPECT_EQ(stat(pool_, "arena_bytes"), 0U);
  constexpr std::size_t kPages = 5 * kBudget / kPageSize / 4;
  std::byte* memory = overfill(kPages);
  for (unsigned round = 0; round < 5; ++round) {
    std::byte* p = allocate(16 * kMiB, BUOY_RESERVE_AREA);
    ASSERT_NE(p, nullptr) << stat(pool_, "cma_blocked_by");
    std::memset(p, 0x11, 16 * kMiB);
    // It is taken; more comes from elsewhere, if there is room.
    std::byte* more = allocate(kMiB, BUOY_RESERVE_AREA);
    EXPECT_NE(more, nullptr);
    if (more != nullptr) release(more);
    release(p);
    expect_stamps(memory, kPages / 4);
  }
  EXPECT_EQ(buoy_unmap(memory, kPages * kPageSize), 0);
}

TEST_F(Contiguous, AReserveIsValidated) {
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = kBudget;
  options.contiguous_reserve = kBudget / 2 + 1;
  buoy_pool* pool = nullptr;
  EXPECT_EQ(errno_of([&] { return buoy_pool_create(&options, &pool) == 0; }), EINVAL);
  // A program built before the field was added says so by its size.
  options.struct_size = offsetof(buoy_options, contiguous_reserve);
  ASSERT_EQ(buoy_pool_create(&options, &pool), 0);
  EXPECT_EQ(buoy_pool_destroy(pool), 0);
}

TEST_F(Contiguous, AForkedChildHasItsOwn) {
  std::byte* p = allocate(2 * kMiB);
  ASSERT_NE(p, nullptr);
  std::memset(p, 0x21, 2 * kMiB);
  const pid_t child = fork();
  if (child == 0) {
    bool ok = p[12345] == std::byte{0x21};
    std::memset(p, 0x42, 2 * kMiB);
    ok = ok && buoy_compact(pool_) == 0 && buoy_free_contiguous(pool_, p) == 0;
    _exit(ok ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(p[12345], std::byte{0x21});
  release(p);
}

}  // namespace
}  // namespace buoy::testing
