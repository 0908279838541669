// The C++ containers in volatile memory.
#include <gtest/gtest.h>
#include <buoy/purgeable.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <latch>
#include <new>
#include <random>
#include <stdexcept>
#include <thread>

// The heap of this program, which fails when told to.
namespace {
thread_local int allocations_left = -1;  // before one fails; -1: none does
thread_local bool has_failed = false;
}  // namespace

// Not inlined: the compiler takes one half of a pair for a mistake.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- == 0) {
    has_failed = true;
    throw std::bad_alloc();
  }
  if (void* const at = std::malloc(bytes == 0 ? 1 : bytes)) return at;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* at) noexcept { std::free(at); }
[[gnu::noinline]] void operator delete(void* at, std::size_t) noexcept { std::free(at); }

namespace {

// Runs the body again and again, each time with a later allocation failing, and `check` behind it;
// how many failed. It goes on when there were fewer once: not every run allocates alike.
template <typename Body, typename Check>
unsigned fail_each_allocation(Body body, Check check) {
  unsigned failures = 0;
  for (int n = 0; n < 64; ++n) {
    has_failed = false;
    allocations_left = n;
    bool threw = false;
    try {
      body();
    } catch (const std::bad_alloc&) {
      threw = true;
    }
    allocations_left = -1;
    EXPECT_EQ(threw, has_failed);
    if (has_failed) ++failures;
    check();
  }
  return failures;
}

constexpr std::size_t kMiB = std::size_t{1} << 20;

buoy::PoolOptions signals() {
  buoy::PoolOptions options;
  options.faults = BUOY_FAULTS_SIGNAL;
  return options;
}

class Purgeable : public testing::Test {
 protected:
  void purge_all() { pool.reclaim(1024 * kMiB); }
  buoy::Pool pool{32 * kMiB, signals()};
};

TEST(CxxLayer, ThrowsTheErrnoOfTheCall) {
  try {
    const buoy::Pool pool(1);
    FAIL();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), EINVAL);
  }
}

TEST_F(Purgeable, RegionTellsWhetherItsContentsWereKept) {
  buoy::Region region(pool, 16 * 4096);
  std::memset(region.data(), 1, region.size());
  region.mark_volatile();
  EXPECT_EQ(region.mark_nonvolatile(), buoy::Kept::kYes);
  region.mark_volatile();
  {
    const buoy::Pin pin(region.data(), 4096, buoy::Pin::Access::kWrite);
    purge_all();
    EXPECT_EQ(std::to_integer<int>(region.data()[0]), 1);
  }
  EXPECT_EQ(region.mark_nonvolatile(), buoy::Kept::kNo);
  buoy::Region moved = std::move(region);
  EXPECT_EQ(moved.size(), 16U * 4096);
  EXPECT_THROW(moved.mark_volatile(0, 32 * 4096, 0), std::system_error);
}

TEST_F(Purgeable, BufferIsSafeWhileLockedAndSaysWhenItIsLost) {
  buoy::purgeable_buffer buffer(pool, 100'000);
  EXPECT_FALSE(buffer.lock().has_value());
  int fills = 0;
  const auto fill = [&](std::span<std::byte> room) {
    EXPECT_EQ(room.size(), 100'000U);
    std::fill(room.begin(), room.end(), std::byte{9});
    ++fills;
  };
  {
    const auto first = buffer.lock(fill);
    const auto second = buffer.lock();
    ASSERT_TRUE(second.has_value());
    purge_all();
    EXPECT_EQ(second->bytes()[99'999], std::byte{9});
  }
  { EXPECT_EQ(buffer.lock(fill).data()[5], std::byte{9}); }
  EXPECT_EQ(fills, 1);
  purge_all();
  EXPECT_FALSE(buffer.lock().has_value());
  EXPECT_EQ(buffer.lock(fill).data()[5], std::byte{9});
  EXPECT_EQ(fills, 2);
  buffer.discard();
  EXPECT_FALSE(buffer.lock().has_value());
}

TEST_F(Purgeable, ARefusedFillLeavesTheBufferLost) {
  buoy::purgeable_buffer buffer(pool, 4096);
  EXPECT_THROW((void)buffer.lock([](std::span<std::byte>) { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_FALSE(buffer.lock().has_value());
}

TEST_F(Purgeable, BufferGivesBackWhatARefusedFillWrote) {
  buoy::purgeable_buffer buffer(pool, 8 * kMiB);
  const std::uint64_t before = pool.stat("resident_bytes");
  EXPECT_THROW((void)buffer.lock([](std::span<std::byte> room) {
    std::fill(room.begin(), room.end(), std::byte{1});
    throw std::runtime_error("no");
  }),
               std::runtime_error);
  EXPECT_FALSE(buffer.lock().has_value());
  EXPECT_LT(pool.stat("resident_bytes"), before + kMiB);
  const auto guard = buffer.lock([](std::span<std::byte> room) { room[5] = std::byte{7}; });
  EXPECT_EQ(guard.data()[5], std::byte{7});
  EXPECT_EQ(guard.data()[6], std::byte{0});  // nothing of the fill that was refused
}

TEST_F(Purgeable, BufferThatIsDiscardedStaysAsItWasForThoseWhoHoldIt) {
  buoy::purgeable_buffer buffer(pool, 4096);
  int fills = 0;
  const auto fill = [&](std::span<std::byte> room) {
    ++fills;
    std::fill(room.begin(), room.end(), static_cast<std::byte>(fills));
  };
  {
    const auto first = buffer.lock(fill);
    buffer.discard();
    EXPECT_EQ(first.data()[9], std::byte{1});
    const auto second = buffer.lock(fill);  // must not write over what the first holds
    EXPECT_EQ(first.data()[9], std::byte{1});
    EXPECT_EQ(fills, 1);
    ASSERT_TRUE(buffer.lock().has_value());
  }
  EXPECT_FALSE(buffer.lock().has_value());
  EXPECT_EQ(buffer.lock(fill).data()[9], std::byte{2});
}

TEST_F(Purgeable, BufferMayBeEmptyAndItsPriorityMayNotBeBad) {
  buoy::purgeable_buffer empty(pool, 0);
  EXPECT_FALSE(empty.lock().has_value());
  EXPECT_EQ(empty.lock([](std::span<std::byte> room) { EXPECT_TRUE(room.empty()); }).size(), 0U);
  purge_all();
  EXPECT_TRUE(empty.lock().has_value());
  for (const int priority : {-1, 4}) {
    try {
      const buoy::purgeable_buffer buffer(pool, 4096, priority);
      ADD_FAILURE() << priority;
    } catch (const std::system_error& e) {
      EXPECT_EQ(e.code().value(), EINVAL);
    }
  }
  EXPECT_THROW(buoy::purgeable_buffer(pool, SIZE_MAX), std::bad_alloc);
  EXPECT_THROW(buoy::purgeable_buffer(pool, std::size_t{1} << 60), std::system_error);
}

TEST_F(Purgeable, BufferIsFilledByOneThreadAtATimeBesideReclaim) {
  buoy::purgeable_buffer buffer(pool, 16 * 4096);
  std::atomic<bool> stop{false};
  std::atomic<int> filling{0};
  std::atomic<int> wrong{0};
  std::atomic<int> fills{0};
  std::thread reclaiming([&] {
    while (!stop) pool.reclaim(4096);
  });
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      for (unsigned i = 0; i < 3000; ++i) {
        try {
          const auto guard = buffer.lock([&](std::span<std::byte> room) {
            if (++filling != 1) ++wrong;
            ++fills;
            std::fill(room.begin(), room.end(), std::byte{3});
            --filling;
            if (i % 7 == t) throw std::runtime_error("refused");
          });
          for (std::size_t at = 0; at < guard.size(); at += 4096)
            if (guard.data()[at] != std::byte{3}) ++wrong;
        } catch (const std::runtime_error&) {
        }
        if (i % 64 == 0) buffer.discard();
      }
    });
  for (std::thread& t : threads) t.join();
  stop = true;
  reclaiming.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(fills, 1);
}

using Words = std::vector<std::uint64_t>;
using WordCache = buoy::purgeable_cache<std::uint64_t, Words>;

// A value that tells its key in every word, and has a size of its own.
Words make(std::uint64_t key) { return Words(200 + key * 37 % 3000, key); }
bool is_right(std::uint64_t key, std::span<const std::uint64_t> words) {
  return words.size() == 200 + key * 37 % 3000 &&
         std::all_of(words.begin(), words.end(), [key](std::uint64_t w) { return w == key; });
}

constexpr std::size_t kLargeWords = 8192;  // 64 KiB: 480 of them fit
void ask_for(WordCache& cache, std::uint64_t begin, std::uint64_t end) {
  for (std::uint64_t key = begin; key < end; ++key) {
    const auto value = cache.get(key, [](std::uint64_t k) { return Words(kLargeWords, k); });
    ASSERT_EQ(value.view().front(), key);
    ASSERT_EQ(value.view().back(), key);
  }
}
unsigned count_present(WordCache& cache, std::uint64_t begin, std::uint64_t end) {
  unsigned present = 0;
  for (std::uint64_t key = begin; key < end; ++key) present += cache.find(key).has_value() ? 1 : 0;
  return present;
}

TEST_F(Purgeable, CacheKeepsWhatFitsAndBuildsTheRestAgain) {
  WordCache cache(pool);
  std::mt19937_64 random(1);
  for (int i = 0; i < 60'000; ++i) {
    const std::uint64_t key = random() % 100 < 80 ? random() % 400 : random() % 20'000;
    const auto value = cache.get(key, &make);
    ASSERT_TRUE(is_right(key, value.view())) << key;
  }
  const auto stats = cache.stats();
  EXPECT_EQ(stats.hits + stats.misses, 60'000U);
  EXPECT_GT(stats.hits, 30'000U);
  EXPECT_GT(stats.lost, 0U);
  EXPECT_LT(pool.stat("resident_peak_bytes"), 32 * kMiB + 1);
  // What was purged was cleared away, by and by.
  EXPECT_LT(stats.value_bytes, 64 * kMiB);
}

TEST_F(Purgeable, CacheReusesTheOldestWhileMemoryIsShortAndGrowsWhenItIsNot) {
  WordCache cache(pool);
  constexpr std::uint64_t kKeys = 600;  // of 64 KiB: more than the budget
  const auto ask_for_all = [&cache] { ask_for(cache, 0, kKeys); };
  for (int i = 0; i < 10; ++i) ask_for_all();
  const auto shorter = cache.stats();
  EXPECT_GT(shorter.lost, 0U);
  EXPECT_GT(shorter.reused, 4 * shorter.lost);
  ASSERT_EQ(buoy_pool_resize(pool.get(), 96 * kMiB), 0);
  for (int i = 0; i < 20; ++i) ask_for_all();
  const auto before = cache.stats();
  ask_for_all();
  EXPECT_EQ(cache.stats().hits - before.hits, kKeys);
}

TEST_F(Purgeable, CacheHandlesKeepTheirValues) {
  WordCache cache(pool);
  const auto held = cache.get(7, &make);
  for (std::uint64_t key = 100; key < 8000; ++key) (void)cache.get(key, &make);
  purge_all();
  EXPECT_TRUE(is_right(7, held.view()));
  EXPECT_FALSE(cache.find(5000).has_value());
  EXPECT_FALSE(cache.erase(7));
}

TEST_F(Purgeable, CacheLoadsAKeyOnceForAllWhoWaitAndPassesFailuresOn) {
  WordCache cache(pool);
  std::atomic<int> loads{0};
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (std::uint64_t key = 0; key < 50; ++key) {
        try {
          const auto value = cache.get(key, [&](std::uint64_t k) {
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            if (k == 13) throw std::runtime_error("unlucky");
            ++loads;
            return make(k);
          });
          EXPECT_TRUE(is_right(key, value.view()));
        } catch (const std::runtime_error&) {
          EXPECT_EQ(key, 13U);
          ++failures;
        }
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(loads, 49);
  EXPECT_EQ(failures, 8);
}

TEST_F(Purgeable, CacheIsSafeUnderThreadsAndReclaim) {
  WordCache cache(pool);
  std::atomic<bool> stop{false};
  std::thread reclaiming([&] {
    while (!stop) pool.reclaim(kMiB);
  });
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 5000; ++i) {
        const std::uint64_t key = random() % 600;
        if (random() % 50 == 0) cache.erase(key);
        const auto value = cache.get(key, &make);
        if (!is_right(key, value.view())) ++wrong;
      }
    });
  for (std::thread& t : threads) t.join();
  stop = true;
  reclaiming.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(Purgeable, CacheLoadersMayBuildInPlace) {
  WordCache cache(pool);
  const auto in_place = [](std::uint64_t key, WordCache::place& place) {
    const Words words = make(key);
    const auto room = place.allocate<std::uint64_t>(words.size());
    std::copy(words.begin(), words.end(), room.begin());
  };
  std::uint64_t evicted = 0;  // to reuse their memory, while there was something to lose
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t key = 0; key < 300; ++key)
      EXPECT_TRUE(is_right(key, cache.get(key, in_place).view()));
    if (round < 2) evicted = cache.stats().reused;
    purge_all();
  }
  EXPECT_EQ(cache.stats().lost + evicted, 600U);
}

TEST_F(Purgeable, CacheKeepsWhatWasAskedForAgainThroughAScan) {
  WordCache cache(pool);
  constexpr std::uint64_t kWanted = 300;
  ask_for(cache, 0, kWanted);
  ask_for(cache, 0, kWanted);
  ask_for(cache, 10'000, 12'000);  // four times what fits, each once
  EXPECT_GE(count_present(cache, 0, kWanted), kWanted * 3 / 4);
}

TEST_F(Purgeable, CacheGivesOldFavouritesUpForNewOnes) {
  WordCache cache(pool);
  constexpr std::uint64_t kWanted = 400;
  for (int i = 0; i < 3; ++i) ask_for(cache, 0, kWanted);
  for (int i = 0; i < 20; ++i)
    for (std::uint64_t key = 1000; key < 1000 + kWanted; key += 20) {
      ask_for(cache, key, key + 20);
      ask_for(cache, key, key + 20);
    }
  EXPECT_GT(count_present(cache, 1000, 1000 + kWanted), kWanted * 9 / 10);
}

TEST_F(Purgeable, CacheOfTheHighestPriorityIsInOrderOfLastUse) {
  WordCache::options options;
  options.priority = 3;
  WordCache cache(pool, options);
  constexpr std::uint64_t kWanted = 300;
  ask_for(cache, 0, kWanted);
  ask_for(cache, 0, kWanted);
  ask_for(cache, 10'000, 12'000);
  EXPECT_EQ(count_present(cache, 0, kWanted), 0U);
}

TEST_F(Purgeable, CacheIsWholeAfterTheFailureOfAnyAllocation) {
  buoy::purgeable_cache<std::string, Words> cache(pool);
  const auto key_of = [](std::uint64_t n) {
    return "a key that has its text on the heap, " + std::to_string(n);
  };
  std::uint64_t n = 0;
  const unsigned failures = fail_each_allocation(
      [&] {
        ++n;
        const auto value = cache.get(key_of(n), [&](const std::string&) { return make(n); });
        EXPECT_TRUE(is_right(n, value.view()));
      },
      [&] {
        // Neither in flight nor half there: found right, or built now.
        for (std::uint64_t i = 1; i <= n; ++i) {
          const auto value = cache.get(key_of(i), [&](const std::string&) { return make(i); });
          ASSERT_TRUE(is_right(i, value.view()));
        }
        for (std::uint64_t i = 1; i <= n; i += 3) EXPECT_TRUE(cache.erase(key_of(i)));
      });
  EXPECT_GT(failures, 5U);
}

TEST_F(Purgeable, CacheOfPlainKeysIsWholeAfterTheFailureOfAnyAllocation) {
  WordCache cache(pool);
  (void)cache.get(1000, &make);
  std::uint64_t key = 0;
  const unsigned failures =
      fail_each_allocation([&] { EXPECT_TRUE(is_right(key, cache.get(key, &make).view())); },
                           [&] {
                             EXPECT_TRUE(is_right(key, cache.get(key, &make).view()));
                             ++key;
                           });
  EXPECT_GT(failures, 3U);
}

// A key is forgotten without memory, be there ever so little.
TEST_F(Purgeable, CacheForgetsWithoutAllocating) {
  WordCache cache(pool);
  for (std::uint64_t key = 0; key < 300; ++key) (void)cache.get(key, &make);
  allocations_left = 0;
  bool erased = true;
  for (std::uint64_t key = 0; key < 300; ++key) erased = cache.erase(key) && erased;
  allocations_left = -1;
  EXPECT_TRUE(erased);
  EXPECT_FALSE(has_failed);
  EXPECT_EQ(cache.stats().entries, 0U);
}

TEST_F(Purgeable, CacheLetsGoOfWhatALoaderLeftBehind) {
  WordCache cache(pool);
  for (std::uint64_t key = 0; key < 400; ++key) {
    const auto load = [](std::uint64_t k, WordCache::place& place) {
      const auto room = place.allocate<std::uint64_t>(1000 + k % 7 * 5000);
      std::fill(room.begin(), room.end(), k * 0x9e3779b97f4a7c15U);
      throw std::runtime_error("at the last moment");
    };
    EXPECT_THROW((void)cache.get(key, load), std::runtime_error);
    EXPECT_FALSE(cache.find(key).has_value());
  }
  EXPECT_EQ(cache.stats().entries, 0U);
  EXPECT_EQ(cache.stats().value_bytes, 0U);
  const std::uint64_t resident = pool.stat("resident_bytes");
  EXPECT_GT(resident, 4 * kMiB);
  EXPECT_GE(pool.reclaim(resident / 2), resident / 2);
  EXPECT_EQ(pool.stat("pswpout"), 0U);  // what is of no use can be purged, and goes first
}

TEST_F(Purgeable, CacheFliesOnceAtATimeWhenLoadersThrow) {
  WordCache cache(pool);
  constexpr int kThreads = 8;
  constexpr int kThrows = 3;
  for (std::uint64_t key = 0; key < 30; ++key) {
    std::latch ready(kThreads);
    std::atomic<int> in_flight{0};
    std::atomic<int> calls{0};
    std::atomic<int> caught{0};
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([&] {
        ready.arrive_and_wait();
        try {
          const auto value = cache.get(key, [&](std::uint64_t k, WordCache::place& place) {
            if (++in_flight != 1) ++wrong;
            const int call = ++calls;
            const Words words = make(k);
            const auto room = place.allocate<std::uint64_t>(words.size());
            std::this_thread::sleep_for(std::chrono::microseconds(100));
            std::copy(words.begin(), words.end(), room.begin());
            --in_flight;
            if (call <= kThrows) throw std::runtime_error("not yet");
          });
          if (!is_right(key, value.view())) ++wrong;
        } catch (const std::runtime_error&) {
          ++caught;
        }
      });
    for (std::thread& t : threads) t.join();
    EXPECT_EQ(caught, kThrows);  // each throw has one caller, and nobody else hears of it
    EXPECT_EQ(calls, kThrows + 1);
    EXPECT_EQ(wrong, 0);
  }
}

TEST_F(Purgeable, CacheKeepsEmptyValues) {
  WordCache cache(pool);
  int loads = 0;
  const auto empty = [&](std::uint64_t) {
    ++loads;
    return Words();
  };
  EXPECT_TRUE(cache.get(1, empty).view().empty());
  EXPECT_TRUE(cache
                  .get(2,
                       [&](std::uint64_t, WordCache::place& place) {
                         ++loads;
                         EXPECT_TRUE(place.allocate<std::uint64_t>(0).empty());
                       })
                  .view()
                  .empty());
  // One that was something before, and whose loader now has nothing to place.
  (void)cache.get(3, &make);
  purge_all();
  EXPECT_TRUE(cache.get(3, [&](std::uint64_t, WordCache::place&) { ++loads; }).view().empty());
  EXPECT_TRUE(cache.get(4, [&](std::uint64_t, WordCache::place&) { ++loads; }).view().empty());
  purge_all();
  // In nothing there is nothing to lose.
  for (std::uint64_t key = 1; key <= 4; ++key) {
    const auto value = cache.find(key);
    ASSERT_TRUE(value.has_value()) << key;
    EXPECT_TRUE(value->view().empty()) << key;
  }
  EXPECT_EQ(loads, 4);
}

TEST_F(Purgeable, CacheRefusesSizesThatThereAreNotAndForgetsTheKey) {
  WordCache cache(pool);
  for (const std::size_t count :
       {SIZE_MAX, SIZE_MAX / 4, SIZE_MAX / 8, (std::size_t{1} << 48) / 8}) {
    const auto load = [count](std::uint64_t, WordCache::place& place) {
      (void)place.allocate<std::uint64_t>(count);
    };
    EXPECT_THROW((void)cache.get(1, load), std::bad_alloc) << count;
    EXPECT_EQ(cache.stats().entries, 0U);
  }
  EXPECT_TRUE(is_right(1, cache.get(1, &make).view()));
}

TEST_F(Purgeable, CacheRefusesOptionsThatWouldLoseValuesInSilence) {
  const auto with = [this](int priority, unsigned flags) {
    WordCache::options options;
    options.priority = priority;
    options.flags = flags;
    const WordCache cache(pool, options);
  };
  EXPECT_THROW(with(-1, 0), std::invalid_argument);
  EXPECT_THROW(with(4, 0), std::invalid_argument);
  EXPECT_THROW(with(0, BUOY_DROPPABLE), std::invalid_argument);
  EXPECT_NO_THROW(with(3, BUOY_VOLATILE_MAY_COMPRESS));
}

// A value whose traits refuse some.
struct Picky {
  int number = 0;
};

}  // namespace

template <>
struct buoy::purgeable_traits<Picky> {
  using view = int;
  static std::size_t bytes(const Picky& p) {
    if (p.number == 1) throw std::length_error("bytes");
    return sizeof p.number;
  }
  static void store(const Picky& p, std::byte* to) {
    if (p.number == 2) throw std::range_error("store");
    std::memcpy(to, &p.number, sizeof p.number);
  }
  static view load(const std::byte* from, std::size_t) {
    int number = 0;
    std::memcpy(&number, from, sizeof number);
    return number;
  }
};

namespace {

TEST_F(Purgeable, CachePassesOnWhatAValueThrows) {
  buoy::purgeable_cache<int, Picky> cache(pool);
  const auto load = [](int key) { return Picky{key % 10}; };
  EXPECT_THROW((void)cache.get(1, load), std::length_error);
  EXPECT_THROW((void)cache.get(2, load), std::range_error);
  EXPECT_FALSE(cache.find(1).has_value());
  EXPECT_FALSE(cache.find(2).has_value());
  EXPECT_EQ(cache.get(3, load).view(), 3);
  EXPECT_EQ(cache.get(2, [](int) { return Picky{5}; }).view(), 5);
  EXPECT_EQ(cache.stats().entries, 2U);
}

struct Small {
  int a;
  double b;
};

TEST_F(Purgeable, CacheTakesStringsAndPlainStructs) {
  buoy::purgeable_cache<std::string, std::string> strings(pool);
  EXPECT_EQ(strings.get("x", [](const std::string& k) { return k + "yz"; }).view(), "xyz");
  EXPECT_EQ(strings.get("", [](const std::string&) { return std::string(); }).view(), "");
  buoy::purgeable_cache<int, Small> structs(pool);
  EXPECT_EQ(structs.get(3, [](int k) { return Small{k, 1.5}; }).view().a, 3);
}

TEST(PageRuns, ClassesCoverEverySizeTightly) {
  const buoy::Pool pool(32 * kMiB, signals());
  buoy::detail::page_runs runs(pool, 0);
  for (std::size_t pages = 1; pages < 3000; ++pages) {
    const auto run = runs.allocate(pages * 4096);
    EXPECT_GE(run.pages, pages);
    EXPECT_LE(run.pages, pages + pages / 4);
    EXPECT_TRUE(runs.is_for(run, pages * 4096));
    runs.free(run);
    EXPECT_EQ(runs.allocate(pages * 4096).at, run.at);
    runs.free(run);
  }
}

}  // namespace
