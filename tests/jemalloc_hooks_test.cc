// ctest: timeout=120 labels=no_sanitizer
//
// The extent hooks under a real jemalloc: what an arena hands out is the pool's, stays as stored,
// is lazily freed when the arena purges it, and goes back with the arena.
//
// Not under sanitizers: jemalloc is linked in and would be malloc in the place of theirs, and two
// of them in one process free each other's memory.

#include "buoy/jemalloc_hooks.h"

#include <gtest/gtest.h>
#include <jemalloc/jemalloc.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "churn_testing.h"
#include "pool_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBudget = 32 * kMiB;

// How often jemalloc called each hook.
struct Calls {
  std::atomic<int> alloc, refused, dalloc, purge_lazy, split, merge;
} calls;

// The hooks, counted.
struct CountedHooks : buoy_extent_hooks {
  explicit CountedHooks(buoy_pool* of) {
    EXPECT_EQ(buoy_extent_hooks_init(this, of, 0), 0);
    hooks.alloc = [](extent_hooks_t* h, void* wanted, std::size_t size, std::size_t alignment,
                     bool* zero, bool* commit, unsigned arena) {
      void* const at = buoy_extent_alloc(h, wanted, size, alignment, zero, commit, arena);
      ++(at == nullptr ? calls.refused : calls.alloc);
      return at;
    };
    hooks.dalloc = [](extent_hooks_t* h, void* a, std::size_t size, bool committed,
                      unsigned arena) {
      ++calls.dalloc;
      return buoy_extent_dalloc(h, a, size, committed, arena);
    };
    hooks.purge_lazy = [](extent_hooks_t* h, void* a, std::size_t size, std::size_t offset,
                          std::size_t length, unsigned arena) {
      ++calls.purge_lazy;
      return buoy_extent_purge_lazy(h, a, size, offset, length, arena);
    };
    hooks.split = [](extent_hooks_t* h, void* a, std::size_t size, std::size_t size_a,
                     std::size_t size_b, bool committed, unsigned arena) {
      ++calls.split;
      return buoy_extent_split(h, a, size, size_a, size_b, committed, arena);
    };
    hooks.merge = [](extent_hooks_t* h, void* a, std::size_t size_a, void* b, std::size_t size_b,
                     bool committed, unsigned arena) {
      ++calls.merge;
      return buoy_extent_merge(h, a, size_a, b, size_b, committed, arena);
    };
  }
  ~CountedHooks() { end(); }
  CountedHooks(const CountedHooks&) = delete;
  CountedHooks& operator=(const CountedHooks&) = delete;
  void end() {
    if (extents != nullptr) buoy_extent_hooks_destroy(this);
  }
  void give_contents_up_at_once() { hooks.dalloc = buoy_extent_dalloc_forced; }
};

constexpr ssize_t kNever = -1;
constexpr ssize_t kAtOnce = 0;
// Whole pages: jemalloc shifts large allocations by some cache lines otherwise.
constexpr int kPages = MALLOCX_LG_ALIGN(12);
constexpr int kZero = kPages | MALLOCX_ZERO;

class Arena {
 public:
  Arena(buoy_extent_hooks& hooks, ssize_t dirty_decay, ssize_t muzzy_decay) : hooks_(hooks) {
    extent_hooks_t* h = &hooks.hooks;
    std::size_t size = sizeof index_;
    // The size of the pointer is meant: mallctl copies it.
    EXPECT_EQ(mallctl("arenas.create", &index_, &size, &h,
                      sizeof h),  // NOLINT(bugprone-sizeof-expression)
              0);
    EXPECT_EQ(control("dirty_decay_ms", &dirty_decay, sizeof dirty_decay), 0);
    EXPECT_EQ(control("muzzy_decay_ms", &muzzy_decay, sizeof muzzy_decay), 0);
  }
  ~Arena() { EXPECT_EQ(buoy_arena_destroy(&hooks_, index_), 0); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  [[nodiscard]] std::byte* allocate(std::size_t bytes, int flags = kPages) const {
    return static_cast<std::byte*>(mallocx(bytes, flags | own_flags()));
  }
  void free(void* p) const { dallocx(p, own_flags()); }
  void purge() const { EXPECT_EQ(control("purge"), 0); }

 private:
  [[nodiscard]] int own_flags() const { return MALLOCX_ARENA(index_) | MALLOCX_TCACHE_NONE; }
  int control(const char* what, void* value = nullptr, std::size_t size = 0) const {
    const std::string name = "arena." + std::to_string(index_) + '.' + what;
    return mallctl(name.c_str(), nullptr, nullptr, value, size);
  }
  buoy_extent_hooks& hooks_;
  unsigned index_ = 0;
};

void stamp(std::byte* at, std::size_t bytes, std::uint64_t owner) {
  StampedBlock{at, bytes, owner}.stamp();
}
bool is_as_stamped(std::byte* at, std::size_t bytes, std::uint64_t owner) {
  return StampedBlock{at, bytes, owner}.is_as_stamped();
}
bool is_zero(const std::byte* at, std::size_t bytes) {
  return std::all_of(at, at + bytes, [](std::byte b) { return b == std::byte{0}; });
}
bool is_managed(void* at) {
  unsigned char where = 0;
  return buoy_residency(at, kPageSize, &where) == 0;
}

class JemallocHooks : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(pool_.why_not(), "");
    for (std::atomic<int>* c : {&calls.alloc, &calls.refused, &calls.dalloc, &calls.purge_lazy,
                                &calls.split, &calls.merge})
      c->store(0);
  }
  [[nodiscard]] std::uint64_t stat(const char* name) const { return pool_.stat(name); }

  TestPool pool_{Delivery::kSignal, kBudget};
  CountedHooks hooks_{pool_.get()};
};

// ---- The hooks by themselves ------------------------------------------------------------------

class JemallocHook : public JemallocHooks {
 protected:
  std::byte* extent(std::size_t size, std::size_t alignment, void* wanted = nullptr) {
    bool zero = true;
    bool commit = true;
    auto* at = static_cast<std::byte*>(
        buoy_extent_alloc(&hooks_.hooks, wanted, size, alignment, &zero, &commit, 0));
    EXPECT_TRUE(zero);
    EXPECT_TRUE(commit);
    return at;
  }
  [[nodiscard]] std::size_t allocated() const { return buoy_extents_allocated(hooks_.extents); }
  bool dalloc(void* at, std::size_t size) {
    return !buoy_extent_dalloc(&hooks_.hooks, at, size, true, 0);
  }
};

TEST_F(JemallocHook, ExtentsAreAlignedZeroAndNoLargerThanAsked) {
  // Twice: fresh ones, and ones that were used before.
  for (int round = 0; round < 2; ++round) {
    std::vector<std::byte*> extents;
    for (const std::size_t alignment : {kPageSize, 4 * kPageSize, 2 * kMiB, 16 * kMiB}) {
      std::byte* at = extent(3 * kPageSize, alignment);
      ASSERT_NE(at, nullptr);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % alignment, 0U);
      EXPECT_TRUE(is_zero(at, 3 * kPageSize)) << round;
      stamp(at, 3 * kPageSize, 1);
      extents.push_back(at);
    }
    EXPECT_EQ(allocated(), extents.size() * 3 * kPageSize);
    for (std::byte* at : extents) EXPECT_TRUE(dalloc(at, 3 * kPageSize));
    EXPECT_EQ(allocated(), 0U);
  }
  EXPECT_EQ(pool_.destroy(), EBUSY) << "while the hooks have its memory";
  hooks_.end();
  EXPECT_EQ(pool_.destroy(), 0);
}

TEST_F(JemallocHook, LargeExtentsAreZeroWithoutBeingFilled) {
  std::byte* at = extent(8 * kMiB, kPageSize);
  stamp(at, 8 * kMiB, 1);
  EXPECT_TRUE(dalloc(at, 8 * kMiB));
  const std::uint64_t resident = stat("resident_bytes");
  ASSERT_EQ(extent(8 * kMiB, kPageSize), at);
  EXPECT_LE(stat("resident_bytes"), resident - 8 * kMiB);
  EXPECT_TRUE(is_zero(at, 8 * kMiB));
}

TEST_F(JemallocHook, WhatCannotBeServedIsRefused) {
  std::byte* at = extent(kMiB, kPageSize);
  stamp(at, kMiB, 1);
  EXPECT_EQ(extent(kMiB, kPageSize, at), nullptr) << "a place that is taken";
  EXPECT_EQ(extent(kMiB, kPageSize, at + kMiB), at + kMiB) << "a place that is not";
  EXPECT_TRUE(dalloc(at + kMiB, kMiB));
  EXPECT_EQ(extent(SIZE_MAX - kPageSize + 1, 2 * kMiB), nullptr);
  EXPECT_EQ(extent(SIZE_MAX / 2 + 1, kPageSize), nullptr);
  EXPECT_EQ(extent(std::size_t{1} << 47, kPageSize), nullptr);
  EXPECT_EQ(extent(kPageSize, std::size_t{1} << 47), nullptr);
  bool zero = false;
  bool commit = false;
  EXPECT_EQ(buoy_extent_alloc(&hooks_.hooks, nullptr, kMiB, kPageSize, &zero, &commit, 0), nullptr)
      << "memory to keep for later";
  EXPECT_TRUE(is_as_stamped(at, kMiB, 1));
  EXPECT_TRUE(dalloc(at, kMiB));
  EXPECT_FALSE(dalloc(at, kMiB)) << "free already";
}

TEST_F(JemallocHook, PurgesTakeTheGivenPartOnly) {
  std::byte* at = extent(kMiB, kPageSize);
  stamp(at, kMiB, 1);
  const std::size_t offset = 5 * kPageSize;
  const std::size_t length = 70 * kPageSize;
  EXPECT_FALSE(buoy_extent_purge_lazy(&hooks_.hooks, at, kMiB, offset, length, 0));
  EXPECT_EQ(stat("lazyfree_bytes"), length);
  EXPECT_TRUE(is_as_stamped(at, kMiB, 1)) << "nothing wanted the memory";
  EXPECT_GE(buoy_pool_reclaim(pool_.get(), length), static_cast<ssize_t>(length));
  EXPECT_TRUE(is_zero(at + offset, length));
  EXPECT_TRUE(is_as_stamped(at, offset, 1));
  for (std::size_t i = (offset + length) / kPageSize; i < kMiB / kPageSize; ++i)
    ASSERT_TRUE(holds_stamp(at + i * kPageSize, 1, i + 1)) << i;
  EXPECT_TRUE(dalloc(at, kMiB));
}

TEST_F(JemallocHook, PartsOfAnExtentGoOneByOne) {
  std::byte* at = extent(4 * kMiB, 2 * kMiB);
  stamp(at, 4 * kMiB, 1);
  EXPECT_FALSE(buoy_extent_split(&hooks_.hooks, at, 4 * kMiB, kMiB, 3 * kMiB, true, 0));
  EXPECT_TRUE(dalloc(at, kMiB));
  EXPECT_EQ(stat("lazyfree_bytes"), kMiB);
  for (std::size_t i = kMiB / kPageSize; i < 4 * kMiB / kPageSize; ++i)
    ASSERT_TRUE(holds_stamp(at + i * kPageSize, 1, i + 1)) << i;
  buoy_extent_destroy(&hooks_.hooks, at + kMiB, 3 * kMiB, true, 0);
  EXPECT_EQ(allocated(), 0U);
}

TEST_F(JemallocHook, NeighboursGoAsOne) {
  std::byte* a = extent(kMiB, kPageSize);
  std::byte* b = extent(kMiB, kPageSize);
  ASSERT_EQ(b, a + kMiB);
  stamp(a, 2 * kMiB, 1);
  EXPECT_FALSE(buoy_extent_merge(&hooks_.hooks, a, kMiB, b, kMiB, true, 0));
  EXPECT_TRUE(is_as_stamped(a, 2 * kMiB, 1));
  EXPECT_TRUE(dalloc(a, 2 * kMiB));
  EXPECT_EQ(stat("lazyfree_bytes"), 2 * kMiB);
  EXPECT_EQ(extent(2 * kMiB, kPageSize), a);
}

// ---- Under an arena ---------------------------------------------------------------------------

TEST_F(JemallocHooks, EverySizeAndAlignmentComesFromThePool) {
  const Arena arena(hooks_, kNever, kNever);
  std::vector<std::pair<std::byte*, std::size_t>> blocks;
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{100}, kPageSize, 5 * kPageSize, kMiB + 1, 40 * kMiB}) {
    for (const int lg : {0, 4, 12, 16, 21, 23}) {
      std::byte* p = arena.allocate(bytes, MALLOCX_LG_ALIGN(lg));
      ASSERT_NE(p, nullptr) << bytes << '@' << lg;
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % (std::size_t{1} << lg), 0U) << bytes;
      EXPECT_TRUE(is_managed(
          reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(p) & ~(kPageSize - 1))));
      p[0] = p[bytes - 1] = static_cast<std::byte>(blocks.size() + 1);
      blocks.emplace_back(p, bytes);
    }
  }
  EXPECT_GT(calls.alloc, 0);
  EXPECT_EQ(pool_.destroy(), EBUSY);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const auto [p, bytes] = blocks[i];
    EXPECT_EQ(p[0], static_cast<std::byte>(i + 1));
    EXPECT_EQ(p[bytes - 1], static_cast<std::byte>(i + 1));
    arena.free(p);
  }
}

TEST_F(JemallocHooks, WhatDecaysAtOnceIsLazilyFreedAndReusedAsItIs) {
  for (const ssize_t muzzy : {kAtOnce, kNever}) {
    const Arena arena(hooks_, kAtOnce, muzzy);
    const std::uint64_t marked = stat("pglazyfree");
    std::byte* p = arena.allocate(4 * kMiB);
    ASSERT_NE(p, nullptr);
    stamp(p, 4 * kMiB, 1);
    const std::uint64_t resident = stat("resident_bytes");
    arena.free(p);
    EXPECT_GE(stat("lazyfree_bytes"), 4 * kMiB) << muzzy;
    EXPECT_GE(stat("pglazyfree"), marked + 4 * kMiB / kPageSize) << muzzy;
    EXPECT_EQ(stat("resident_bytes"), resident) << "freed lazily, not given back";
    EXPECT_GT(calls.dalloc, 0);
    const std::uint64_t faults = stat("pgfault");
    std::byte* again = arena.allocate(4 * kMiB);
    ASSERT_EQ(again, p) << muzzy;
    EXPECT_TRUE(is_as_stamped(again, 4 * kMiB, 1)) << "nothing wanted the memory";
    stamp(again, 4 * kMiB, 2);
    EXPECT_EQ(stat("pgfault"), faults) << "reuse costs no fault";
    stamp(again, 4 * kMiB, 2);
    EXPECT_TRUE(is_as_stamped(again, 4 * kMiB, 2));
    EXPECT_GE(buoy_pool_reclaim(pool_.get(), kBudget), 0);
    EXPECT_TRUE(is_as_stamped(again, 4 * kMiB, 2)) << "stored to, and yet it was discarded";
  }
  pool_.validate();
}

TEST_F(JemallocHooks, PurgeOnRequestMarksWhatIsFreeAndNothingElse) {
  const Arena arena(hooks_, kNever, kNever);
  std::vector<std::byte*> blocks;
  for (std::size_t i = 0; i < 16; ++i) {
    blocks.push_back(arena.allocate(kMiB / 2));
    stamp(blocks[i], kMiB / 2, i);
  }
  for (std::size_t i = 0; i < 16; i += 2) arena.free(blocks[i]);
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_EQ(calls.dalloc, 0);
  arena.purge();
  EXPECT_GT(calls.dalloc, 0);
  EXPECT_GE(stat("lazyfree_bytes"), 4 * kMiB);
  EXPECT_GE(buoy_pool_reclaim(pool_.get(), kBudget), static_cast<ssize_t>(4 * kMiB));
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  for (std::size_t i = 1; i < 16; i += 2) EXPECT_TRUE(is_as_stamped(blocks[i], kMiB / 2, i)) << i;
  pool_.validate();
}

// The pages behind a free() are never taken for fresh ones, discarded or not.
TEST_F(JemallocHooks, ZeroedAllocationsAreZeroAfterALazyPurge) {
  const Arena arena(hooks_, kAtOnce, kAtOnce);
  for (const bool reclaim_between : {false, true}) {
    std::byte* p = arena.allocate(4 * kMiB);
    std::memset(p, 0xa5, 4 * kMiB);
    arena.free(p);
    ASSERT_GE(stat("lazyfree_bytes"), 4 * kMiB);
    if (reclaim_between) {
      EXPECT_GE(buoy_pool_reclaim(pool_.get(), 2 * kMiB), 0);
    }
    std::byte* again = arena.allocate(4 * kMiB, kZero);
    ASSERT_EQ(again, p);
    EXPECT_TRUE(is_zero(again, 4 * kMiB)) << reclaim_between;
    arena.free(again);
  }
}

TEST_F(JemallocHooks, ForcedDallocGivesMemoryBackAtOnce) {
  hooks_.give_contents_up_at_once();
  const Arena arena(hooks_, kAtOnce, kAtOnce);
  std::byte* kept = arena.allocate(kMiB);
  stamp(kept, kMiB, 1);
  std::byte* p = arena.allocate(4 * kMiB);
  stamp(p, 4 * kMiB, 2);
  const std::uint64_t resident = stat("resident_bytes");
  arena.free(p);
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_LE(stat("resident_bytes"), resident - 4 * kMiB);
  std::byte* again = arena.allocate(4 * kMiB, kZero);
  ASSERT_EQ(again, p);
  EXPECT_TRUE(is_zero(again, 4 * kMiB));
  EXPECT_TRUE(is_as_stamped(kept, kMiB, 1));
}

// What jemalloc would keep for later is refused: in hand it could not be reclaimed.
TEST_F(JemallocHooks, NothingIsKeptBesideWhatIsAllocated) {
  const Arena arena(hooks_, kAtOnce, kAtOnce);
  const std::size_t before = buoy_extents_allocated(hooks_.extents);
  std::vector<std::byte*> blocks;
  for (int i = 0; i < 64; ++i) {
    blocks.push_back(arena.allocate(5 * kPageSize));
    stamp(blocks.back(), 5 * kPageSize, 1);
  }
  EXPECT_GT(calls.refused, 0);
  // Large allocations have a page of their own to spread over cache lines.
  EXPECT_LE(buoy_extents_allocated(hooks_.extents) - before, 64 * 6 * kPageSize + kMiB);
  for (std::byte* block : blocks) arena.free(block);
  EXPECT_LE(buoy_extents_allocated(hooks_.extents) - before, kMiB);
}

TEST_F(JemallocHooks, ExtentsAreSplitAndMergedAndKeepTheirContents) {
  const Arena arena(hooks_, kNever, kNever);
  std::byte* whole = arena.allocate(8 * kMiB);
  stamp(whole, 8 * kMiB, 1);
  arena.free(whole);
  std::vector<std::byte*> parts;
  for (std::size_t i = 0; i < 8; ++i) {
    parts.push_back(arena.allocate(kMiB - kPageSize));
    stamp(parts[i], kMiB - kPageSize, 10 + i);
  }
  EXPECT_GT(calls.split, 0);
  const int merged_before = calls.merge;
  for (std::size_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(is_as_stamped(parts[i], kMiB - kPageSize, 10 + i)) << i;
    arena.free(parts[i]);
  }
  // Without merging, there is no such extent.
  EXPECT_EQ(arena.allocate(8 * kMiB), whole);
  EXPECT_GT(calls.merge, merged_before);
  stamp(whole, 8 * kMiB, 3);
  EXPECT_TRUE(is_as_stamped(whole, 8 * kMiB, 3));
  pool_.validate();
}

// ---- Pressure, threads, exhaustion, the end ---------------------------------------------------

// Purged now and then, so that the arena is not always the one that says when.
BlockSource source(const Arena& arena) {
  const auto served = std::make_shared<std::atomic<unsigned>>(0);
  return {[&arena, served](std::size_t bytes, std::size_t alignment) {
            if (++*served % 64 == 0) arena.purge();
            return arena.allocate(bytes, kPages | MALLOCX_ALIGN(std::max(alignment, kPageSize)));
          },
          [&arena](const StampedBlock& b) {
            arena.free(b.at);
            return true;
          }};
}

TEST_F(JemallocHooks, ContentsStayWhereTheSetIsLargerThanTheBudget) {
  const Arena arena(hooks_, kAtOnce, kNever);
  EXPECT_TRUE(churn(source(arena), 1, kBudget + kBudget / 8, 300));
  EXPECT_GT(stat("pswpout"), 0U);
  EXPECT_GT(stat("pglazyfree"), 0U);
  EXPECT_LE(stat("resident_peak_bytes"), kBudget);
  pool_.validate();
}

TEST_F(JemallocHooks, ThreadsShareAnArena) {
  const Arena arena(hooks_, kAtOnce, kAtOnce);
  EXPECT_TRUE(churn_in_threads(source(arena), kBudget + kBudget / 8, 100));
  pool_.validate();
}

TEST_F(JemallocHooks, ExhaustionFailsAndWhatIsFreedServesAgain) {
  constexpr std::size_t kLarge = 256 * kMiB;
  const Arena arena(hooks_, kNever, kNever);
  std::byte* kept = arena.allocate(kMiB);
  stamp(kept, kMiB, 1);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_AS, &before), 0);
  char text[64] = {};
  ASSERT_GT(sys::read_file("/proc/self/statm", text, sizeof text - 1), 0);
  rlimit limit = before;
  limit.rlim_cur = std::strtoull(text, nullptr, 10) * kPageSize + 12 * kLarge;
  std::vector<std::byte*> blocks;
  blocks.reserve(16);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
  while (blocks.size() < 16) {
    std::byte* p = arena.allocate(kLarge);
    if (p == nullptr) break;
    stamp_page(p, 2, blocks.size() + 1);
    blocks.push_back(p);
  }
  const bool refused = arena.allocate(kLarge) == nullptr;
  std::byte* const last = blocks.empty() ? nullptr : blocks.back();
  arena.free(last);
  std::byte* const again = arena.allocate(kLarge);
  ASSERT_EQ(setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_TRUE(refused);
  EXPECT_EQ(again, last);
  EXPECT_TRUE(is_as_stamped(kept, kMiB, 1));
  for (std::size_t i = 0; i + 1 < blocks.size(); ++i)
    EXPECT_TRUE(holds_stamp(blocks[i], 2, i + 1)) << i;
  EXPECT_NE(arena.allocate(kLarge), nullptr);
}

TEST_F(JemallocHooks, ASecondArenaIsRefused) {
  unsigned second = 0;
  std::size_t size = sizeof second;
  extent_hooks_t* h = &hooks_.hooks;
  const auto create_another = [&] {
    // The size of the pointer is meant: mallctl copies it.
    return mallctl("arenas.create", &second, &size, &h,
                   sizeof h);  // NOLINT(bugprone-sizeof-expression)
  };
  {
    const Arena first(hooks_, kNever, kNever);
    std::byte* p = first.allocate(2 * kMiB);
    stamp(p, 2 * kMiB, 1);
    EXPECT_NE(create_another(), 0);
    EXPECT_TRUE(is_as_stamped(p, 2 * kMiB, 1));
  }
  // When the first is gone, the hooks serve another.
  const Arena next(hooks_, kNever, kNever);
  EXPECT_NE(next.allocate(kMiB), nullptr);
}

// jemalloc would join the extents of two arenas if they lay side by side.
TEST_F(JemallocHooks, ArenasStayApartWhileTheyDecay) {
  constexpr ssize_t kSoon = 2;  // ms
  constexpr int kArenas = 3;
  CountedHooks more[kArenas - 1] = {CountedHooks(pool_.get()), CountedHooks(pool_.get())};
  const Arena arenas[kArenas] = {
      {hooks_, kSoon, kAtOnce}, {more[0], kSoon, kAtOnce}, {more[1], kSoon, kAtOnce}};
  bool good[kArenas] = {};
  std::vector<std::thread> threads;
  for (int t = 0; t < kArenas; ++t)
    threads.emplace_back([&arenas, &good, t] {
      good[t] = churn(source(arenas[t]), 20 + t, kBudget / kArenas / 2, 4000);
    });
  for (std::thread& t : threads) t.join();
  for (int t = 0; t < kArenas; ++t) EXPECT_TRUE(good[t]) << t;
  EXPECT_GT(calls.dalloc, 0);
  pool_.validate();
}

TEST_F(JemallocHooks, AnArenaGivesEverythingBackWhenItIsDestroyed) {
  {
    const Arena arena(hooks_, kAtOnce, kNever);
    std::byte* freed = arena.allocate(4 * kMiB);
    stamp(freed, 4 * kMiB, 1);
    stamp(arena.allocate(4 * kMiB), 4 * kMiB, 2);
    for (int i = 0; i < 1000; ++i) (void)arena.allocate(100);
    arena.free(freed);
    EXPECT_EQ(pool_.destroy(), EBUSY);
  }
  EXPECT_EQ(stat("lazyfree_bytes"), 0U);
  EXPECT_EQ(buoy_extents_allocated(hooks_.extents), 0U);
  pool_.validate();
  hooks_.end();
  EXPECT_EQ(pool_.destroy(), 0);
}

TEST_F(JemallocHooks, DestroyingWhatIsNoArenaFails) {
  const Arena arena(hooks_, kNever, kNever);
  std::byte* p = arena.allocate(kMiB);
  stamp(p, kMiB, 1);
  EXPECT_NE(buoy_arena_destroy(&hooks_, 4095), 0);
  // jemalloc's own, which is never destroyed, keeps its own hooks.
  extent_hooks_t* before = nullptr;
  extent_hooks_t* after = nullptr;
  std::size_t size = sizeof before;
  ASSERT_EQ(mallctl("arena.0.extent_hooks", &before, &size, nullptr, 0), 0);
  EXPECT_NE(buoy_arena_destroy(&hooks_, 0), 0);
  ASSERT_EQ(mallctl("arena.0.extent_hooks", &after, &size, nullptr, 0), 0);
  EXPECT_EQ(after, before);
  EXPECT_TRUE(is_as_stamped(p, kMiB, 1));
}

}  // namespace
}  // namespace buoy::testing
