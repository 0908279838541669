// ctest: timeout=120
//
// Every function of the C API, with good and with bad input: what interface and header promise
// about errors, and that a call that fails has changed nothing.

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "pool_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBudget = 32 * kMiB;
constexpr std::size_t kTiB = std::size_t{1} << 40;

template <typename F>
int errno_of(F call) {
  errno = 0;
  return call() ? 0 : errno;
}

// ---- Pools ------------------------------------------------------------------------------------

buoy_options good_options() {
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = kBudget;
  return options;
}

int create_errno(const buoy_options& options) {
  buoy_pool* pool = nullptr;
  const int error = errno_of([&] { return buoy_pool_create(&options, &pool) == 0; });
  EXPECT_EQ(pool != nullptr, error == 0);
  if (pool != nullptr && buoy_pool_destroy(pool) != 0) ADD_FAILURE() << "destroy: " << errno;
  return error;
}

TEST(CapiPool, GoodOptionsMakeAPool) {
  EXPECT_EQ(create_errno(good_options()), 0);
  for (const char* compressor : {"lz4", "zstd", "none"}) {
    buoy_options options = good_options();
    options.compressor = compressor;
    EXPECT_EQ(create_errno(options), 0) << compressor;
  }
  buoy_options options = good_options();
  options.backing_file = "none";
  EXPECT_EQ(create_errno(options), 0);
  options = good_options();
  options.budget = 16 * kMiB;
  EXPECT_EQ(create_errno(options), 0);
  options.on_exhausted = BUOY_EXHAUSTED_WAIT;
  EXPECT_EQ(create_errno(options), 0);
  options.on_exhausted = BUOY_EXHAUSTED_ENOMEM;
  EXPECT_EQ(create_errno(options), 0);
}

std::ptrdiff_t count_threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return std::distance(begin(tasks), end(tasks));
}

// Handler threads are for a library that does not see the program's sigaction (tests/run_python.sh).
TEST(CapiPool, AutomaticIsBySignalWhereTheProgramsSigactionIsOurs) {
  buoy_options options = good_options();
  buoy_pool* pool = nullptr;
  const std::ptrdiff_t before = count_threads();
  ASSERT_EQ(buoy_pool_create(&options, &pool), 0);
  EXPECT_EQ(count_threads(), before + 1);  // the reclaimer, and no handlers
  EXPECT_EQ(buoy_pool_destroy(pool), 0);
  options.faults = BUOY_FAULTS_THREAD;
  if (buoy_pool_create(&options, &pool) != 0) return;  // no right to it here
  EXPECT_GT(count_threads(), before + 1);
  EXPECT_EQ(buoy_pool_destroy(pool), 0);
}

TEST(CapiPool, BadOptionsAreRefused) {
  const auto refused = [](auto change) {
    buoy_options options = good_options();
    change(options);
    EXPECT_EQ(create_errno(options), EINVAL);
  };
  refused([](buoy_options& o) { o.struct_size = sizeof o - 1; });
  refused([](buoy_options& o) { o.struct_size = 0; });
  refused([](buoy_options& o) { o.budget = 0; });
  refused([](buoy_options& o) { o.budget = 16 * kMiB - 1; });
  refused([](buoy_options& o) { o.compressor = "lzo"; });
  refused([](buoy_options& o) { o.compressor = ""; });
  refused([](buoy_options& o) { o.faults = 3; });
  refused([](buoy_options& o) { o.faults = -1; });
  refused([](buoy_options& o) { o.on_exhausted = 3; });
  buoy_options options = good_options();
  buoy_pool* pool = nullptr;
  EXPECT_EQ(errno_of([&] { return buoy_pool_create(nullptr, &pool) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_pool_create(&options, nullptr) == 0; }), EINVAL);
  options.backing_file = "/nonexistent/folder/file";
  EXPECT_EQ(create_errno(options), ENOENT);
}

TEST(CapiPool, TheSixtyFifthIsRefusedAsBusy) {
  constexpr unsigned kMost = 64;
  buoy_options options = good_options();
  options.budget = 16 * kMiB;
  std::vector<buoy_pool*> pools(kMost);
  for (buoy_pool*& pool : pools) ASSERT_EQ(buoy_pool_create(&options, &pool), 0) << errno;
  EXPECT_EQ(create_errno(options), EBUSY);
  ASSERT_EQ(buoy_pool_destroy(pools.back()), 0);
  EXPECT_EQ(create_errno(options), 0);
  pools.pop_back();
  for (buoy_pool* pool : pools) EXPECT_EQ(buoy_pool_destroy(pool), 0);
}

TEST(CapiPool, BudgetMayExceedTheMachine) {
  struct sysinfo info {};
  ASSERT_EQ(sysinfo(&info), 0);
  buoy_options options = good_options();
  options.budget = std::size_t{info.totalram} * info.mem_unit * 4;
  buoy_pool* pool = nullptr;
  ASSERT_EQ(buoy_pool_create(&options, &pool), 0) << std::strerror(errno);
  auto* memory = static_cast<std::byte*>(buoy_map(pool, kMiB, 0));
  ASSERT_NE(memory, nullptr);
  stamp_page(memory, 1, 1);
  EXPECT_TRUE(holds_stamp(memory, 1, 1));
  EXPECT_EQ(buoy_unmap(memory, kMiB), 0);
  EXPECT_EQ(buoy_pool_destroy(pool), 0);
}

TEST(CapiPool, DestroyIsRefusedWhileSomethingIsMapped) {
  TestPool pool(Delivery::kSignal, kBudget);
  ASSERT_EQ(pool.why_not(), "");
  void* memory = buoy_map(pool.get(), kPageSize, 0);
  EXPECT_EQ(pool.destroy(), EBUSY);
  stamp_page(static_cast<std::byte*>(memory), 1, 1);
  EXPECT_EQ(buoy_unmap(memory, kPageSize), 0);
  buoy_pool* gone = pool.get();
  EXPECT_EQ(pool.destroy(), 0);
  EXPECT_EQ(errno_of([&] { return buoy_pool_destroy(gone) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([] { return buoy_pool_destroy(nullptr) == 0; }), EINVAL);
}

TEST(CapiPool, ThereIsALimitAndPoolsComeAndGo) {
  std::vector<buoy_pool*> pools;
  const buoy_options options = good_options();
  for (;;) {
    buoy_pool* pool = nullptr;
    if (buoy_pool_create(&options, &pool) != 0) break;
    pools.push_back(pool);
    ASSERT_LE(pools.size(), 1000U);
  }
  EXPECT_TRUE(errno == EBUSY || errno == ENOMEM) << errno << " after " << pools.size();
  EXPECT_GE(pools.size(), 16U);
  for (buoy_pool* pool : pools) EXPECT_EQ(buoy_pool_destroy(pool), 0);
  EXPECT_EQ(create_errno(options), 0);
}

// ---- With a pool ------------------------------------------------------------------------------

class Capi : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(pool_.why_not(), ""); }
  [[nodiscard]] std::byte* map(std::size_t pages, unsigned flags = 0) const {
    auto* memory = static_cast<std::byte*>(buoy_map(pool_.get(), pages * kPageSize, flags));
    EXPECT_NE(memory, nullptr);
    return memory;
  }
  static void unmap(void* memory, std::size_t pages) {
    EXPECT_EQ(buoy_unmap(memory, pages * kPageSize), 0);
  }
  // Three pages, stamped, with a hole in the middle.
  [[nodiscard]] std::byte* map_with_hole() const {
    std::byte* memory = map(3);
    for (std::size_t i = 0; i < 3; ++i) stamp_page(memory + i * kPageSize, 5, i + 1);
    unmap(memory + kPageSize, 1);
    return memory;
  }
  static bool is_as_stamped(const std::byte* memory) {
    return holds_stamp(memory, 5, 1) && holds_stamp(memory + 2 * kPageSize, 5, 3);
  }
  static unsigned char residency_of(std::byte* page) {
    unsigned char where = 0xff;
    EXPECT_EQ(buoy_residency(page, kPageSize, &where), 0);
    return where;
  }

  TestPool pool_{Delivery::kSignal, kBudget};
};

// Every call that takes a range, as one.
struct RangeCall {
  const char* name;
  bool (*call)(void*, std::size_t);
};
unsigned char residency_answers[16];
constexpr RangeCall kRangeCalls[] = {
    {"unmap", [](void* p, std::size_t n) { return buoy_unmap(p, n) == 0; }},
    {"remap", [](void* p, std::size_t n) { return buoy_remap(p, n, kPageSize) != nullptr; }},
    {"free", [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_FREE) == 0; }},
    {"free until reuse",
     [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_FREE_UNTIL_REUSE) == 0; }},
    {"reuse", [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_REUSE) == 0; }},
    {"dontneed", [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_DONTNEED) == 0; }},
    {"cold", [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_COLD) == 0; }},
    {"pageout", [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_PAGEOUT) == 0; }},
    {"willneed", [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_WILLNEED) == 0; }},
    {"populate", [](void* p, std::size_t n) { return buoy_advise(p, n, BUOY_POPULATE) == 0; }},
    {"pin", [](void* p, std::size_t n) { return buoy_pin(p, n, 0) == 0; }},
    {"unpin", [](void* p, std::size_t n) { return buoy_unpin(p, n, 0) == 0; }},
    {"residency",
     [](void* p, std::size_t n) { return buoy_residency(p, n, residency_answers) == 0; }},
};

TEST_F(Capi, BadRangesAreRefusedAndChangeNothing) {
  std::byte* memory = map_with_hole();
  alignas(kPageSize) static std::byte foreign[kPageSize];
  for (const RangeCall& c : kRangeCalls) {
    const auto error = [&c](void* p, std::size_t n) {
      return errno_of([&] { return c.call(p, n); });
    };
    EXPECT_EQ(error(memory + 1, kPageSize), EINVAL) << c.name;
    EXPECT_EQ(error(memory + 512, kPageSize), EINVAL) << c.name;
    EXPECT_EQ(error(memory, 0), EINVAL) << c.name;
    EXPECT_EQ(error(memory, SIZE_MAX), EINVAL) << c.name;
    EXPECT_EQ(error(memory, SIZE_MAX - kPageSize), EINVAL) << c.name;
    EXPECT_EQ(error(memory, SIZE_MAX - reinterpret_cast<std::uintptr_t>(memory) + 1), EINVAL)
        << c.name;
    EXPECT_EQ(error(memory, 3 * kPageSize), ENOMEM) << c.name << " over a hole";
    EXPECT_EQ(error(memory + kPageSize, kPageSize), ENOMEM) << c.name << " in a hole";
    EXPECT_EQ(error(memory + 2 * kPageSize, 2 * kPageSize), ENOMEM) << c.name << " past the end";
    EXPECT_EQ(error(foreign, kPageSize), ENOMEM) << c.name << " of foreign memory";
    EXPECT_EQ(error(nullptr, kPageSize), ENOMEM) << c.name << " of null";
    ASSERT_TRUE(is_as_stamped(memory)) << c.name;
    EXPECT_EQ(pool_.stat("pinned_bytes"), 0U) << c.name;
    EXPECT_EQ(pool_.stat("lazyfree_bytes"), 0U) << c.name;
  }
  unmap(memory, 1);
  unmap(memory + 2 * kPageSize, 1);
}

TEST_F(Capi, UnknownFlagsAreRefused) {
  std::byte* memory = map(1);
  EXPECT_EQ(errno_of([&] { return buoy_map(pool_.get(), kPageSize, 16) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_map(pool_.get(), kPageSize, ~0U) != nullptr; }), EINVAL);
  for (const int advice : {0, -1, 7, 100})
    EXPECT_EQ(errno_of([&] { return buoy_advise(memory, kPageSize, advice) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_pin(memory, kPageSize, BUOY_DIRTIED) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_unpin(memory, kPageSize, BUOY_WRITE) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_residency(memory, kPageSize, nullptr) == 0; }), EINVAL);
  unmap(memory, 1);
}

TEST_F(Capi, NullPoolsAreRefused) {
  std::uint64_t value = 0;
  EXPECT_EQ(errno_of([] { return buoy_map(nullptr, kPageSize, 0) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([] { return buoy_pool_resize(nullptr, kBudget) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([] { return buoy_pool_reclaim(nullptr, 0) >= 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_pool_stat(nullptr, "pgfault", &value) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_pool_stat(pool_.get(), nullptr, &value) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_pool_stat(pool_.get(), "pgfault", nullptr) == 0; }), EINVAL);
}

// ---- Statistics -------------------------------------------------------------------------------

TEST_F(Capi, EveryPromisedStatisticExists) {
  for (const char* name : {"budget_bytes",
                           "resident_bytes",
                           "resident_peak_bytes",
                           "standby_bytes",
                           "lazyfree_bytes",
                           "volatile_bytes",
                           "compressed_bytes",
                           "compressed_original_bytes",
                           "backing_file_bytes",
                           "metadata_bytes",
                           "pagetable_bytes",
                           "pinned_bytes",
                           "pgpurged",
                           "tlb_flush_calls",
                           "pgfault",
                           "pgmajfault",
                           "pglazyfree",
                           "pglazyfreed",
                           "pswpin",
                           "pswpout",
                           "pgsteal_direct",
                           "balloon_inflate",
                           "balloon_deflate",
                           "balloon_migrate"}) {
    std::uint64_t value = ~std::uint64_t{0};
    EXPECT_EQ(buoy_pool_stat(pool_.get(), name, &value), 0) << name;
    EXPECT_NE(value, ~std::uint64_t{0}) << name;
  }
  EXPECT_EQ(pool_.stat("budget_bytes"), kBudget);
}

// With a file below, compressed pages must not push out everything that is mapped.
TEST(CapiPool, ThePoolLeavesRoomForMappedPagesWhereThereIsAFile) {
  buoy_options options = good_options();
  options.backing_file = "auto";
  buoy_pool* pool = nullptr;
  ASSERT_EQ(buoy_pool_create(&options, &pool), 0);
  const auto stat = [pool](const char* name) {
    std::uint64_t value = 0;
    EXPECT_EQ(buoy_pool_stat(pool, name, &value), 0) << name;
    return value;
  };
  constexpr std::size_t kLength = 4 * kBudget;
  auto* memory = static_cast<std::byte*>(buoy_map(pool, kLength, 0));
  ASSERT_NE(memory, nullptr);
  for (int round = 1; round <= 3; ++round)
    for (std::size_t at = 0; at < kLength; at += kPageSize)
      stamp_page(memory + at, at, static_cast<std::uint64_t>(round));
  if (stat("backing_file_bytes") == 0) {
    EXPECT_EQ(buoy_unmap(memory, kLength), 0);
    EXPECT_EQ(buoy_pool_destroy(pool), 0);
    GTEST_SKIP() << "no backing file: the directory for temporary files lives in memory";
  }
  EXPECT_LT(stat("compressed_bytes"), kBudget / 2);
  EXPECT_GT(stat("resident_bytes") - stat("arena_bytes"), kBudget / 3);
  for (std::size_t at = 0; at < kLength; at += kPageSize)
    ASSERT_TRUE(holds_stamp(memory + at, at, 3)) << at;
  EXPECT_EQ(buoy_unmap(memory, kLength), 0);
  EXPECT_EQ(buoy_pool_destroy(pool), 0);
}

TEST_F(Capi, EveryStatisticThatHasANameCanBeRead) {
  std::set<std::string> names;
  for (std::size_t i = 0; buoy_stat_name(i) != nullptr; ++i) {
    std::uint64_t value = 0;
    EXPECT_EQ(buoy_pool_stat(pool_.get(), buoy_stat_name(i), &value), 0) << buoy_stat_name(i);
    EXPECT_TRUE(names.insert(buoy_stat_name(i)).second) << buoy_stat_name(i) << " twice";
  }
  EXPECT_TRUE(names.contains("budget_bytes"));
  EXPECT_TRUE(names.contains("pgfault"));
  EXPECT_EQ(buoy_stat_name(SIZE_MAX), nullptr);
}

TEST_F(Capi, UnknownStatisticsAreNotFound) {
  std::uint64_t value = 42;
  for (const char* name : {"", "budget", "budget_bytes ", "PGFAULT", "no_such_thing"}) {
    EXPECT_EQ(errno_of([&] { return buoy_pool_stat(pool_.get(), name, &value) == 0; }), ENOENT);
    EXPECT_EQ(value, 42U);
  }
}

// ---- Mapping ----------------------------------------------------------------------------------

TEST_F(Capi, LengthsAreRoundedUp) {
  auto* memory = static_cast<std::byte*>(buoy_map(pool_.get(), kPageSize + 1, 0));
  ASSERT_NE(memory, nullptr);
  stamp_page(memory + kPageSize, 1, 1);
  EXPECT_EQ(buoy_unmap(memory, kPageSize + 1), 0);
  EXPECT_EQ(errno_of([&] { return buoy_unmap(memory + kPageSize, kPageSize) == 0; }), ENOMEM);
}

TEST_F(Capi, ImpossibleMappingsAreRefused) {
  EXPECT_EQ(errno_of([&] { return buoy_map(pool_.get(), 0, 0) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_map(pool_.get(), SIZE_MAX, 0) != nullptr; }), ENOMEM);
  EXPECT_EQ(errno_of([&] { return buoy_map(pool_.get(), kTiB * 1000, 0) != nullptr; }), ENOMEM);
  std::byte* memory = map(2);
  stamp_page(memory, 1, 1);
  for (const std::size_t length : {std::size_t{0}, SIZE_MAX})
    EXPECT_EQ(errno_of([&] { return buoy_remap(memory, 2 * kPageSize, length) != nullptr; }),
              EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_remap(memory, 2 * kPageSize, kTiB * 1000) != nullptr; }),
            ENOMEM);
  EXPECT_TRUE(holds_stamp(memory, 1, 1));
  unmap(memory, 2);
}

TEST_F(Capi, RemapKeepsContents) {
  std::byte* memory = map(700);
  for (std::size_t i = 0; i < 700; ++i) stamp_page(memory + i * kPageSize, 1, i + 1);
  EXPECT_EQ(buoy_advise(memory, 100 * kPageSize, BUOY_PAGEOUT), 0);
  std::byte* wall = map(1);  // where the mapping would grow to
  auto* moved = static_cast<std::byte*>(buoy_remap(memory, 700 * kPageSize, 900 * kPageSize));
  ASSERT_NE(moved, nullptr);
  for (std::size_t i = 0; i < 700; ++i)
    ASSERT_TRUE(holds_stamp(moved + i * kPageSize, 1, i + 1)) << i;
  for (std::size_t i = 700; i < 900; ++i) ASSERT_TRUE(holds_stamp(moved + i * kPageSize, 0, 0));
  EXPECT_EQ(buoy_remap(moved, 900 * kPageSize, 10 * kPageSize), moved);
  EXPECT_EQ(errno_of([&] { return buoy_unmap(moved, 11 * kPageSize) == 0; }), ENOMEM);
  unmap(moved, 10);
  unmap(wall, 1);
  pool_.validate();
}

TEST_F(Capi, ATebibyteCostsNothingUntilTouched) {
  const std::uint64_t before = pool_.stat("metadata_bytes");
  auto* memory = static_cast<std::byte*>(buoy_map(pool_.get(), kTiB, 0));
  ASSERT_NE(memory, nullptr);
  // But for two bits a block, which become resident with the blocks they tell of.
  EXPECT_LE(pool_.stat("metadata_bytes"), before + kTiB / kBlockSize / 4 + 2 * kPageSize);
  EXPECT_EQ(pool_.stat("resident_bytes"), pool_.stat("arena_bytes"));
  // Sparsely touched, it holds more places than the budget has pages.
  constexpr std::size_t kStride = 64 * kMiB;
  constexpr std::size_t kPlaces = 12'000;
  static_assert(kStride * kPlaces < kTiB);
  for (std::size_t i = 0; i < kPlaces; ++i) stamp_page(memory + i * kStride, 1, i + 1);
  for (std::size_t i = 0; i < kPlaces; ++i)
    ASSERT_TRUE(holds_stamp(memory + i * kStride, 1, i + 1)) << i;
  EXPECT_LE(pool_.stat("resident_peak_bytes"), kBudget);
  EXPECT_EQ(buoy_unmap(memory, kTiB), 0);
  pool_.validate();
}

TEST_F(Capi, MetadataStaysSmall) {
  const std::uint64_t before = pool_.stat("metadata_bytes");
  constexpr std::size_t kTouched = 24 * kMiB;
  std::byte* memory = map(kTouched / kPageSize);
  for (std::size_t i = 0; i < kTouched / kPageSize; ++i) stamp_page(memory + i * kPageSize, 1, 1);
  // 1.5 % of what may be resident, and 16 bytes a page of touched address space.
  const std::uint64_t allowed = kBudget * 15 / 1000 + kTouched / kPageSize * 16;
  EXPECT_LE(pool_.stat("metadata_bytes") - before, allowed);
  unmap(memory, kTouched / kPageSize);
}

// ---- Advice -----------------------------------------------------------------------------------

TEST_F(Capi, AdviceDoesWhatItSays) {
  std::byte* memory = map(6);
  for (std::size_t i = 0; i < 6; ++i) stamp_page(memory + i * kPageSize, 2, i + 1);
  EXPECT_EQ(residency_of(memory), BUOY_PAGE_MAPPED);
  EXPECT_EQ(buoy_advise(memory, kPageSize, BUOY_DONTNEED), 0);
  EXPECT_EQ(residency_of(memory), BUOY_PAGE_EMPTY);
  EXPECT_TRUE(holds_stamp(memory, 0, 0));
  std::byte* page = memory + kPageSize;
  EXPECT_EQ(buoy_advise(page, kPageSize, BUOY_FREE), 0);
  EXPECT_EQ(residency_of(page), BUOY_PAGE_LAZYFREE);
  EXPECT_EQ(pool_.stat("lazyfree_bytes"), kPageSize);
  EXPECT_EQ(pool_.stat("resident_without_lazyfree_bytes"),
            pool_.stat("resident_bytes") - kPageSize);
  EXPECT_EQ(buoy_advise(page, kPageSize, BUOY_REUSE), 0);
  EXPECT_EQ(residency_of(page), BUOY_PAGE_MAPPED);
  EXPECT_EQ(pool_.stat("lazyfree_bytes"), 0U);
  EXPECT_TRUE(holds_stamp(page, 2, 2));
  page += kPageSize;
  EXPECT_EQ(buoy_advise(page, 2 * kPageSize, BUOY_PAGEOUT), 0);
  EXPECT_EQ(residency_of(page), BUOY_PAGE_COMPRESSED);
  EXPECT_EQ(buoy_advise(page, 2 * kPageSize, BUOY_WILLNEED), 0);
  EXPECT_EQ(residency_of(page), BUOY_PAGE_MAPPED);
  EXPECT_TRUE(holds_stamp(page, 2, 3));
  EXPECT_EQ(buoy_advise(page, kPageSize, BUOY_COLD), 0);
  EXPECT_TRUE(holds_stamp(page, 2, 3));
  unmap(memory, 6);
  pool_.validate();
}

TEST_F(Capi, LockedMemoryIsRefusedAsMadviseWould) {
  std::byte* memory = map(8);
  for (std::size_t i = 0; i < 8; ++i) stamp_page(memory + i * kPageSize, 2, i + 1);
  std::byte* locked = memory + 4 * kPageSize;
  // Past the C library: sanitizers put a mlock in its place that does nothing.
  if (syscall(SYS_mlock, locked, kPageSize) != 0) GTEST_SKIP() << "mlock: " << strerror(errno);
  for (const int advice : {BUOY_FREE, BUOY_DONTNEED, BUOY_COLD, BUOY_PAGEOUT}) {
    EXPECT_EQ(errno_of([&] { return buoy_advise(memory, 8 * kPageSize, advice) == 0; }), EINVAL);
    for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(residency_of(memory + i * kPageSize), 1) << i;
  }
  for (const int advice : {BUOY_REUSE, BUOY_WILLNEED})
    EXPECT_EQ(buoy_advise(memory, 8 * kPageSize, advice), 0);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_TRUE(holds_stamp(memory + i * kPageSize, 2, i + 1));
  // This one does not ask. The locked page stays as it is; the others go.
  EXPECT_EQ(buoy_advise(memory, 8 * kPageSize, BUOY_FREE_UNTIL_REUSE), 0);
  EXPECT_EQ(buoy_pool_reclaim(pool_.get(), 7 * kPageSize), static_cast<ssize_t>(7 * kPageSize));
  EXPECT_EQ(pool_.stat("lazyfree_bytes"), kPageSize);
  pool_.validate();
  for (std::size_t i = 0; i < 8; ++i) {
    const bool is_locked = i == 4;
    EXPECT_TRUE(holds_stamp(memory + i * kPageSize, is_locked ? 2 : 0, is_locked ? 5 : 0)) << i;
  }
  ASSERT_EQ(syscall(SYS_munlock, locked, kPageSize), 0);
  unmap(memory, 8);
}

TEST_F(Capi, ReclaimSaysWhatItFreed) {
  std::byte* memory = map(1000);
  for (std::size_t i = 0; i < 1000; ++i) stamp_page(memory + i * kPageSize, 2, i + 1);
  const std::uint64_t before = pool_.stat("resident_bytes");
  EXPECT_EQ(buoy_pool_reclaim(pool_.get(), 0), 0);
  const ssize_t freed = buoy_pool_reclaim(pool_.get(), 500 * kPageSize);
  EXPECT_GE(freed, static_cast<ssize_t>(500 * kPageSize));
  // The arena may have taken a block or two for what was compressed.
  EXPECT_LE(pool_.stat("resident_bytes") + static_cast<std::size_t>(freed),
            before + 2 * kBlockSize);
  EXPECT_GT(buoy_pool_reclaim(pool_.get(), SIZE_MAX), 0);
  for (std::size_t i = 0; i < 1000; ++i) ASSERT_TRUE(holds_stamp(memory + i * kPageSize, 2, i + 1));
  unmap(memory, 1000);
}

// ---- Pins -------------------------------------------------------------------------------------

TEST_F(Capi, PinsNestAndHold) {
  std::byte* memory = map(4);
  stamp_page(memory, 1, 1);
  EXPECT_EQ(buoy_pin(memory, 2 * kPageSize, 0), 0);
  EXPECT_EQ(buoy_pin(memory, kPageSize, BUOY_WRITE), 0);
  EXPECT_EQ(pool_.stat("pinned_bytes"), 2 * kPageSize);
  EXPECT_EQ(buoy_advise(memory, 4 * kPageSize, BUOY_PAGEOUT), 0);
  EXPECT_EQ(residency_of(memory), BUOY_PAGE_MAPPED);
  // The second page has one pin only: nothing is changed.
  EXPECT_EQ(buoy_unpin(memory, 2 * kPageSize, 0), 0);
  EXPECT_EQ(errno_of([&] { return buoy_unpin(memory, 2 * kPageSize, 0) == 0; }), EINVAL);
  EXPECT_EQ(pool_.stat("pinned_bytes"), kPageSize);
  EXPECT_EQ(buoy_unpin(memory, kPageSize, BUOY_DIRTIED), 0);
  EXPECT_EQ(pool_.stat("pinned_bytes"), 0U);
  EXPECT_EQ(buoy_advise(memory, kPageSize, BUOY_PAGEOUT), 0);
  EXPECT_EQ(residency_of(memory), BUOY_PAGE_COMPRESSED);
  EXPECT_TRUE(holds_stamp(memory, 1, 1));
  unmap(memory, 4);
}

TEST_F(Capi, APinThatCannotFitIsRefused) {
  std::byte* memory = map(2 * kBudget / kPageSize);
  stamp_page(memory, 1, 1);
  EXPECT_EQ(errno_of([&] { return buoy_pin(memory, 2 * kBudget, 0) == 0; }), EAGAIN);
  EXPECT_EQ(pool_.stat("pinned_bytes"), 0U);
  EXPECT_TRUE(holds_stamp(memory, 1, 1));
  unmap(memory, 2 * kBudget / kPageSize);
}

// ---- Resize -----------------------------------------------------------------------------------

TEST_F(Capi, ResizeShrinksByReclaiming) {
  constexpr std::size_t kPages = 24 * kMiB / kPageSize;
  std::byte* memory = map(kPages);
  for (std::size_t i = 0; i < kPages; ++i) stamp_page(memory + i * kPageSize, 1, i + 1);
  EXPECT_EQ(errno_of([&] { return buoy_pool_resize(pool_.get(), 0) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_pool_resize(pool_.get(), 16 * kMiB - 1) == 0; }), EINVAL);
  EXPECT_EQ(pool_.stat("budget_bytes"), kBudget);
  ASSERT_EQ(buoy_pool_resize(pool_.get(), 20 * kMiB), 0);
  EXPECT_EQ(pool_.stat("budget_bytes"), 20 * kMiB);
  EXPECT_LE(pool_.stat("resident_bytes"), 20 * kMiB);
  ASSERT_EQ(buoy_pool_resize(pool_.get(), 64 * kMiB), 0);
  for (std::size_t i = 0; i < kPages; ++i)
    ASSERT_TRUE(holds_stamp(memory + i * kPageSize, 1, i + 1));
  ASSERT_EQ(buoy_pin(memory, kPages * kPageSize, 0), 0);
  EXPECT_EQ(errno_of([&] { return buoy_pool_resize(pool_.get(), 16 * kMiB) == 0; }), EAGAIN);
  EXPECT_EQ(pool_.stat("budget_bytes"), 64 * kMiB);
  EXPECT_EQ(buoy_unpin(memory, kPages * kPageSize, 0), 0);
  unmap(memory, kPages);
  pool_.validate();
}

TEST_F(Capi, DroppableMemoryReadsZerosOnceDropped) {
  std::byte* memory = map(64, BUOY_DROPPABLE);
  for (std::size_t i = 0; i < 64; ++i) stamp_page(memory + i * kPageSize, 1, i + 1);
  EXPECT_TRUE(holds_stamp(memory, 1, 1));
  EXPECT_EQ(buoy_advise(memory, 64 * kPageSize, BUOY_PAGEOUT), 0);
  for (std::size_t i = 0; i < 64; ++i) ASSERT_TRUE(holds_stamp(memory + i * kPageSize, 0, 0));
  EXPECT_EQ(pool_.stat("pswpout"), 0U);
  EXPECT_EQ(pool_.stat("pgdropped"), 64U);
  unmap(memory, 64);
}

TEST_F(Capi, HugeMappingsFillByTheBlock) {
  std::byte* memory = map(2 * kPagesPerBlock, BUOY_HUGE);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % kBlockSize, 0U);
  stamp_page(memory + 5 * kPageSize, 1, 1);
  EXPECT_EQ(residency_of(memory + 500 * kPageSize), BUOY_PAGE_MAPPED);
  EXPECT_EQ(residency_of(memory + 600 * kPageSize), BUOY_PAGE_EMPTY);
  EXPECT_EQ(pool_.stat("thp_fault_alloc"), 1U);
  EXPECT_EQ(buoy_advise(memory, kBlockSize, BUOY_PAGEOUT), 0);
  EXPECT_TRUE(holds_stamp(memory + 5 * kPageSize, 1, 1));
  unmap(memory, 2 * kPagesPerBlock);
  pool_.validate();
}

}  // namespace
}  // namespace buoy::testing
