// ctest: timeout=120
//
// Movable pages by the C and the C++ API: bad input, a driver's buffers, and everything that moves
// at once, with stamps.
#include <gtest/gtest.h>

#include <atomic>
#include <buoy/movable.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "stamps_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBudget = 64 * kMiB;
constexpr std::size_t kPageSize = 4096;

template <typename F>
int errno_of(F call) {
  errno = 0;
  return call() ? 0 : errno;
}

// Buffers by number, moved under one mutex that callbacks only try: what an ordinary driver does.
class Driver {
 public:
  explicit Driver(const buoy::Pool& pool, std::size_t bytes) : bytes_(bytes), owner_(pool, ops()) {}
  ~Driver() {
    for (std::size_t i = 0; i < slots_.size(); ++i)
      if (slots_[i]->at != nullptr) destroy(i);
  }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  std::size_t create(unsigned char value) {
    auto* const at = static_cast<std::byte*>(owner_.allocate(bytes_));
    std::memset(at, value, bytes_);
    Slot* slot = nullptr;
    std::size_t index = 0;
    {
      const std::lock_guard guard(mutex_);
      index = slots_.size();
      slots_.push_back(std::make_unique<Slot>(Slot{at, value, false}));
      slot = slots_.back().get();
    }
    owner_.set_movable(at, slot);
    return index;
  }
  void destroy(std::size_t index) {
    const std::lock_guard guard(mutex_);
    EXPECT_TRUE(owner_.try_free(slots_[index]->at));
    slots_[index]->at = nullptr;
  }
  [[nodiscard]] bool is_intact(std::size_t index) {
    const std::lock_guard guard(mutex_);
    const Slot& s = *slots_[index];
    for (std::size_t i = 0; i < bytes_; ++i)
      if (s.at[i] != static_cast<std::byte>(s.value)) return false;
    return true;
  }
  [[nodiscard]] std::byte* at(std::size_t index) {
    const std::lock_guard guard(mutex_);
    return slots_[index]->at;
  }
  void keep(std::size_t index, bool keeps) {
    const std::lock_guard guard(mutex_);
    slots_[index]->keeps = keeps;
  }
  [[nodiscard]] movable_owner& owner() { return owner_; }

 private:
  struct Slot {
    std::byte* at;
    unsigned char value;
    bool keeps;
  };
  movable_ops ops() {
    movable_ops o;
    o.context = this;
    o.isolate = [](void* self, void*, void* data, migrate_mode) noexcept {
      const std::unique_lock lock(static_cast<Driver*>(self)->mutex_, std::try_to_lock);
      return lock.owns_lock() && !static_cast<Slot*>(data)->keeps;
    };
    o.migrate = [](void* self, void* to, void* from, void* data, migrate_mode) noexcept {
      auto& driver = *static_cast<Driver*>(self);
      const std::unique_lock lock(driver.mutex_, std::try_to_lock);
      auto& slot = *static_cast<Slot*>(data);
      if (!lock.owns_lock() || slot.keeps) return migrate_result::again;
      if (slot.at != from) return migrate_result::failed;
      std::memcpy(to, from, driver.bytes_);
      slot.at = static_cast<std::byte*>(to);
      return migrate_result::done;
    };
    o.put_back = [](void*, void*, void*) noexcept {};
    return o;
  }

  std::size_t bytes_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Slot>> slots_;
  movable_owner owner_;
};

buoy::PoolOptions signals(std::size_t reserve = 0) {
  buoy::PoolOptions options;
  options.faults = BUOY_FAULTS_SIGNAL;
  options.contiguous_reserve = reserve;
  return options;
}

TEST(Movable, AMissingFunctionIsNamed) {
  const buoy::Pool pool(kBudget, signals());
  movable_ops good;
  good.isolate = [](void*, void*, void*, migrate_mode) noexcept { return true; };
  good.migrate = [](void*, void*, void*, void*, migrate_mode) noexcept {
    return migrate_result::again;
  };
  good.put_back = [](void*, void*, void*) noexcept {};
  const auto error_of = [&](auto change) {
    movable_ops ops = good;
    change(ops);
    try {
      const movable_owner owner(pool, ops);
      return std::string("none");
    } catch (const std::system_error& e) {
      EXPECT_EQ(e.code().value(), EINVAL);
      return std::string(e.what());
    }
  };
  EXPECT_EQ(error_of([](movable_ops&) {}), "none");
  const auto npos = std::string::npos;
  EXPECT_NE(error_of([](movable_ops& o) { o.isolate = nullptr; }).find("isolate"), npos);
  EXPECT_NE(error_of([](movable_ops& o) { o.migrate = nullptr; }).find("migrate"), npos);
  EXPECT_NE(error_of([](movable_ops& o) { o.put_back = nullptr; }).find("put_back"), npos);
  // The same in C, field by field.
  buoy_movable_ops c{};
  c.struct_size = sizeof c;
  c.isolate = [](void*, void*, void*, int) { return 0; };
  c.migrate = [](void*, void*, void*, void*, int) { return int{BUOY_MIGRATE_AGAIN}; };
  c.put_back = [](void*, void*, void*) {};
  buoy_movable_owner* owner = nullptr;
  const auto refused = [&](auto change) {
    buoy_movable_ops bad = c;
    change(bad);
    return errno_of([&] { return buoy_movable_owner_create(pool.get(), &bad, &owner) == 0; });
  };
  EXPECT_EQ(refused([](buoy_movable_ops& o) { o.isolate = nullptr; }), EINVAL);
  EXPECT_EQ(refused([](buoy_movable_ops& o) { o.migrate = nullptr; }), EINVAL);
  EXPECT_EQ(refused([](buoy_movable_ops& o) { o.put_back = nullptr; }), EINVAL);
  EXPECT_EQ(refused([](buoy_movable_ops& o) { o.struct_size = 8; }), EINVAL);
  EXPECT_EQ(refused([](buoy_movable_ops& o) { o.flags = 2; }), EINVAL);
  EXPECT_EQ(owner, nullptr);
  EXPECT_EQ(errno_of([&] { return buoy_movable_owner_create(nullptr, &c, &owner) == 0; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_movable_owner_create(pool.get(), nullptr, &owner) == 0; }),
            EINVAL);
  ASSERT_EQ(buoy_movable_owner_create(pool.get(), &c, &owner), 0);
  void* page = buoy_movable_alloc(owner, 3 * kPageSize);
  ASSERT_NE(page, nullptr);
  EXPECT_EQ(errno_of([&] { return buoy_movable_owner_destroy(owner) == 0; }), EBUSY);
  EXPECT_EQ(errno_of([&] { return buoy_movable_alloc(owner, 0) != nullptr; }), EINVAL);
  EXPECT_EQ(errno_of([&] { return buoy_movable_alloc(owner, 2 * kMiB + 1) != nullptr; }), EINVAL);
  char* inside = static_cast<char*>(page);
  for (void* bad : {static_cast<void*>(inside + 1), static_cast<void*>(inside + kPageSize),
                    static_cast<void*>(&c), static_cast<void*>(nullptr)}) {
    EXPECT_EQ(errno_of([&] { return buoy_movable_set(owner, bad, nullptr) == 0; }), EINVAL);
    EXPECT_EQ(errno_of([&] { return buoy_movable_clear(owner, bad) == 0; }), EINVAL);
    EXPECT_EQ(errno_of([&] { return buoy_movable_free(owner, bad) == 0; }), EINVAL);
  }
  EXPECT_EQ(buoy_movable_free(owner, page), 0);
  EXPECT_EQ(errno_of([&] { return buoy_movable_free(owner, page) == 0; }), EINVAL);
  EXPECT_EQ(buoy_movable_owner_destroy(owner), 0);
}

TEST(Movable, ADriversBuffersMoveAndAreIntact) {
  buoy::Pool pool(kBudget, signals());
  Driver driver(pool, 3 * kPageSize);
  std::vector<std::size_t> left;
  for (unsigned i = 0; i < 2000; ++i) {
    const std::size_t n = driver.create(static_cast<unsigned char>(i));
    if (i % 10 == 0) left.push_back(n);
  }
  for (std::size_t i = 0; i < 2000; ++i)
    if (i % 10 != 0) driver.destroy(i);
  driver.keep(left[7], true);
  const std::byte* kept = driver.at(left[7]);
  const std::uint64_t before = pool.stat("arena_bytes");
  pool.compact();
  EXPECT_LT(pool.stat("arena_bytes") * 3, before);
  EXPECT_GT(pool.stat("pgmigrate_success"), 100U);
  EXPECT_EQ(driver.at(left[7]), kept);
  for (const std::size_t n : left) EXPECT_TRUE(driver.is_intact(n)) << n;
  EXPECT_LE(pool.stat("arena_lost_bytes"), 2 * 2 * kMiB);
}

TEST(Movable, ShrinkingGivesWholeBlocksBackAndThenSingleFrames) {
  buoy::Pool pool(kBudget, signals());
  Driver driver(pool, kPageSize);
  const auto fill_thinly = [&](std::size_t every) {
    std::vector<std::size_t> all;
    for (std::size_t i = 0; i < 40 * kMiB / kPageSize; ++i)
      all.push_back(driver.create(static_cast<unsigned char>(i)));
    std::vector<std::size_t> left;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i % every == 0)
        left.push_back(all[i]);
      else
        driver.destroy(all[i]);
    }
    return left;
  };
  const std::vector<std::size_t> moves = fill_thinly(8);
  EXPECT_GT(pool.stat("arena_bytes"), 30 * kMiB);
  pool.resize(24 * kMiB);
  EXPECT_LE(pool.stat("resident_bytes"), 24 * kMiB);
  EXPECT_EQ(pool.stat("balloon_bytes"), 0U);
  EXPECT_GE(pool.stat("balloon_inflate"), 20 * kMiB / kPageSize);
  for (const std::size_t n : moves) {
    EXPECT_TRUE(driver.is_intact(n));
    driver.destroy(n);
  }
  // The same with pages that their owner keeps where they are.
  pool.resize(kBudget);
  const std::vector<std::size_t> stays = fill_thinly(8);
  for (const std::size_t n : stays) driver.keep(n, true);
  EXPECT_GT(pool.stat("arena_bytes"), 30 * kMiB);
  pool.resize(24 * kMiB);
  EXPECT_LE(pool.stat("resident_bytes"), 24 * kMiB);
  EXPECT_GT(pool.stat("balloon_bytes"), 0U);
  for (const std::size_t n : stays) EXPECT_TRUE(driver.is_intact(n));
  // Growing takes them back at once.
  pool.resize(kBudget);
  EXPECT_EQ(pool.stat("balloon_bytes"), 0U);
  EXPECT_GT(pool.stat("balloon_deflate"), 0U);
  for (const std::size_t n : stays) EXPECT_TRUE(driver.is_intact(n));
}

// zram in and out, a driver's buffers, contiguous memory and compaction, all at once.
TEST(Movable, StressOfEverythingThatMoves) {
  buoy::Pool pool(kBudget, signals(8 * kMiB));
  const double seconds = stress_seconds(4);
  std::atomic<bool> stop{false};
  std::atomic<unsigned> wrong{0};
  std::atomic<std::uint64_t> touches{0};
  std::atomic<std::uint64_t> contiguous{0};
  const auto toucher = [&](unsigned id) {
    constexpr std::size_t kPages = 2 * kBudget / kPageSize / 3;  // two of these
    const buoy::Region region(pool, kPages * kPageSize);
    std::vector<unsigned> versions(kPages, 0);
    std::mt19937_64 random(id);
    while (!stop.load()) {
      const std::size_t i = random() % kPages;
      std::byte* page = region.data() + i * kPageSize;
      if (!holds_stamp(page, versions[i] == 0 ? 0 : id, versions[i])) wrong.fetch_add(1);
      if (random() % 2 == 0) stamp_page(page, id, ++versions[i]);
      if (random() % 64 == 0 &&
          buoy_advise(page, kPageSize, random() % 2 == 0 ? BUOY_PAGEOUT : BUOY_COLD) != 0)
        wrong.fetch_add(1);
      touches.fetch_add(1, std::memory_order_relaxed);
    }
    for (std::size_t i = 0; i < kPages; ++i)
      if (!holds_stamp(region.data() + i * kPageSize, versions[i] == 0 ? 0 : id, versions[i]))
        wrong.fetch_add(1);
  };
  Driver driver(pool, 2 * kPageSize);
  const auto driving = [&] {
    std::mt19937_64 random(77);
    std::vector<std::size_t> live;
    while (!stop.load()) {
      if (live.size() < 500) {
        live.push_back(driver.create(static_cast<unsigned char>(random())));
      } else {
        std::size_t& n = live[random() % live.size()];
        if (!driver.is_intact(n)) wrong.fetch_add(1);
        driver.destroy(n);
        n = live.back();
        live.pop_back();
      }
    }
    for (const std::size_t n : live)
      if (!driver.is_intact(n)) wrong.fetch_add(1);
  };
  const auto claiming = [&] {
    std::mt19937_64 random(99);
    while (!stop.load()) {
      const std::size_t bytes = 1 + random() % (random() % 4 == 0 ? 6 * kMiB : 64 << 10);
      auto* p = static_cast<std::byte*>(buoy_alloc_contiguous(
          pool.get(), bytes, random() % 2 == 0 ? unsigned{BUOY_RESERVE_AREA} : 0U));
      if (p != nullptr) {
        std::memset(p, 0x6b, bytes);
        contiguous.fetch_add(1);
        pool.compact();
        for (std::size_t i = 0; i < bytes; ++i)
          if (p[i] != std::byte{0x6b}) wrong.fetch_add(1);
        if (buoy_free_contiguous(pool.get(), p) != 0) wrong.fetch_add(1);
      }
    }
  };
  std::vector<std::thread> threads;
  threads.emplace_back(toucher, 1U);
  threads.emplace_back(toucher, 2U);
  threads.emplace_back(driving);
  threads.emplace_back(claiming);
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop.store(true);
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong.load(), 0U);
  EXPECT_GT(touches.load(), 1000U);
  EXPECT_GT(contiguous.load(), 5U);
  EXPECT_GT(pool.stat("pgmigrate_success"), 0U);
  EXPECT_LE(pool.stat("resident_peak_bytes"), kBudget);
}

}  // namespace
}  // namespace buoy::testing
