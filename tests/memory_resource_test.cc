// ctest: timeout=120
//
// buoy::memory_resource as its users see it: where the bytes are, that they stay, what happens to
// what was freed, and what a refusal leaves behind.

#include "buoy/memory_resource.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <memory_resource>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "churn_testing.h"
#include "pool_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBudget = 32 * kMiB;
constexpr std::size_t kChunk = 4 * kMiB;

using Block = StampedBlock;

class MemoryResource : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(pool_.why_not(), "");
    resource_ = std::make_unique<memory_resource>(pool_.get(), kChunk);
  }

  Block allocate(std::size_t bytes, std::size_t alignment = 1) {
    return {static_cast<std::byte*>(resource_->allocate(bytes, alignment)), bytes, ++owners_,
            alignment};
  }
  Block allocate_stamped(std::size_t bytes) {
    const Block block = allocate(bytes);
    block.stamp();
    return block;
  }
  [[nodiscard]] BlockSource source() const {
    return {[r = resource_.get()](std::size_t bytes, std::size_t alignment) {
              return r->allocate(bytes, alignment);
            },
            [r = resource_.get()](const Block& b) {
              r->deallocate(b.at, b.bytes, b.alignment);
              return true;
            }};
  }
  void free(const Block& block) { resource_->deallocate(block.at, block.bytes, block.alignment); }
  [[nodiscard]] std::uint64_t stat(const char* name) const { return pool_.stat(name); }

  TestPool pool_{Delivery::kSignal, kBudget};
  std::unique_ptr<memory_resource> resource_;
  std::uint64_t owners_ = 0;
};

// Address space for `more` bytes and no more, for as long as it lives.
class AddressSpaceLimit {
 public:
  explicit AddressSpaceLimit(std::size_t more) {
    char text[64];
    const long size = sys::read_file("/proc/self/statm", text, sizeof text - 1);
    EXPECT_GT(size, 0);
    text[std::max(size, 0L)] = 0;
    const std::size_t pages = std::strtoull(text, nullptr, 10);
    EXPECT_EQ(getrlimit(RLIMIT_AS, &before_), 0);
    rlimit limit = before_;
    limit.rlim_cur = pages * kPageSize + more;
    EXPECT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
  }
  ~AddressSpaceLimit() { EXPECT_EQ(setrlimit(RLIMIT_AS, &before_), 0); }
  AddressSpaceLimit(const AddressSpaceLimit&) = delete;
  AddressSpaceLimit& operator=(const AddressSpaceLimit&) = delete;

 private:
  rlimit before_{};
};

// ---- Where the bytes are ----------------------------------------------------------------------

TEST_F(MemoryResource, EverySizeAtEveryAlignmentIsServedAndApart) {
  constexpr std::size_t kSizes[] = {0,        1,          4095,   4096,       4097,
                                    kMiB + 1, kChunk - 1, kChunk, kChunk + 1, 3 * kChunk};
  constexpr std::size_t kAlignments[] = {1, 16, 4096, 8192, 65536, 2 * kMiB, kChunk, 4 * kChunk};
  std::vector<Block> blocks;
  std::map<std::byte*, std::byte*> extents;
  std::size_t bytes = 0;
  for (const std::size_t alignment : kAlignments) {
    for (const std::size_t size : kSizes) {
      const Block b = allocate(size, alignment);
      blocks.push_back(b);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(b.at) % alignment, 0U) << size << '@' << alignment;
      std::byte* const end = b.at + b.pages() * kPageSize;
      const auto next = extents.lower_bound(b.at);
      ASSERT_TRUE(next == extents.end() || end <= next->first) << size << '@' << alignment;
      ASSERT_TRUE(next == extents.begin() || std::prev(next)->second <= b.at);
      extents.emplace(b.at, end);
      bytes += b.pages() * kPageSize;
      stamp_page(b.at, b.owner, 1);
      stamp_page(end - kPageSize, b.owner, 1);
      EXPECT_EQ(resource_->allocated_bytes(), bytes);
    }
  }
  for (const Block& b : blocks) {
    EXPECT_TRUE(holds_stamp(b.at, b.owner, 1)) << b.bytes << '@' << b.alignment;
    EXPECT_TRUE(holds_stamp(b.at + (b.pages() - 1) * kPageSize, b.owner, 1));
  }
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
  for (const Block& b : blocks) free(b);
  EXPECT_EQ(resource_->allocated_bytes(), 0U);
  pool_.validate();
}

TEST_F(MemoryResource, APieceCutOutOfTheMiddleLeavesBothEndsUsable) {
  const Block odd = allocate_stamped(kPageSize);
  const Block aligned = allocate(kPageSize, kMiB);
  aligned.stamp();
  // What lies between them is handed out before anything behind.
  for (std::size_t gap = aligned.at - odd.at; gap > kPageSize; gap -= kPageSize) {
    const Block between = allocate_stamped(kPageSize);
    EXPECT_LT(between.at, aligned.at);
    ASSERT_GT(between.at, odd.at);
  }
  EXPECT_GT(allocate_stamped(kPageSize).at, aligned.at);
  EXPECT_TRUE(odd.is_as_stamped());
  EXPECT_TRUE(aligned.is_as_stamped());
}

TEST_F(MemoryResource, FreedPiecesInAnyOrderBecomeOneRunAgain) {
  std::mt19937 random(2);
  std::byte* chunk = nullptr;
  for (int round = 0; round < 4; ++round) {
    std::vector<Block> blocks;
    for (std::size_t left = kChunk / kPageSize; left != 0;) {
      const std::size_t pages = std::min<std::size_t>(left, 1 + random() % 64);
      blocks.push_back(allocate_stamped(pages * kPageSize));
      left -= pages;
    }
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (const Block& b : blocks) {
      ASSERT_TRUE(b.is_as_stamped());
      free(b);
    }
    const Block whole = allocate(kChunk);
    if (chunk == nullptr) chunk = whole.at;
    EXPECT_EQ(whole.at, chunk) << "mapped more, in round " << round;
    free(whole);
  }
}

// ---- What was freed ---------------------------------------------------------------------------

TEST_F(MemoryResource, FreedMemoryIsLazilyFreedAndGoesUnderPressure) {
  const Block kept = allocate_stamped(kMiB);
  const Block freed = allocate_stamped(2 * kMiB);
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  const std::uint64_t resident = stat("resident_bytes");
  free(freed);
  EXPECT_EQ(stat("lazyfree_bytes"), 2 * kMiB);
  EXPECT_EQ(stat("pglazyfree"), 2 * kMiB / kPageSize);
  EXPECT_EQ(stat("resident_bytes"), resident);
  EXPECT_EQ(stat("resident_without_lazyfree_bytes"), resident - 2 * kMiB);
  EXPECT_GE(buoy_pool_reclaim(pool_.get(), 2 * kMiB), static_cast<ssize_t>(2 * kMiB));
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_EQ(stat("pglazyfreed"), 2 * kMiB / kPageSize);
  EXPECT_LE(stat("resident_bytes"), resident - 2 * kMiB);
  EXPECT_EQ(stat("pswpout"), 0U);
  EXPECT_TRUE(kept.is_as_stamped());
  const Block again = allocate_stamped(2 * kMiB);
  EXPECT_EQ(again.at, freed.at);
  EXPECT_TRUE(again.is_as_stamped());
  pool_.validate();
}

TEST_F(MemoryResource, ReuseBeforeThatCostsNoFaultAndNoZeroing) {
  const Block first = allocate_stamped(3 * kMiB);
  free(first);
  ASSERT_EQ(stat("lazyfree_bytes"), 3 * kMiB);
  const std::uint64_t faults = stat("pgfault");
  // Smaller ones first: each makes its own part ordinary and no more.
  const Block part = allocate(kMiB);
  ASSERT_EQ(part.at, first.at);
  EXPECT_EQ(stat("lazyfree_bytes"), 2 * kMiB);
  const Block rest = allocate(2 * kMiB);
  ASSERT_EQ(rest.at, first.at + kMiB);
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_TRUE(first.is_as_stamped()) << "nothing wanted the memory, and yet the bytes went";
  part.stamp();
  rest.stamp();
  EXPECT_EQ(stat("pgfault"), faults);
  EXPECT_EQ(stat("pglazyunfreed"), 3 * kMiB / kPageSize);
  // Ordinary: it is kept when memory is wanted.
  EXPECT_GE(buoy_pool_reclaim(pool_.get(), 3 * kMiB), 0);
  EXPECT_TRUE(part.is_as_stamped());
  EXPECT_TRUE(rest.is_as_stamped());
  pool_.validate();
}

TEST_F(MemoryResource, ShortRunsAreLazilyFreedAtOnceAndJoinTheirNeighbours) {
  constexpr std::size_t kRuns = 16;
  std::vector<Block> blocks;
  for (std::size_t i = 0; i <= kRuns; ++i) {
    blocks.push_back(allocate_stamped(kPageSize));
    ASSERT_EQ(blocks.back().at, blocks.front().at + i * kPageSize);
  }
  std::byte* const first = blocks.front().at;
  // The last one stays: it keeps them apart from the rest of the chunk.
  const Block last = blocks.back();
  blocks.pop_back();
  std::shuffle(blocks.begin(), blocks.end(), std::mt19937(3));
  for (std::size_t i = 0; i < kRuns; ++i) {
    EXPECT_EQ(stat("lazyfree_bytes"), i * kPageSize);
    free(blocks[i]);
  }
  EXPECT_EQ(allocate(kRuns * kPageSize).at, first);
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_TRUE(last.is_as_stamped());
}

TEST_F(MemoryResource, ADiscardedPieceNeverTakesItsNeighboursAlong) {
  // Pairs that fill chunks to the end, so that no piece has a free neighbour.
  constexpr std::size_t kFreed = 33 * kPageSize;
  constexpr std::size_t kKept = 31 * kPageSize;
  std::vector<std::pair<Block, Block>> pairs;
  for (std::size_t i = 0; i < 2 * kChunk / (kFreed + kKept); ++i) {
    const Block freed = allocate_stamped(kFreed);
    pairs.emplace_back(freed, allocate_stamped(kKept));
  }
  for (const auto& [freed, kept] : pairs) free(freed);
  EXPECT_EQ(stat("lazyfree_bytes"), pairs.size() * kFreed);
  EXPECT_GE(buoy_pool_reclaim(pool_.get(), kBudget), 0);
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  for (const auto& [freed, kept] : pairs) EXPECT_TRUE(kept.is_as_stamped()) << kept.owner;
}

// ---- Contents ---------------------------------------------------------------------------------

TEST_F(MemoryResource, ContentsStayWhereTheSetIsLargerThanTheBudget) {
  std::vector<Block> blocks;
  std::size_t bytes = 0;
  for (std::size_t i = 0; bytes < kBudget + kBudget / 4; ++i, bytes += blocks.back().bytes)
    blocks.push_back(allocate_stamped(1 + i * 7919 % kMiB));
  for (const Block& b : blocks) ASSERT_TRUE(b.is_as_stamped()) << b.owner;
  EXPECT_GT(stat("pswpout"), 0U);
  EXPECT_LE(stat("resident_peak_bytes"), kBudget);
  // Every other goes; the set fits then, and what was freed is what reclaim takes.
  for (std::size_t i = 0; i < blocks.size(); i += 2) free(blocks[i]);
  for (std::size_t i = 1; i < blocks.size(); i += 2) ASSERT_TRUE(blocks[i].is_as_stamped()) << i;
  for (std::size_t i = 0; i < blocks.size(); i += 2) blocks[i] = allocate_stamped(blocks[i].bytes);
  for (const Block& b : blocks) ASSERT_TRUE(b.is_as_stamped()) << b.owner;
  pool_.validate();
}

TEST_F(MemoryResource, ContentsStayInAnyOrderOfCalls) {
  EXPECT_TRUE(churn(source(), 1, kBudget + kBudget / 8, 300));
  EXPECT_EQ(resource_->allocated_bytes(), 0U);
  pool_.validate();
}

TEST_F(MemoryResource, ThreadsShareIt) {
  EXPECT_TRUE(churn_in_threads(source(), kBudget + kBudget / 8, 100));
  EXPECT_EQ(resource_->allocated_bytes(), 0U);
  pool_.validate();
}

TEST_F(MemoryResource, ServesContainersThroughAPoolOfObjects) {
  {
    std::pmr::synchronized_pool_resource objects(resource_.get());
    std::pmr::map<int, std::pmr::string> texts(&objects);
    std::pmr::vector<std::uint64_t> numbers(&objects);
    for (int i = 0; i < 20000; ++i) {
      texts[i] = std::pmr::string(40 + i % 100, static_cast<char>('a' + i % 26));
      numbers.push_back(i);
    }
    EXPECT_GE(buoy_pool_reclaim(pool_.get(), kBudget), 0);
    for (int i = 0; i < 20000; ++i) {
      ASSERT_EQ(texts[i].size(), 40U + i % 100);
      ASSERT_EQ(texts[i].find_first_not_of(static_cast<char>('a' + i % 26)), std::string::npos);
      ASSERT_EQ(numbers[i], static_cast<std::uint64_t>(i));
    }
  }
  EXPECT_EQ(resource_->allocated_bytes(), 0U);
  EXPECT_GT(stat("lazyfree_bytes"), kMiB);
}

// ---- Refusals, equality, the end --------------------------------------------------------------

TEST_F(MemoryResource, WhatCannotBeServedThrowsAndChangesNothing) {
  const Block block = allocate_stamped(kMiB);
  constexpr std::size_t kTooLarge = std::size_t{1} << 47;
  constexpr std::size_t kTop = std::size_t{1} << 63;
  const std::pair<std::size_t, std::size_t> refused[] = {{SIZE_MAX, 1},
                                                         {SIZE_MAX - kPageSize, 1},
                                                         {SIZE_MAX / 2, 1},
                                                         {SIZE_MAX / 2, kTop},
                                                         {SIZE_MAX / 2 - 1, kMiB},
                                                         {kTooLarge, 1},
                                                         {1, kTooLarge},
                                                         {1, kTop},
                                                         {kPageSize, kTop}};
  const std::uint64_t metadata = stat("metadata_bytes");
  for (const auto& [bytes, alignment] : refused) {
    // Through the base: a constant size would not pass the compiler.
    std::pmr::memory_resource& base = *resource_;
    EXPECT_THROW((void)base.allocate(bytes, alignment), std::bad_alloc)
        << bytes << '@' << alignment;
    EXPECT_EQ(resource_->allocated_bytes(), kMiB);
  }
  EXPECT_EQ(stat("metadata_bytes"), metadata);
  EXPECT_TRUE(block.is_as_stamped());
  EXPECT_EQ(allocate_stamped(kMiB).at, block.at + kMiB);
  pool_.validate();
}

TEST_F(MemoryResource, ExhaustedAddressSpaceThrowsAndServesAgainWhatIsFreed) {
  // The pool takes address space by the GiB.
  constexpr std::size_t kLarge = 256 * kMiB;
  resource_ = std::make_unique<memory_resource>(pool_.get(), kLarge);
  std::vector<Block> blocks;
  {
    const AddressSpaceLimit limit(12 * kLarge);
    EXPECT_THROW(while (blocks.size() <= 12) blocks.push_back(allocate(kLarge)), std::bad_alloc);
    ASSERT_FALSE(blocks.empty());
    EXPECT_EQ(resource_->allocated_bytes(), blocks.size() * kLarge);
    for (const Block& b : blocks) stamp_page(b.at, b.owner, 1);
    free(blocks.back());
    const Block again = allocate(kLarge);
    EXPECT_EQ(again.at, blocks.back().at);
    blocks.back() = again;
    stamp_page(again.at, again.owner, 1);
    EXPECT_THROW((void)allocate(kPageSize), std::bad_alloc);
  }
  for (const Block& b : blocks) EXPECT_TRUE(holds_stamp(b.at, b.owner, 1));
  EXPECT_NO_THROW((void)allocate(kPageSize));
}

TEST_F(MemoryResource, EqualsItselfAlone) {
  memory_resource other(pool_.get(), kChunk);
  EXPECT_TRUE(*resource_ == *resource_);
  EXPECT_FALSE(*resource_ == other);
  EXPECT_FALSE(*resource_ == *std::pmr::new_delete_resource());
}

TEST_F(MemoryResource, AnyChunkSizeServes) {
  for (const std::size_t chunk : {std::size_t{0}, std::size_t{1}, kPageSize, 3 * kPageSize + 1}) {
    memory_resource small(pool_.get(), chunk);
    for (const std::size_t bytes : {std::size_t{1}, 2 * kPageSize, kMiB}) {
      auto* p = static_cast<std::byte*>(small.allocate(bytes, 2 * kPageSize));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % (2 * kPageSize), 0U);
      stamp_page(p, chunk, bytes);
      EXPECT_TRUE(holds_stamp(p, chunk, bytes));
    }
  }
}

TEST_F(MemoryResource, DestructionGivesBackEvenWhatWasNotDeallocated) {
  const Block freed = allocate_stamped(2 * kMiB);
  (void)allocate_stamped(3 * kMiB);
  (void)allocate_stamped(2 * kChunk);
  free(freed);
  EXPECT_EQ(pool_.destroy(), EBUSY);
  resource_.reset();
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_EQ(stat("compressed_bytes"), 0U);
  pool_.validate();
  EXPECT_EQ(pool_.destroy(), 0);
}

}  // namespace
}  // namespace buoy::testing
