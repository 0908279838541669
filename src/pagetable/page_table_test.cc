// The address index, and the table of regions that readers search without a lock.

#include "pagetable/page_table.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "pagetable/index.h"

namespace buoy {
namespace {

mmu::Reservation reservation_at(std::uint64_t block, std::uint64_t blocks = 1) {
  mmu::Reservation r;
  r.base = Vpn(block * kPagesPerBlock);
  r.shadow = Vpn((block + (1U << 20)) * kPagesPerBlock);
  r.pages = PageCount(blocks * kPagesPerBlock);
  return r;
}

TEST(AddressIndex, FindsWhatWasPut) {
  AddressIndex index;
  ASSERT_TRUE(index.create().ok());
  const auto leaf = std::make_unique<Leaf>();
  EXPECT_EQ(index.find(Vpn(0)), nullptr);
  for (const std::uint64_t block :
       {std::uint64_t{0}, std::uint64_t{8191}, std::uint64_t{8192}, (std::uint64_t{1} << 26) - 1}) {
    ASSERT_TRUE(index.prepare(block).ok());
    index.put(block, leaf.get());
    EXPECT_EQ(index.find(Vpn(block * kPagesPerBlock)), leaf.get());
    EXPECT_EQ(index.find(Vpn(block * kPagesPerBlock + 511)), leaf.get());
    EXPECT_EQ(index.find(Vpn((block + 1) * kPagesPerBlock)), nullptr);
    index.put(block, nullptr);
    EXPECT_EQ(index.find(Vpn(block * kPagesPerBlock)), nullptr);
  }
}

TEST(AddressIndex, AddressesBeyondTheEndAreNowhere) {
  AddressIndex index;
  ASSERT_TRUE(index.create().ok());
  constexpr std::uint64_t kEnd = std::uint64_t{1} << 26;  // 47 bits of address
  EXPECT_EQ(index.find(Vpn(kEnd * kPagesPerBlock)), nullptr);
  EXPECT_EQ(index.find(Vpn(UINT64_MAX >> kPageShift)), nullptr);
  EXPECT_FALSE(index.prepare(kEnd).ok());
}

class PageTableTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(table_.create().ok()); }
  Region* add(std::uint64_t block, std::uint64_t blocks = 1) {
    const Guard guard(table_.region_lock());
    return table_.add_region(reservation_at(block, blocks), RegionFlags::kNone, RegionKind::kOwn);
  }
  void remove(Region& region) {
    const Guard guard(table_.region_lock());
    table_.remove_region(region);
  }
  static Vpn page_of(std::uint64_t block) { return Vpn(block * kPagesPerBlock + 5); }

  PageTable table_;
};

TEST_F(PageTableTest, RegionsAreFoundInAnyOrderOfAdding) {
  std::vector<Region*> regions;
  for (const std::uint64_t block : {50, 10, 30, 20, 40}) {
    regions.push_back(add(block, 2));
    ASSERT_NE(regions.back(), nullptr);
  }
  for (Region* region : regions) {
    EXPECT_EQ(table_.find_region(region->reservation.base), region);
    EXPECT_EQ(table_.find_region(region->range().end() - PageCount(1)), region);
    EXPECT_EQ(table_.find_region(region->range().end()), nullptr);
  }
  EXPECT_EQ(table_.region_count(), 5U);
  remove(*regions[2]);
  EXPECT_EQ(table_.find_region(page_of(30)), nullptr);
  EXPECT_EQ(table_.find_region(page_of(20)), regions[3]);
  EXPECT_EQ(table_.find_region(page_of(40)), regions[4]);
}

TEST_F(PageTableTest, LeavesAreMadeAsTheExtentsSay) {
  Region* region = add(10);
  ASSERT_TRUE(region->extents.prepare().ok());
  region->extents.assign({page_of(10), PageCount(3)}, mmu::Access::kReadWrite);
  EXPECT_EQ(table_.find_leaf(page_of(10)), nullptr);
  Leaf* leaf = table_.find_or_make_leaf(page_of(10));
  ASSERT_NE(leaf, nullptr);
  EXPECT_EQ(table_.find_or_make_leaf(page_of(10)), leaf);
  EXPECT_EQ(table_.find_or_make_leaf(page_of(11)), nullptr);  // no region
  EXPECT_EQ(leaf->get(4).state(), PteState::kHole);
  EXPECT_EQ(leaf->get(5).state(), PteState::kEmpty);
  EXPECT_EQ(leaf->get(7).state(), PteState::kEmpty);
  EXPECT_EQ(leaf->get(8).state(), PteState::kHole);
}

TEST_F(PageTableTest, ARecycledLeafIsFoundNoMoreAndUsedAgain) {
  Region* region = add(10, 2);
  Leaf* leaf = table_.find_or_make_leaf(page_of(10));
  {
    const Guard regions(table_.region_lock());
    const Guard guard(leaf->lock);
    table_.recycle(*leaf);
  }
  EXPECT_EQ(table_.find_leaf(page_of(10)), nullptr);
  unsigned live = 0;
  table_.for_each_leaf([&live](Leaf&) { ++live; });
  EXPECT_EQ(live, 0U);
  EXPECT_EQ(table_.find_or_make_leaf(page_of(11)), leaf);
  EXPECT_EQ(leaf->block.load(), 11U);
  (void)region;
}

// Regions come and go on both sides of one that stays: a reader always finds that one, and never
// one that does not hold the page.
TEST_F(PageTableTest, ReadersSeeOneStateOrAnother) {
  Region* kept = add(1000, 2);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::atomic<unsigned> reading{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 2; ++t)
    readers.emplace_back([&] {
      for (++reading; !stop.load();) {
        if (table_.find_region(page_of(1000)) != kept) ++wrong;
        const Vpn elsewhere = page_of(500);
        const Region* found = table_.find_region(elsewhere);
        if (found != nullptr && found == kept) ++wrong;
      }
    });
  while (reading.load() != readers.size()) std::this_thread::yield();
  for (int i = 0; i < 30'000; ++i) {
    std::vector<Region*> others;
    for (const std::uint64_t block : {500, 100, 2000, 300}) others.push_back(add(block));
    for (Region* region : others) remove(*region);
  }
  stop.store(true);
  for (std::thread& t : readers) t.join();
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace buoy
