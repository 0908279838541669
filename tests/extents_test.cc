// ctest: timeout=120
//
// Extents: what an allocator gets from a pool stays as stored while it has it, is lazily freed when
// it gives it back, and is never another's.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <thread>
#include <vector>

#include "api/extents.h"
#include "buoy/buoy.h"
#include "churn_testing.h"
#include "pool_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBudget = 32 * kMiB;
constexpr std::size_t kChunk = 4 * kMiB;

using Block = StampedBlock;

class Extents : public ::testing::TestWithParam<Delivery> {
 protected:
  void SetUp() override {
    ASSERT_EQ(pool_.why_not(), "");
    ASSERT_EQ(buoy_extents_create(pool_.get(), kChunk, 0, &extents_), 0);
  }
  void TearDown() override {
    pool_.validate();
    end();
    EXPECT_EQ(pool_.destroy(), 0);
  }
  void end() {
    if (extents_ != nullptr) {
      EXPECT_EQ(buoy_extents_destroy(extents_), 0);
    }
    extents_ = nullptr;
  }
  [[nodiscard]] Block allocate(std::size_t bytes, std::size_t alignment = 1,
                               int* zeroed = nullptr) {
    static std::uint64_t owner = 0;
    return {static_cast<std::byte*>(buoy_extents_alloc(extents_, bytes, alignment, zeroed)), bytes,
            ++owner};
  }
  [[nodiscard]] Block allocate_stamped(std::size_t bytes, std::size_t alignment = 1) {
    const Block b = allocate(bytes, alignment);
    EXPECT_NE(b.at, nullptr);
    b.stamp();
    return b;
  }
  [[nodiscard]] BlockSource source() const {
    return {[e = extents_](std::size_t bytes, std::size_t alignment) {
              return buoy_extents_alloc(e, bytes, alignment, nullptr);
            },
            [e = extents_](const Block& b) { return buoy_extents_free(e, b.at, b.bytes) == 0; }};
  }
  void free(const Block& b) { EXPECT_EQ(buoy_extents_free(extents_, b.at, b.bytes), 0); }
  [[nodiscard]] std::uint64_t stat(const char* name) const { return pool_.stat(name); }

  TestPool pool_{GetParam(), kBudget};
  buoy_extents* extents_ = nullptr;
};

TEST_P(Extents, FreshMemoryIsZeroAndUsedMemoryIsNotCalledSo) {
  int zeroed = -1;
  const Block fresh = allocate(8 * kPageSize, 1, &zeroed);
  EXPECT_EQ(zeroed, 1);
  EXPECT_TRUE(holds_stamp(fresh.at, 0, 0));
  fresh.stamp();
  free(fresh);
  const Block again = allocate(8 * kPageSize, 1, &zeroed);
  EXPECT_EQ(again.at, fresh.at);
  EXPECT_EQ(zeroed, 0);
  EXPECT_TRUE(fresh.is_as_stamped()) << "nothing wanted the memory";
}

TEST_P(Extents, FreeAndReuseCostNoFault) {
  const Block b = allocate_stamped(kMiB);
  const std::uint64_t faults = stat("pgfault");
  const std::uint64_t flushes = stat("tlb_flush_calls");
  for (std::uint64_t round = 0; round < 10; ++round) {
    free(b);
    EXPECT_EQ(stat("lazyfree_bytes"), kMiB);
    ASSERT_EQ(allocate(kMiB).at, b.at);
    EXPECT_EQ(stat("lazyfree_bytes"), 0U);
    b.stamp();
  }
  EXPECT_EQ(stat("pgfault"), faults);
  EXPECT_EQ(stat("tlb_flush_calls"), flushes);
  EXPECT_GE(buoy_pool_reclaim(pool_.get(), kBudget), 0);
  EXPECT_TRUE(b.is_as_stamped()) << "it was in use";
}

TEST_P(Extents, WhatIsFreeGoesFirstAndWithoutBeingCompressed) {
  const Block kept = allocate_stamped(2 * kMiB);
  const Block freed = allocate_stamped(8 * kMiB);
  free(freed);
  EXPECT_GE(buoy_pool_reclaim(pool_.get(), 8 * kMiB), static_cast<ssize_t>(8 * kMiB));
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_EQ(stat("pswpout"), 0U);
  EXPECT_EQ(allocate(8 * kMiB).at, freed.at);
  EXPECT_TRUE(holds_stamp(freed.at, 0, 0));
  EXPECT_TRUE(kept.is_as_stamped());
}

TEST_P(Extents, AnyPartMayBeFreedAndNeighboursAsOne) {
  const Block a = allocate_stamped(16 * kPageSize);
  const Block b = allocate_stamped(16 * kPageSize);
  ASSERT_EQ(b.at, a.at + a.bytes);
  EXPECT_EQ(buoy_extents_free(extents_, a.at + 8 * kPageSize, 16 * kPageSize), 0);
  EXPECT_EQ(buoy_extents_allocated(extents_), 16 * kPageSize);
  EXPECT_EQ(allocate(17 * kPageSize).at, b.at + b.bytes) << "too long for the gap";
  EXPECT_EQ(allocate(16 * kPageSize).at, a.at + 8 * kPageSize);
  for (std::size_t i = 0; i < 8; ++i)
    EXPECT_TRUE(holds_stamp(a.at + i * kPageSize, a.owner, i + 1));
  for (std::size_t i = 8; i < 16; ++i)
    EXPECT_TRUE(holds_stamp(b.at + i * kPageSize, b.owner, i + 1));
}

TEST_P(Extents, WhatIsFreeBehindExtendsInPlace) {
  const Block b = allocate_stamped(4 * kPageSize);
  std::byte* const behind = b.at + b.bytes;
  int zeroed = -1;
  EXPECT_EQ(buoy_extents_alloc_at(extents_, behind, 4 * kPageSize, &zeroed), behind);
  EXPECT_EQ(zeroed, 1);
  EXPECT_TRUE(holds_stamp(behind, 0, 0));
  EXPECT_EQ(buoy_extents_alloc_at(extents_, behind, 4 * kPageSize, &zeroed), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(buoy_extents_alloc_at(extents_, b.at + 1, kPageSize, nullptr), nullptr);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(buoy_extents_alloc_at(extents_, b.at + 4 * kChunk, kPageSize, nullptr), nullptr);
  EXPECT_EQ(errno, ENOMEM);
  EXPECT_EQ(buoy_extents_free(extents_, behind, 4 * kPageSize), 0);
  EXPECT_EQ(buoy_extents_alloc_at(extents_, behind + kPageSize, 2 * kPageSize, &zeroed),
            behind + kPageSize);
  EXPECT_EQ(zeroed, 0);
  EXPECT_EQ(buoy_extents_allocated(extents_), 6 * kPageSize);
  EXPECT_EQ(buoy_extents_alloc_at(extents_, behind, 2 * kPageSize, nullptr), nullptr);
  EXPECT_TRUE(b.is_as_stamped());
}

TEST_P(Extents, EverySizeAtEveryAlignment) {
  std::vector<Block> blocks;
  for (const std::size_t bytes :
       {std::size_t{1}, kPageSize + 1, 600 * kPageSize, kChunk, 3 * kChunk})
    for (const std::size_t alignment :
         {std::size_t{1}, std::size_t{64}, kPageSize, kMiB, 2 * kMiB}) {
      const Block b = allocate(bytes, alignment);
      ASSERT_NE(b.at, nullptr);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.at) % std::max(alignment, kPageSize), 0U);
      b.at[0] = b.at[bytes - 1] = static_cast<std::byte>(blocks.size() + 1);
      blocks.push_back(b);
    }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_EQ(blocks[i].at[0], static_cast<std::byte>(i + 1));
    EXPECT_EQ(blocks[i].at[blocks[i].bytes - 1], static_cast<std::byte>(i + 1));
    free(blocks[i]);
  }
  EXPECT_EQ(buoy_extents_allocated(extents_), 0U);
}

TEST_P(Extents, TrimUnmapsWhatIsWhollyFree) {
  const Block kept = allocate_stamped(kChunk);
  const Block freed = allocate_stamped(3 * kChunk);
  unsigned char where = 0;
  free(freed);
  EXPECT_EQ(buoy_extents_trim(extents_), 0);
  EXPECT_EQ(buoy_residency(freed.at, kPageSize, &where), -1);
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_TRUE(kept.is_as_stamped());
  const Block more = allocate_stamped(3 * kChunk);
  EXPECT_TRUE(more.is_as_stamped());
  free(kept);
  free(more);
  EXPECT_EQ(buoy_extents_trim(extents_), 0);
  EXPECT_EQ(buoy_residency(kept.at, kPageSize, &where), -1);
}

TEST_P(Extents, APoolWithExtentsStays) {
  EXPECT_EQ(pool_.destroy(), EBUSY);
  const std::uint64_t metadata = stat("metadata_bytes");
  buoy_extents* more = nullptr;
  ASSERT_EQ(buoy_extents_create(pool_.get(), 0, BUOY_HUGE, &more), 0);
  EXPECT_GT(stat("metadata_bytes"), metadata);
  EXPECT_EQ(buoy_extents_destroy(more), 0);
  EXPECT_EQ(stat("metadata_bytes"), metadata);
}

// The free runs that there can be are used up: what cannot be freed is its owner's as before.
TEST_P(Extents, WhatCannotBeFreedStaysItsOwners) {
  constexpr std::uint32_t kRuns = 8;
  auto made = buoy::Extents::create(pool_.engine(), kChunk, MapFlags::kNone, kRuns);
  ASSERT_TRUE(made.ok());
  buoy::Extents& few = **made;
  constexpr std::size_t kPages = 4 * kRuns;
  auto got = few.allocate(kPages * kPageSize, 1);
  ASSERT_TRUE(got.ok());
  const Block all{static_cast<std::byte*>(got->address), kPages * kPageSize, 1};
  all.stamp();
  std::size_t at = 0;
  Status s;
  for (; s.ok() && at < kPages; at += 2) s = few.free(all.at + at * kPageSize, kPageSize);
  ASSERT_EQ(s.code(), ENOMEM);
  at -= 2;
  EXPECT_EQ(few.allocated_bytes(), (kPages - at / 2) * kPageSize);
  EXPECT_EQ(stat("lazyfree_bytes"), at / 2 * kPageSize);
  const Block kept{all.at + at * kPageSize, kPageSize, 2};
  kept.stamp();
  (void)buoy_pool_reclaim(pool_.get(), kPages * kPageSize);
  EXPECT_TRUE(kept.is_as_stamped());
  EXPECT_TRUE(buoy::Extents::destroy(&few).ok());
}

TEST_P(Extents, BadInputIsRefusedAndChangesNothing) {
  buoy_extents* none = nullptr;
  const auto refuses = [](int result, int error) { return result == -1 && errno == error; };
  EXPECT_TRUE(refuses(buoy_extents_create(nullptr, 0, 0, &none), EINVAL));
  EXPECT_TRUE(refuses(buoy_extents_create(pool_.get(), 0, 0, nullptr), EINVAL));
  EXPECT_TRUE(refuses(buoy_extents_create(pool_.get(), 0, BUOY_DROPPABLE, &none), EINVAL));
  EXPECT_TRUE(refuses(buoy_extents_create(pool_.get(), 0, 1U << 20, &none), EINVAL));
  EXPECT_TRUE(refuses(buoy_extents_create(pool_.get(), SIZE_MAX, 0, &none), EINVAL));
  EXPECT_EQ(none, nullptr);
  EXPECT_TRUE(refuses(buoy_extents_destroy(nullptr), EINVAL));
  EXPECT_TRUE(refuses(buoy_extents_trim(nullptr), EINVAL));

  const auto cannot_have = [this](std::size_t bytes, std::size_t alignment, int error) {
    return buoy_extents_alloc(extents_, bytes, alignment, nullptr) == nullptr && errno == error;
  };
  EXPECT_TRUE(cannot_have(0, 1, EINVAL));
  EXPECT_TRUE(cannot_have(1, 0, EINVAL));
  EXPECT_TRUE(cannot_have(1, 3 * kPageSize, EINVAL));
  EXPECT_TRUE(cannot_have(SIZE_MAX, 1, ENOMEM));
  EXPECT_TRUE(cannot_have(std::size_t{1} << 47, 1, ENOMEM));
  EXPECT_TRUE(cannot_have(1, std::size_t{1} << 63, ENOMEM));

  const Block b = allocate_stamped(4 * kPageSize);
  const Block behind = allocate_stamped(4 * kPageSize);
  const auto cannot_free = [this](void* at, std::size_t bytes) {
    return buoy_extents_free(extents_, at, bytes) == -1 && errno == EINVAL;
  };
  EXPECT_TRUE(cannot_free(b.at + 1, kPageSize));
  EXPECT_TRUE(cannot_free(b.at, 0));
  EXPECT_TRUE(cannot_free(b.at, SIZE_MAX));
  EXPECT_TRUE(cannot_free(nullptr, kPageSize));
  EXPECT_TRUE(cannot_free(b.at, 9 * kPageSize)) << "the last was never allocated";
  EXPECT_TRUE(cannot_free(&none, kPageSize));
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  free(b);
  EXPECT_TRUE(cannot_free(b.at, b.bytes)) << "free already";
  EXPECT_TRUE(cannot_free(b.at, b.bytes + behind.bytes)) << "free in part";
  EXPECT_EQ(stat("lazyfree_bytes"), b.bytes);
  EXPECT_TRUE(behind.is_as_stamped());
}

TEST_P(Extents, ContentsStayWhereTheSetIsLargerThanTheBudget) {
  EXPECT_TRUE(churn(source(), 1, kBudget + kBudget / 8, 400));
  EXPECT_GT(stat("pswpout"), 0U);
  EXPECT_EQ(buoy_extents_allocated(extents_), 0U);
  EXPECT_LE(stat("resident_peak_bytes"), kBudget);
}

TEST_P(Extents, ThreadsShareThem) {
  EXPECT_TRUE(churn_in_threads(source(), kBudget + kBudget / 8, 150));
  EXPECT_EQ(buoy_extents_allocated(extents_), 0U);
}

// A child goes on with a copy, whatever threads of the parent were about.
TEST_P(Extents, AChildGoesOnWithItsOwn) {
  const Block kept = allocate_stamped(2 * kMiB);
  const Block freed = allocate_stamped(2 * kMiB);
  free(freed);
  std::atomic<bool> stop{false};
  std::thread busy = started_thread([&] {
    while (!stop.load()) {
      const Block b = allocate(64 * kPageSize);
      free(b);
    }
  });
  for (int i = 0; i < 5; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      const bool whole =
          kept.is_as_stamped() && churn(source(), 3, 4 * kMiB, 50) && kept.is_as_stamped();
      _exit(whole ? 0 : 1);
    }
    ASSERT_GT(child, 0);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  stop.store(true);
  busy.join();
  EXPECT_TRUE(kept.is_as_stamped());
}

INSTANTIATE_TEST_SUITE_P(Deliveries, Extents,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& way) { return name_of(way.param); });

}  // namespace
}  // namespace buoy::testing
