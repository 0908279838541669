// What the processes of the benchmark `fragmentation` do.
#include <sys/mman.h>

#include <buoy/buoy.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "api/pool.h"
#include "child.h"
#include "fragmentation.h"
#include "fragmentation_arena.h"
#include "machine.h"
#include "page_data.h"

namespace buoy::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kFramesInMiB = 256;
// The background moves 20 MiB a second at most while nobody waits for it.
constexpr unsigned kSecondsAfterHalf = 5;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

ChurnedArena::Shape shape_of(const Arguments& arguments) {
  ChurnedArena::Shape shape;
  shape.treatment = treatment_named(text_of(arguments, "treatment").c_str());
  shape.blocks = static_cast<std::uint32_t>(number_of(arguments, "blocks"));
  shape.seed = static_cast<std::uint64_t>(number_of(arguments, "seed"));
  return shape;
}

// ---- Runs and what they leave -------------------------------------------------------------------

void ask_all_orders(ChurnedArena& arena, unsigned use, unsigned rounds, Sample* sample) {
  std::vector<Burst> bursts(kMaxOrder + 1);
  for (unsigned round = 0; round < rounds; ++round) {
    for (unsigned order = kLowestOrder; order <= kMaxOrder; ++order) {
      arena.ask(Order(order), kPartAskedFor, &bursts[order]);
      arena.turn_over(use / 100.0, kTurnedOverBetween);
    }
  }
  for (unsigned order = kLowestOrder; order <= kMaxOrder; ++order) {
    const Burst& b = bursts[order];
    (*sample)[quantity_of("success", order, use)] =
        100.0 * static_cast<double>(b.served) / static_cast<double>(b.asked);
    if (b.served == 0) continue;
    (*sample)[quantity_of("us", order, use)] =
        b.ticks / static_cast<double>(b.served) / ticks_per_microsecond();
    (*sample)[quantity_of("p99_us", order, use)] =
        static_cast<double>(b.latency.quantile(0.99)) / ticks_per_microsecond();
  }
}

void look_around(ChurnedArena& arena, unsigned use, Sample* sample) {
  arena.idle();
  const std::string at = std::to_string(use);
  (*sample)["lost_" + at] =
      100.0 * static_cast<double>(arena.lost_frames()) / static_cast<double>(arena.total_frames());
  const ChurnedArena::Residency r = arena.residency();
  (*sample)["huge_" + at] = 100.0 * static_cast<double>(r.huge) /
                            static_cast<double>(std::max<std::uint64_t>(r.resident, 1));
}

// How much of what is freed goes back to the system in whole huge pages.
void give_back_half(ChurnedArena& arena, Sample* sample) {
  arena.idle();
  const std::uint64_t used = arena.used_frames();
  const auto taken = static_cast<double>(arena.arena().taken().value());
  arena.drop_to(arena.use() / 2);
  for (unsigned second = 0; second < kSecondsAfterHalf; ++second) arena.idle();
  const auto returned = taken - static_cast<double>(arena.arena().taken().value());
  const auto freed = static_cast<double>(used - arena.used_frames());
  (*sample)["returned_mib"] = returned / kFramesInMiB;
  (*sample)["returned_percent"] = 100 * returned / freed;
  (*sample)["lost_after"] =
      100.0 * static_cast<double>(arena.lost_frames()) / static_cast<double>(arena.total_frames());
}

// ---- Contiguous memory --------------------------------------------------------------------------

void ask_contiguous(ChurnedArena& arena, frames::Area area, const std::string& prefix,
                    const std::vector<double>& sizes, unsigned rounds, Sample* sample) {
  for (const double mib : sizes) {
    unsigned served = 0;
    double microseconds = 0;
    for (unsigned round = 0; round < rounds; ++round) {
      const auto claim =
          arena.ask_contiguous(PageCount(static_cast<std::uint64_t>(mib * kFramesInMiB)), area);
      served += claim.served ? 1 : 0;
      microseconds += claim.microseconds;
      arena.turn_over(kMainUse / 100.0, kTurnedOverBetween);
      if (area == frames::Area::kGeneral) arena.freeze_unless_movable();
    }
    const std::string name = prefix + std::to_string(static_cast<unsigned>(mib));
    (*sample)[name + "_success"] = 100.0 * served / rounds;
    if (served > 0) (*sample)[name + "_us"] = microseconds / served;
  }
}

std::vector<double> sizes_of(const Arguments& arguments) {
  const double reserve = number_of(arguments, "reserve_mib");
  return {reserve / 4, reserve / 2, reserve};
}

}  // namespace

std::string quantity_of(const char* what, unsigned order, unsigned use) {
  return std::string(what) + "_order" + std::to_string(order) + "_use" + std::to_string(use);
}

BUOY_BENCH_SIDE(fragmentation_churn) {
  ChurnedArena arena(shape_of(arguments));
  const auto rounds = static_cast<unsigned>(number_of(arguments, "rounds"));
  const auto epochs = static_cast<unsigned>(number_of(arguments, "epochs"));
  Sample sample;
  for (const unsigned use : kUses) {
    arena.churn(use / 100.0, epochs);
    ask_all_orders(arena, use, rounds, &sample);
    look_around(arena, use, &sample);
    if (use != kMainUse) continue;
    sample["access_ns"] = arena.access_ns();
    sample["read_ns"] = arena.read_ns(1 << 17);
  }
  give_back_half(arena, &sample);
  arena.validate();
  answer(sample);
}

BUOY_BENCH_SIDE(fragmentation_contiguous) {
  ChurnedArena::Shape shape = shape_of(arguments);
  const auto rounds = 2 * static_cast<unsigned>(number_of(arguments, "rounds"));
  const auto epochs = static_cast<unsigned>(number_of(arguments, "epochs"));
  Sample sample;
  {
    ChurnedArena arena(shape);
    arena.churn(kMainUse / 100.0, epochs);
    arena.freeze_unless_movable();
    ask_contiguous(arena, frames::Area::kGeneral, "general", sizes_of(arguments), rounds, &sample);
    arena.validate();
  }
  if (shape.treatment == Treatment::kMoves) {
    shape.reserve_blocks = static_cast<std::uint32_t>(number_of(arguments, "reserve_mib") / 2);
    ChurnedArena arena(shape);
    arena.churn(kMainUse / 100.0, epochs);
    arena.idle();
    sample["reserve_use"] = 100 * arena.reserve_use();
    ask_contiguous(arena, frames::Area::kReserve, "reserve", sizes_of(arguments), rounds, &sample);
    arena.validate();
  }
  answer(sample);
}

// ---- What a moved page costs --------------------------------------------------------------------

BUOY_BENCH_SIDE(fragmentation_migrate) {
  ChurnedArena::Shape shape;
  shape.blocks = static_cast<std::uint32_t>(number_of(arguments, "blocks"));
  shape.seed = static_cast<std::uint64_t>(number_of(arguments, "seed"));
  const bool of_driver = text_of(arguments, "owner") == "driver";
  shape.driver_part = of_driver ? 1 : 0;
  ChurnedArena arena(shape);
  arena.fill_singly(0.97);
  // As the kernel's side: half of the pages go, each one or not by chance.
  arena.drop_part(of_driver ? 0.5 : 0.85);
  const std::uint64_t before = arena.counters().read(Event::pgmigrate_success);
  const auto start = Clock::now();
  (void)arena.arena().compactor().compact(
      frames::CompactionEffort::thorough(frames::Callers::kUser));
  const double taken = seconds_since(start);
  const auto moved = static_cast<double>(arena.counters().read(Event::pgmigrate_success) - before);
  if (moved == 0) throw Unavailable("nothing was moved");
  arena.validate();
  answer({{"us", taken * 1e6 / moved}, {"moved", moved}});
}

namespace {

double vmstat(const std::string& name) {
  const std::string all = "\n" + read_file("/proc/vmstat");
  const auto at = all.find("\n" + name + " ");
  if (at == std::string::npos) throw Unavailable("/proc/vmstat has no " + name);
  return std::stod(all.substr(at + name.size() + 2));
}

struct KernelCompaction {
  double seconds = 0;
  double moved = 0;
  double scanned = 0;
};

KernelCompaction compact_kernel() {
  KernelCompaction c;
  const double moved = vmstat("pgmigrate_success");
  const double scanned = vmstat("compact_migrate_scanned");
  const auto start = Clock::now();
  write_file(kCompactMemory, "1");
  c.seconds = seconds_since(start);
  c.moved = vmstat("pgmigrate_success") - moved;
  c.scanned = vmstat("compact_migrate_scanned") - scanned;
  return c;
}

}  // namespace

namespace {

// Memory in 4 KiB pages of which half, by chance, are gone.
class ThinnedMemory {
 public:
  ThinnedMemory(std::size_t bytes, Random& random) : bytes_(bytes) {
    memory_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw Unavailable(because_errno("mmap"));
    madvise(memory_, bytes, MADV_NOHUGEPAGE);
    auto* const at = static_cast<std::byte*>(memory_);
    for (std::size_t i = 0; i < bytes; i += kPageSize) at[i] = std::byte{1};
    for (std::size_t i = 0; i < bytes; i += kPageSize)
      if (random.below(2) == 0) madvise(at + i, kPageSize, MADV_DONTNEED);
  }
  ~ThinnedMemory() { munmap(memory_, bytes_); }
  ThinnedMemory(const ThinnedMemory&) = delete;
  ThinnedMemory& operator=(const ThinnedMemory&) = delete;

 private:
  void* memory_;
  const std::size_t bytes_;
};

}  // namespace

BUOY_BENCH_SIDE(fragmentation_kernel) {
  // Where pages come to lie is the kernel's choice, and most lie well already: so there are rounds
  // until as many have moved as on our side. Each begins with what is there compacted, and the time
  // to look over all memory once more known.
  constexpr double kEnough = 20'000;
  constexpr unsigned kMostRounds = 12;
  constexpr std::size_t kBytes = std::size_t{256} << 20;
  Random random(static_cast<std::uint64_t>(number_of(arguments, "seed")));
  std::vector<std::unique_ptr<ThinnedMemory>> all;
  KernelCompaction sum;
  double looking = 0;
  for (unsigned round = 0; round < kMostRounds && sum.moved < kEnough; ++round) {
    (void)compact_kernel();
    looking += compact_kernel().seconds;
    // Kept until the end, four of them: the next one lies elsewhere.
    if (all.size() == 4) all.erase(all.begin());
    all.push_back(std::make_unique<ThinnedMemory>(kBytes, random));
    const KernelCompaction c = compact_kernel();
    sum.seconds += c.seconds;
    sum.moved += c.moved;
    sum.scanned += c.scanned;
  }
  const bool is_measured = sum.moved >= kEnough / 4 && sum.seconds > looking;
  answer({{"is_measured", is_measured ? 1 : 0},
          {"us", (sum.seconds - looking) * 1e6 / std::max(sum.moved, 1.0)},
          {"us_in_all", sum.seconds * 1e6 / std::max(sum.moved, 1.0)},
          {"moved", sum.moved},
          {"scanned", sum.scanned}});
}

// ---- The foreground while compaction runs -------------------------------------------------------

namespace {

// Compacts asynchronously in a thread of its own while it is on.
class Compacting {
 public:
  explicit Compacting(frames::Arena& arena)
      : thread_([this, &arena] {
          while (!stop_.load(std::memory_order_relaxed)) {
            if (on_.load(std::memory_order_relaxed)) {
              frames::CompactionEffort effort;
              effort.least_free = 1;
              effort.heeds_hints = false;
              (void)arena.compactor().compact(effort);
            }
            // What the foreground frees meanwhile is the next step's work.
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }
        }) {}
  ~Compacting() {
    stop_.store(true);
    thread_.join();
  }
  Compacting(const Compacting&) = delete;
  Compacting& operator=(const Compacting&) = delete;
  void turn(bool on) { on_.store(on); }

 private:
  std::atomic<bool> on_{false};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

constexpr auto kSlice = std::chrono::milliseconds(50);

}  // namespace

BUOY_BENCH_SIDE(fragmentation_foreground) {
  ChurnedArena arena(shape_of(arguments));
  arena.churn(kMainUse / 100.0, 4);
  const auto slices = static_cast<unsigned>(number_of(arguments, "slices"));
  const std::uint64_t moved_before = arena.counters().read(Event::pgmigrate_success);
  double operations[2] = {0, 0};
  double seconds[2] = {0, 0};
  {
    Compacting compacting(arena.arena());
    for (unsigned slice = 0; slice < slices; ++slice) {
      const bool on = slice % 2 == 1;
      compacting.turn(on);
      const auto start = Clock::now();
      while (Clock::now() - start < kSlice) {
        for (int i = 0; i < 64; ++i) arena.step();
        operations[on ? 1 : 0] += 64;
      }
      seconds[on ? 1 : 0] += seconds_since(start);
    }
  }
  const auto moved =
      static_cast<double>(arena.counters().read(Event::pgmigrate_success) - moved_before);
  arena.validate();
  answer({{"without", operations[0] / seconds[0]},
          {"with", operations[1] / seconds[1]},
          {"moved_per_second", moved / seconds[1]}});
}

// ---- Faults while compaction runs ---------------------------------------------------------------

namespace {

// A driver's buffers, which rise to a quarter of the budget, fall to a sixteenth, anywhere.
class Tide {
 public:
  Tide(Pool& pool, buoy_pool* handle, ByteSize budget)
      : driver_(pool.arena(), true), handle_(handle), budget_(budget) {}

  void turn(Random& random) {
    const ByteSize held = driver_.frames() * kPageSize;
    if (held > budget_ / 4) rises_ = false;
    if (held < budget_ / 16) rises_ = true;
    for (int i = 0; i < 4; ++i) {
      if (!rises_) {
        driver_.drop(random.below(driver_.count()));
      } else if (!driver_.try_add(Order(static_cast<unsigned>(random.below(4))))) {
        // The arena grows by what reclaim gives.
        (void)buoy_pool_reclaim(handle_, 2 * kBlockSize);
      }
    }
  }

 private:
  BufferDriver driver_;
  buoy_pool* const handle_;
  const ByteSize budget_;
  bool rises_ = true;
};

}  // namespace

BUOY_BENCH_SIDE(fragmentation_faults) {
  const auto budget = static_cast<ByteSize>(number_of(arguments, "budget_mib")) << 20;
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = budget;
  options.compressor = "lz4";
  options.faults = BUOY_FAULTS_SIGNAL;
  buoy_pool* handle = nullptr;
  if (buoy_pool_create(&options, &handle) != 0)
    throw Unavailable(because_errno("buoy_pool_create"));
  // The C API's pool is the engine's.
  Pool& pool = *reinterpret_cast<Pool*>(handle);
  const ByteSize bytes = budget + budget / 2;
  const std::size_t pages = bytes / kPageSize;
  auto* const at = static_cast<std::byte*>(buoy_map(handle, bytes, 0));
  if (at == nullptr) throw Unavailable(because_errno("buoy_map"));
  const PageData data(0.4);
  for (std::size_t p = 0; p < pages; ++p)
    data.fill(reinterpret_cast<std::uint64_t*>(at + p * kPageSize), p);
  Random random(static_cast<std::uint64_t>(number_of(arguments, "seed")));
  Histogram slow[2];
  const auto slices = static_cast<unsigned>(number_of(arguments, "slices"));
  const std::uint64_t moved_before = pool.context().counters.read(Event::pgmigrate_success);
  const auto kSlow = static_cast<std::uint64_t>(ticks_per_microsecond());
  {
    Tide tide(pool, handle, budget);
    Compacting compacting(pool.arena());
    for (unsigned slice = 0; slice < slices; ++slice) {
      const bool on = slice % 2 == 1;
      compacting.turn(on);
      const auto start = Clock::now();
      while (Clock::now() - start < kSlice) {
        tide.turn(random);
        for (int i = 0; i < 16; ++i) {
          auto* const page =
              reinterpret_cast<volatile std::uint64_t*>(at + random.below(pages) * kPageSize);
          const std::uint64_t before = ticks();
          page[kFirstCounter] = page[kFirstCounter] + 1;
          const std::uint64_t taken = ticks() - before;
          if (taken > kSlow) slow[on ? 1 : 0].add(taken);
        }
      }
    }
  }
  const auto moved =
      static_cast<double>(pool.context().counters.read(Event::pgmigrate_success) - moved_before);
  const auto us = [&](int on, double part) {
    return static_cast<double>(slow[on].quantile(part)) / ticks_per_microsecond();
  };
  for (std::size_t p = 0; p < pages; p += 8)
    if (!data.matches(reinterpret_cast<std::uint64_t*>(at + p * kPageSize), p))
      throw Unavailable("a page lost its contents");
  answer({{"with", us(1, 0.999)},
          {"without", us(0, 0.999)},
          {"with_p50", us(1, 0.5)},
          {"without_p50", us(0, 0.5)},
          {"moved", moved}});
  (void)buoy_unmap(at, bytes);
  (void)buoy_pool_destroy(handle);
}

}  // namespace buoy::bench
