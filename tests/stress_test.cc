// ctest: timeout=300
//
// Threads on real memory, through the C API, in both fault deliveries: every page carries owner and
// version and is verified at each visit, while other threads map, unmap, remap, advise, pin,
// reclaim and resize. Seconds long; BUOY_STRESS_SECONDS makes it as long as you like.

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "pool_testing.h"

namespace buoy::testing {
namespace {

using Clock = std::chrono::steady_clock;

class Stress : public ::testing::TestWithParam<Delivery> {};
INSTANTIATE_TEST_SUITE_P(Delivery, Stress, ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& delivery) { return name_of(delivery.param); });

// One thread and the memory that only it touches.
class Owner {
 public:
  Owner(buoy_pool* pool, std::uint64_t id, std::size_t pages)
      : pool_(pool), id_(id), random_(id), pages_(pages), state_(pages) {
    memory_ = static_cast<std::byte*>(buoy_map(pool, pages * kPageSize, 0));
  }
  ~Owner() { EXPECT_EQ(buoy_unmap(memory_, pages_ * kPageSize), 0); }
  Owner(const Owner&) = delete;
  Owner& operator=(const Owner&) = delete;

  void step() {
    const std::uint64_t dice = random_() % 1000;
    const std::size_t page = random_() % pages_;
    const std::size_t n = std::min<std::size_t>(pages_ - page, 1 + random_() % 64);
    if (dice < 400)
      check(page);
    else if (dice < 700)
      stamp(page);
    else if (dice < 720)
      sweep(page);
    else if (dice < 770)
      free_lazily(page, n);
    else if (dice < 800)
      free_until_reuse(page, n);
    else if (dice < 820)
      discard(page, n);
    else if (dice < 840)
      EXPECT_EQ(buoy_advise(at(page), n * kPageSize, BUOY_PAGEOUT), 0);
    else if (dice < 860)
      EXPECT_EQ(buoy_advise(at(page), n * kPageSize, BUOY_COLD), 0);
    else if (dice < 880)
      EXPECT_EQ(buoy_advise(at(page), n * kPageSize, BUOY_WILLNEED), 0);
    else if (dice < 890)
      reuse(page, n, random_() % 2 == 0 ? BUOY_REUSE : BUOY_POPULATE);
    else if (dice < 900)
      forget_perhaps(page, n);
    else if (dice < 960)
      hold(page, std::min<std::size_t>(n, 8));
    else if (dice < 990)
      map_and_forget();
    else
      remap();
  }
  void check_all() {
    for (std::size_t page = 0; page < pages_; ++page) check(page);
  }
  [[nodiscard]] std::uint64_t failures() const { return failures_; }

 private:
  struct State {
    std::uint32_t version = 0;
    bool is_lazy = false;
    bool is_idle = false;  // freed until reuse
  };
  [[nodiscard]] std::byte* at(std::size_t page) const { return memory_ + page * kPageSize; }
  [[nodiscard]] std::uint64_t name(std::size_t page) const { return id_ << 24 | page; }

  void check(std::size_t page) {
    State& s = state_[page];
    if (holds_stamp(at(page), name(page), s.version)) return;
    // Discarded between two of our reads, the page was compared as a mixture; it is zeros now. It
    // may be idle all the same: a neighbour's fault brought it back, and it was freed once more.
    if (s.is_lazy && holds_stamp(at(page), name(page), 0)) {
      s = {0, false, s.is_idle};
      return;
    }
    ++failures_;
    ADD_FAILURE() << "page " << page << " of " << id_ << " version " << s.version
                  << (s.is_lazy ? " (lazily freed)" : "");
  }
  void stamp(std::size_t page) {
    if (state_[page].is_idle) reuse(page, 1, BUOY_REUSE);
    check(page);
    State& s = state_[page];
    s = {s.version + 1, false};
    stamp_page(at(page), name(page), s.version);
  }
  void sweep(std::size_t page) {
    for (std::size_t i = page; i < std::min(pages_, page + 200); ++i)
      i % 3 == 0 ? stamp(i) : check(i);
  }
  void free_lazily(std::size_t page, std::size_t n) {
    EXPECT_EQ(buoy_advise(at(page), n * kPageSize, BUOY_FREE), 0);
    for (std::size_t i = page; i < page + n; ++i) state_[i].is_lazy = true;
  }
  void free_until_reuse(std::size_t page, std::size_t n) {
    EXPECT_EQ(buoy_advise(at(page), n * kPageSize, BUOY_FREE_UNTIL_REUSE), 0);
    for (std::size_t i = page; i < page + n; ++i) state_[i].is_lazy = state_[i].is_idle = true;
  }
  void discard(std::size_t page, std::size_t n) {
    EXPECT_EQ(buoy_advise(at(page), n * kPageSize, BUOY_DONTNEED), 0);
    for (std::size_t i = page; i < page + n; ++i) state_[i] = {};
  }
  // Ordinary again: the pages are as a check finds them now, and stay so.
  void reuse(std::size_t page, std::size_t n, int advice) {
    EXPECT_EQ(buoy_advise(at(page), n * kPageSize, advice), 0);
    for (std::size_t i = page; i < page + n; ++i) {
      check(i);
      state_[i].is_lazy = state_[i].is_idle = false;
    }
  }
  // Volatile for a while, untouched: what was purged is told of, and reads zeros.
  void forget_perhaps(std::size_t page, std::size_t n) {
    const auto bytes = static_cast<ssize_t>(n * kPageSize);
    EXPECT_EQ(buoy_mark_volatile(at(page), n * kPageSize, static_cast<int>(random_() % 4)), bytes);
    std::this_thread::sleep_for(std::chrono::microseconds(random_() % 500));
    int purged = 0;
    EXPECT_EQ(buoy_mark_nonvolatile(at(page), n * kPageSize, &purged), bytes);
    for (std::size_t i = page; i < page + n; ++i) {
      State& s = state_[i];
      const bool was_lazy = s.is_lazy;
      s.is_lazy = was_lazy || purged == 1;
      check(i);
      s.is_lazy = was_lazy && s.version != 0;
    }
  }
  void hold(std::size_t page, std::size_t n) {
    const bool writes = random_() % 2 == 0;
    if (buoy_pin(at(page), n * kPageSize, writes ? BUOY_WRITE : 0) != 0) {
      EXPECT_EQ(errno, EAGAIN);
      return;
    }
    unsigned char where[8];
    EXPECT_EQ(buoy_residency(at(page), n * kPageSize, where), 0);
    for (std::size_t i = 0; i < n; ++i)
      EXPECT_TRUE(where[i] == BUOY_PAGE_MAPPED || where[i] == BUOY_PAGE_LAZYFREE) << +where[i];
    for (std::size_t i = page; i < page + n; ++i) writes ? stamp(i) : check(i);
    EXPECT_EQ(buoy_unpin(at(page), n * kPageSize, writes ? BUOY_DIRTIED : 0), 0);
  }
  void map_and_forget() {
    const std::size_t n = 1 + random_() % 100;
    auto* fresh = static_cast<std::byte*>(
        buoy_map(pool_, n * kPageSize, random_() % 2 == 0 ? BUOY_DROPPABLE : 0));
    ASSERT_NE(fresh, nullptr);
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_TRUE(holds_stamp(fresh + i * kPageSize, 0, 0)) << "a new mapping is not zeros";
      stamp_page(fresh + i * kPageSize, id_, i + 1);
    }
    EXPECT_EQ(buoy_unmap(fresh, n * kPageSize), 0);
  }
  void remap() {
    auto* fresh =
        static_cast<std::byte*>(buoy_remap(memory_, pages_ * kPageSize, (pages_ + 1) * kPageSize));
    if (fresh == nullptr) {
      EXPECT_EQ(errno, ENOMEM);
      return;
    }
    memory_ = fresh;
    EXPECT_TRUE(holds_stamp(at(pages_), 0, 0));
    EXPECT_EQ(buoy_unmap(at(pages_), kPageSize), 0);
    for (State& s : state_) s.is_lazy = s.is_lazy && s.version != 0;
  }

  buoy_pool* pool_;
  std::uint64_t id_;
  std::mt19937_64 random_;
  std::size_t pages_;
  std::vector<State> state_;
  std::byte* memory_ = nullptr;
  std::uint64_t failures_ = 0;
};

// What moves out of the way keeps its contents; what was claimed is its owner's alone.
void claim_contiguous(buoy_pool* pool, std::size_t bytes) {
  auto* p = static_cast<unsigned char*>(buoy_alloc_contiguous(pool, bytes, 0));
  if (p == nullptr) {
    EXPECT_EQ(errno, ENOMEM);
    return;
  }
  std::memset(p, 0x6b, bytes);
  EXPECT_EQ(buoy_compact(pool), 0);
  EXPECT_TRUE(std::all_of(p, p + bytes, [](unsigned char c) { return c == 0x6b; }));
  EXPECT_EQ(buoy_free_contiguous(pool, p), 0);
}

TEST_P(Stress, ContentsAndBudgetHold) {
  static constexpr std::size_t kBudget = 48 * kMiB;
  constexpr std::size_t kThreads = 3;
  constexpr std::size_t kPages = 32 * kMiB / kPageSize;
  OutsideObserver outside;
  TestPool pool(GetParam(), kBudget);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  constexpr int kRounds = 4;
  const auto round_time = std::chrono::duration<double>(stress_seconds(8) / kRounds);
  {
    std::vector<std::unique_ptr<Owner>> owners;
    for (std::size_t i = 0; i < kThreads; ++i)
      owners.push_back(std::make_unique<Owner>(pool.get(), i + 1, kPages));
    for (int round = 0; round < kRounds; ++round) {
      std::atomic<bool> stop{false};
      std::vector<std::thread> threads;
      for (auto& owner : owners)
        threads.emplace_back([&stop, &owner] {
          while (!stop.load() && owner->failures() == 0) owner->step();
        });
      threads.emplace_back([&stop, &pool] {
        std::mt19937_64 random(7);
        while (!stop.load()) {
          EXPECT_GE(buoy_pool_reclaim(pool.get(), random() % (4 * kMiB)), 0);
          const std::size_t budget = kBudget - random() % (16 * kMiB);
          EXPECT_TRUE(buoy_pool_resize(pool.get(), budget) == 0 || errno == EAGAIN);
          EXPECT_LE(pool.stat("resident_bytes"), kBudget);
          claim_contiguous(pool.get(), 1 + random() % (3 * kMiB));
          EXPECT_EQ(buoy_compact(pool.get()), 0);
          std::this_thread::sleep_for(std::chrono::milliseconds(5));
        }
      });
      const auto end = Clock::now() + round_time;
      while (Clock::now() < end) std::this_thread::sleep_for(std::chrono::milliseconds(10));
      stop.store(true);
      for (std::thread& t : threads) t.join();
      pool.validate();
      for (auto& owner : owners) ASSERT_EQ(owner->failures(), 0U);
    }
    EXPECT_EQ(buoy_pool_resize(pool.get(), kBudget), 0);
    for (auto& owner : owners) owner->check_all();
    EXPECT_LE(pool.stat("resident_peak_bytes"), kBudget);
    EXPECT_GT(pool.stat("pswpout"), 0U);
    EXPECT_GT(pool.stat("pglazyfreed"), 0U);
    const std::size_t allowed = kBudget + pool.stat("metadata_bytes") + 32 * kMiB;
    const std::size_t growth = outside.peak_growth();
    EXPECT_TRUE(kIsSanitized || growth <= allowed) << growth << " bytes, " << allowed;
  }
  pool.validate();
  EXPECT_EQ(pool.stat("resident_bytes"), pool.stat("arena_bytes"));
}

// Two words of each page tell the store that was last; a free may take it, but never half of it.
TEST_P(Stress, FreesRaceWithStores) {
  TestPool pool(GetParam(), 16 * kMiB);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  constexpr std::size_t kPages = 1024;
  auto* memory = static_cast<std::byte*>(buoy_map(pool.get(), kPages * kPageSize, 0));
  ASSERT_NE(memory, nullptr);
  const auto word = [memory](std::size_t page, std::size_t offset) {
    return reinterpret_cast<std::atomic<std::uint64_t>*>(memory + page * kPageSize + offset);
  };
  std::atomic<bool> stop{false};
  std::thread freeing([&] {
    std::mt19937_64 random(3);
    while (!stop.load()) {
      const std::size_t page = random() % kPages;
      const std::size_t n = std::min<std::size_t>(kPages - page, 1 + random() % 600);
      EXPECT_EQ(buoy_advise(memory + page * kPageSize, n * kPageSize, BUOY_FREE), 0);
      if (random() % 32 == 0) (void)buoy_pool_reclaim(pool.get(), kMiB);
    }
  });
  std::uint64_t version = 0;
  const auto end = Clock::now() + std::chrono::duration<double>(stress_seconds(2));
  std::vector<std::uint64_t> last(kPages);
  std::uint64_t wrong = 0;
  while (Clock::now() < end) {
    ++version;
    for (std::size_t page = 0; page < kPages; ++page) {
      for (const std::size_t offset : {std::size_t{0}, kPageSize - 8}) {
        const std::uint64_t found = word(page, offset)->load();
        if (found != 0 && found != last[page]) ++wrong;
      }
      word(page, 0)->store(version);
      word(page, kPageSize - 8)->store(version);
      last[page] = version;
    }
  }
  stop.store(true);
  freeing.join();
  EXPECT_EQ(wrong, 0U);
  ++version;
  for (std::size_t page = 0; page < kPages; ++page) {
    word(page, 0)->store(version);
    word(page, kPageSize - 8)->store(version);
  }
  EXPECT_EQ(buoy_advise(memory, kPages * kPageSize, BUOY_PAGEOUT), 0);
  for (std::size_t page = 0; page < kPages; ++page) {
    ASSERT_EQ(word(page, 0)->load(), version);
    ASSERT_EQ(word(page, kPageSize - 8)->load(), version);
  }
  EXPECT_GT(pool.stat("pglazyunfreed"), 0U);
  EXPECT_EQ(buoy_unmap(memory, kPages * kPageSize), 0);
  pool.validate();
}

// Threads advise, pin and ask about memory that another unmaps and maps again: whatever the
// outcome, the pool stays whole.
TEST_P(Stress, AdviceRacesWithUnmap) {
  TestPool pool(GetParam(), 24 * kMiB);
  if (!pool.why_not().empty()) GTEST_SKIP() << pool.why_not();
  constexpr std::size_t kBytes = 40 * kMiB;  // a region of its own
  std::atomic<std::byte*> memory{static_cast<std::byte*>(buoy_map(pool.get(), kBytes, 0))};
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned id = 0; id < 2; ++id)
    threads.emplace_back([&, id] {
      std::mt19937_64 random(id);
      std::vector<unsigned char> where(kBytes / kPageSize);
      while (!stop.load()) {
        std::byte* at = memory.load() + random() % (kBytes / kBlockSize) * kBlockSize;
        constexpr int kAdvice[] = {BUOY_FREE,    BUOY_REUSE,    BUOY_DONTNEED,        BUOY_COLD,
                                   BUOY_PAGEOUT, BUOY_WILLNEED, BUOY_FREE_UNTIL_REUSE};
        (void)buoy_advise(at, kBlockSize, kAdvice[random() % std::size(kAdvice)]);
        (void)buoy_residency(at, kBlockSize, where.data());
        if (buoy_pin(at, 4 * kPageSize, BUOY_WRITE) == 0) (void)buoy_unpin(at, 4 * kPageSize, 0);
        (void)buoy_pool_reclaim(pool.get(), 256 * kPageSize);
      }
    });
  const auto end = Clock::now() + std::chrono::duration<double>(stress_seconds(3));
  while (Clock::now() < end) {
    std::byte* old = memory.load();
    for (std::size_t i = 0; i < kBytes; i += kBlockSize / 4) stamp_page(old + i, 1, i + 1);
    auto* fresh = static_cast<std::byte*>(buoy_map(pool.get(), kBytes, 0));
    ASSERT_NE(fresh, nullptr);
    memory.store(fresh);
    EXPECT_EQ(buoy_unmap(old, kBytes), 0);
  }
  stop.store(true);
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(buoy_unmap(memory.load(), kBytes), 0);
  pool.validate();
}

}  // namespace
}  // namespace buoy::testing
