// What a process of the `records` benchmark does: the workload over one allocator.
//
// jemalloc is preloaded, not linked: buoy-bench keeps libc's malloc. Its calls are looked up by
// name. All jemalloc sides use arenas made by hand, with hooks that map memory in the same way and
// purge it differently.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "access_pattern.h"
#include "buoy/jemalloc_hooks.h"
#include "child.h"
#include "machine.h"
#include "page_data.h"
#include "records_settings.h"

namespace buoy::bench {
namespace {

using Clock = std::chrono::steady_clock;
using Record = std::uint32_t;

// ---- jemalloc, if it is there.

using Mallctl = int (*)(const char*, void*, std::size_t*, void*, std::size_t);

Mallctl find_mallctl() {
  void* const found = dlsym(RTLD_DEFAULT, "mallctl");
  if (found == nullptr) throw Unavailable("jemalloc is not preloaded");
  return reinterpret_cast<Mallctl>(found);
}

void* map_plain(extent_hooks_t*, void* wanted, std::size_t size, std::size_t alignment, bool* zero,
                bool* commit, unsigned) {
  if (wanted != nullptr || alignment > kPageBytes * 512) return nullptr;
  constexpr std::size_t kBlock = kPageBytes * 512;  // a pool maps such sizes at whole blocks, too
  void* const room =
      mmap(nullptr, size + kBlock, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return nullptr;
  *zero = true;
  *commit = true;
  const auto start = reinterpret_cast<std::uintptr_t>(room);
  return static_cast<std::byte*>(room) + (kBlock - start % kBlock) % kBlock;
}
bool advise_plain(void* address, std::size_t offset, std::size_t length, int advice) {
  return madvise(static_cast<std::byte*>(address) + offset, length, advice) != 0;
}
bool free_plain(extent_hooks_t*, void* a, std::size_t, std::size_t offset, std::size_t length,
                unsigned) {
  return advise_plain(a, offset, length, MADV_FREE);
}
bool dont_need_plain(extent_hooks_t*, void* a, std::size_t, std::size_t offset, std::size_t length,
                     unsigned) {
  return advise_plain(a, offset, length, MADV_DONTNEED);
}

class Arenas {
 public:
  Arenas(RecordsAllocator allocator, buoy_pool* pool) : mallctl_(find_mallctl()) {
    const extent_hooks_t plain{
        .alloc = map_plain,
        .dalloc = nullptr,
        .destroy = nullptr,
        .commit = nullptr,
        .decommit = nullptr,
        // What jemalloc purges at once it purges by force where it can.
        .purge_lazy = free_plain,
        .purge_forced = allocator == RecordsAllocator::kDontNeed ? dont_need_plain : nullptr,
        .split = buoy_extent_split,
        .merge = buoy_extent_merge};
    const unsigned flags = allocator == RecordsAllocator::kBuoyHuge ? BUOY_HUGE : 0;
    for (unsigned i = 0; i < kRecordsArenas; ++i) {
      hooks_[i].hooks = plain;
      const int error = pool == nullptr ? 0 : buoy_extent_hooks_init(&hooks_[i], pool, flags);
      if (error != 0)
        throw Unavailable(std::string("buoy_extent_hooks_init: ") + std::strerror(error));
      arenas_[i] = make(&hooks_[i].hooks);
    }
  }
  void bind_thread(unsigned thread) const {
    unsigned arena = arenas_[thread % kRecordsArenas];
    set("thread.arena", arena);
  }

 private:
  template <typename T>
  void set(const std::string& name, T value) const {
    if (mallctl_(name.c_str(), nullptr, nullptr, &value, sizeof value) != 0)
      throw Unavailable("jemalloc refuses " + name);
  }
  unsigned make(extent_hooks_t* hooks) const {
    unsigned arena = 0;
    std::size_t size = sizeof arena;
    // mallctl copies the pointer itself.  NOLINTNEXTLINE(bugprone-sizeof-expression)
    if (mallctl_("arenas.create", &arena, &size, &hooks, sizeof hooks) != 0)
      throw Unavailable("jemalloc refuses arenas.create");
    const std::string name = "arena." + std::to_string(arena);
    set<ssize_t>(name + ".dirty_decay_ms", 0);
    set<ssize_t>(name + ".muzzy_decay_ms", 0);
    return arena;
  }

  Mallctl mallctl_;
  buoy_extent_hooks hooks_[kRecordsArenas] = {};
  unsigned arenas_[kRecordsArenas] = {};
};

// ---- The workload.

class Workload {
 public:
  explicit Workload(const RecordsSettings& settings)
      : settings_(settings), records_(settings.chunk_bytes / sizeof(Record)) {
    for (std::size_t i = 0; i < kRecordsSources; ++i) {
      std::vector<Record>& source = sources_.emplace_back(records_);
      for (std::size_t k = 0; k < records_; ++k) source[k] = static_cast<Record>(k * 2 + i % 2);
    }
  }

  // Records found a second, all threads together.
  template <typename Prepare>
  double run(Prepare prepare) {
    std::vector<std::thread> threads;
    std::atomic<std::uint64_t> sum{0};
    std::atomic<unsigned> ready{0};
    std::atomic<bool> go{false};
    std::atomic<bool> stop{false};
    for (unsigned t = 0; t < settings_.threads; ++t)
      threads.emplace_back([&, t] {
        prepare(t);
        Random random(t + 1);
        for (int i = 0; i < 50; ++i) once(random);  // caches and arenas are filled
        ready.fetch_add(1);
        while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
        std::uint64_t done = 0;
        for (; !stop.load(std::memory_order_relaxed); ++done) once(random);
        sum.fetch_add(done);
      });
    while (ready.load() != settings_.threads) std::this_thread::yield();
    const auto start = Clock::now();
    go.store(true, std::memory_order_release);
    std::this_thread::sleep_for(std::chrono::duration<double>(settings_.seconds));
    stop.store(true);
    for (std::thread& t : threads) t.join();
    return static_cast<double>(sum.load()) /
           std::chrono::duration<double>(Clock::now() - start).count();
  }

 private:
  void once(Random& random) const {
    const std::vector<Record>& source = sources_[random.below(kRecordsSources)];
    auto* const copy = static_cast<Record*>(std::malloc(settings_.chunk_bytes));
    if (copy == nullptr) std::abort();
    std::memcpy(copy, source.data(), settings_.chunk_bytes);
    const Record key = source[random.below(records_)];
    const Record* const found = std::lower_bound(copy, copy + records_, key);
    if (found == copy + records_ || *found != key) std::abort();  // wrong contents
    std::free(copy);
  }

  RecordsSettings settings_;
  std::size_t records_;
  std::vector<std::vector<Record>> sources_;
};

buoy_pool* make_pool(const RecordsSettings& settings) {
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = (std::size_t{256} << 20) + 4 * settings.threads * settings.chunk_bytes;
  options.faults = BUOY_FAULTS_SIGNAL;
  buoy_pool* pool = nullptr;
  if (buoy_pool_create(&options, &pool) != 0) throw Unavailable(because_errno("buoy_pool_create"));
  return pool;
}

}  // namespace

BUOY_BENCH_SIDE(records) {
  const RecordsSettings settings = records_settings_of(arguments);
  const auto allocator = static_cast<RecordsAllocator>(number_of(arguments, "allocator"));
  Workload workload(settings);
  Sample sample;
  if (allocator == RecordsAllocator::kGlibc) {
    sample["records_per_second"] = workload.run([](unsigned) {});
  } else {
    const bool in_pool = allocator >= RecordsAllocator::kBuoy;
    buoy_pool* const pool = in_pool ? make_pool(settings) : nullptr;
    const Arenas arenas(allocator, pool);
    sample["records_per_second"] = workload.run([&](unsigned t) { arenas.bind_thread(t); });
    for (const char* name : {"pglazyfree", "pglazyunfreed", "pglazyfreed", "pgfault_protect"}) {
      std::uint64_t value = 0;
      if (in_pool && buoy_pool_stat(pool, name, &value) == 0)
        sample[name] = static_cast<double>(value);
    }
  }
  answer(sample);
}

}  // namespace buoy::bench
