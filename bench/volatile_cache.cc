// The cache workload: purgeable_cache, and the LRU of a fixed size that one writes without it.
#include <malloc.h>

#include <atomic>
#include <buoy/purgeable_cache.hpp>
#include <chrono>
#include <cstring>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "access_pattern.h"
#include "child.h"
#include "page_data.h"
#include "volatile_work.h"

namespace buoy::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kObject = 64 << 10;
constexpr std::size_t kObjectWords = kObject / sizeof(std::uint64_t);
constexpr unsigned kThreads = 2;

// Builds object `key` at `to`. Its pages' first words tell which it is.
class Builder {
 public:
  void build(std::uint64_t key, std::uint64_t* to) const {
    const auto start = Clock::now();
    for (std::size_t page = 0; page < kObject / kPageBytes; ++page)
      data_.fill(to + page * kPageWords, key);
    const double us = rebuild_us.load(std::memory_order_relaxed);
    while (std::chrono::duration<double, std::micro>(Clock::now() - start).count() < us) {
    }
  }
  std::atomic<double> rebuild_us{0};

 private:
  PageData data_{0.5};
};

void expect_object(std::uint64_t key, const std::uint64_t* words) {
  // A user looks at what it asked for: here at every page.
  for (std::size_t i = 0; i < kObjectWords; i += kPageWords)
    if (words[i] != key) std::abort();
}

// The plainest cache: one lock a shard, a hash and a list, values on the heap.
class FixedLru {
 public:
  explicit FixedLru(std::size_t capacity_bytes) {
    for (Shard& s : shards_) s.capacity = capacity_bytes / kObject / kShards;
  }
  using Value = std::shared_ptr<const std::vector<std::uint64_t>>;
  // The value; whether it was there.
  std::pair<Value, bool> get(std::uint64_t key, const Builder& builder) {
    Shard& s = shards_[key * 0x9e3779b97f4a7c15U >> 60];
    {
      const std::lock_guard lock(s.mutex);
      if (const auto it = s.entries.find(key); it != s.entries.end()) {
        s.by_age.splice(s.by_age.begin(), s.by_age, it->second);
        return {it->second->value, true};
      }
      // Room first, so that what is thrown out is used again.
      while (!s.by_age.empty() && s.entries.size() >= s.capacity) {
        s.entries.erase(s.by_age.back().key);
        s.by_age.pop_back();
      }
    }
    auto fresh = std::make_shared<std::vector<std::uint64_t>>(kObjectWords);
    builder.build(key, fresh->data());
    const std::lock_guard lock(s.mutex);
    if (const auto it = s.entries.find(key); it != s.entries.end())
      return {it->second->value, false};
    if (s.capacity != 0) {
      s.by_age.push_front({key, fresh});
      s.entries[key] = s.by_age.begin();
    }
    return {fresh, false};
  }

 private:
  static constexpr std::size_t kShards = 16;
  struct Entry {
    std::uint64_t key;
    Value value;
  };
  struct alignas(64) Shard {
    std::mutex mutex;
    std::list<Entry> by_age;
    std::unordered_map<std::uint64_t, std::list<Entry>::iterator> entries;
    std::size_t capacity = 0;
  };
  std::array<Shard, kShards> shards_;
};

// `get(key) -> was it there`. Warm first, when building costs nothing; then for so many seconds.
template <typename Get>
Sample run_requests(const CacheWork& work, Builder& builder, Get get) {
  const std::uint64_t objects = work.set_bytes / kObject;
  const std::uint64_t warm = 6 * objects;
  std::atomic<bool> stop{false};
  std::atomic<unsigned> warm_threads{0};
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> hits{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      const Zipf zipf(objects, 0.99);
      Random random(t + 1);
      for (std::uint64_t i = 0; i < warm / kThreads; ++i) (void)get(zipf.next(random));
      if (++warm_threads == kThreads) builder.rebuild_us = work.rebuild_us;
      while (warm_threads != kThreads) std::this_thread::yield();
      std::uint64_t own = 0;
      std::uint64_t own_hits = 0;
      for (; !stop; ++own)
        if (get(zipf.next(random))) ++own_hits;
      requests += own;
      hits += own_hits;
    });
  while (warm_threads != kThreads) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto start = Clock::now();
  std::this_thread::sleep_for(std::chrono::duration<double>(work.seconds));
  stop = true;
  for (std::thread& t : threads) t.join();
  const double taken = std::chrono::duration<double>(Clock::now() - start).count();
  return {{"requests_per_second", static_cast<double>(requests) / taken},
          {"hit_percent", 100 * static_cast<double>(hits) / static_cast<double>(requests)}};
}

}  // namespace

Arguments to_arguments(const CacheWork& work) {
  return {{"set", std::to_string(work.set_bytes)},
          {"memory", std::to_string(work.memory_bytes)},
          {"rebuild", std::to_string(work.rebuild_us)},
          {"seconds", std::to_string(work.seconds)}};
}

CacheWork cache_work_of(const Arguments& arguments) {
  return {static_cast<std::size_t>(number_of(arguments, "set")),
          static_cast<std::size_t>(number_of(arguments, "memory")), number_of(arguments, "rebuild"),
          number_of(arguments, "seconds")};
}

Sample run_purgeable_cache(const CacheWork& work, bool may_compress) {
  PoolOptions pool_options;
  pool_options.faults = BUOY_FAULTS_SIGNAL;
  const Pool pool(work.memory_bytes, pool_options);
  using Cache = purgeable_cache<std::uint64_t, std::vector<std::uint64_t>>;
  Cache::options options;
  if (may_compress) options.flags = BUOY_VOLATILE_MAY_COMPRESS;
  Cache cache(pool, options);
  Builder builder;
  Sample sample = run_requests(work, builder, [&](std::uint64_t key) {
    bool was_there = true;
    const auto value = cache.get(key, [&](std::uint64_t k, Cache::place& place) {
      was_there = false;
      builder.build(k, place.allocate<std::uint64_t>(kObjectWords).data());
    });
    expect_object(key, value.view().data());
    return was_there;
  });
  sample["resident_peak_bytes"] = static_cast<double>(pool.stat("resident_peak_bytes"));
  return sample;
}

Sample run_fixed_lru(const CacheWork& work) {
  // One arena, which never maps a value by itself: what one thread throws out, another uses.
  // With an arena a thread, what the process needs beside the values varied by a third.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
  FixedLru cache(work.memory_bytes);
  Builder builder;
  return run_requests(work, builder, [&](std::uint64_t key) {
    const auto [value, was_there] = cache.get(key, builder);
    expect_object(key, value->data());
    return was_there;
  });
}

}  // namespace buoy::bench
