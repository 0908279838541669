// What the primitives cost through UffdMmu, alone and with another thread of the process running.
// The table of docs and comments comes from here; run it on an idle machine.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "mmu/mmu_testing.h"

namespace buoy::mmu {
namespace {

// Computes on another CPU for as long as it lives, so that shootdowns have somebody to shoot at.
class Neighbour {
 public:
  explicit Neighbour(bool runs) {
    if (runs)
      thread_ = std::thread([this] {
        while (!stop_.load(std::memory_order_relaxed)) {
        }
      });
  }
  ~Neighbour() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
  }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

constexpr std::uint64_t kPages = 8 * kPagesPerBlock;

// Every `step`th of the first n pages is there.
void fill(Bench& b, std::uint64_t n, std::uint64_t step = 1) {
  if (step == 1) {
    (void)b.mmu().install_zeros(b.r(), b.run(0, n));
    return;
  }
  for (std::uint64_t i = 0; i < n; i += step) (void)b.mmu().install_zeros(b.r(), b.run(i, 1));
}

// Arguments of all: pages, whether a neighbour runs.
void take_and_give_back(benchmark::State& state) {
  Bench b(Kind::kSignal, PageCount(kPages));
  if (!b.why_not().empty()) return state.SkipWithError(b.why_not().c_str());
  const Neighbour neighbour(state.range(1) != 0);
  const auto n = static_cast<std::uint64_t>(state.range(0));
  fill(b, n);
  for (auto _ : state) {
    (void)b.mmu().take(b.r(), b.run(0, n));
    (void)b.mmu().give_back(b.r(), b.run(0, n), Return::kMoved);
  }
}
BENCHMARK(take_and_give_back)->ArgsProduct({{1, 16, 64, 512}, {0, 1}});

// Arguments: every how many pages one is there, neighbour, whether as a block.
void take_sparse_leaf(benchmark::State& state) {
  Bench b(Kind::kSignal, PageCount(kPages));
  if (!b.why_not().empty()) return state.SkipWithError(b.why_not().c_str());
  const Neighbour neighbour(state.range(1) != 0);
  const auto step = static_cast<std::uint64_t>(state.range(0));
  const PageCount there((kPagesPerBlock + step - 1) / step);
  for (auto _ : state) {
    state.PauseTiming();
    (void)b.mmu().discard(b.r(), b.run(0, kPagesPerBlock));
    b.mmu().drop_shadow(b.r(), b.run(0, kPagesPerBlock));
    fill(b, kPagesPerBlock, step);
    state.ResumeTiming();
    if (state.range(2) != 0)
      (void)b.mmu().take_block(b.r(), b.page(0), there);
    else
      (void)b.mmu().take(b.r(), b.run(0, kPagesPerBlock));
  }
}
BENCHMARK(take_sparse_leaf)->ArgsProduct({{1, 2, 10}, {0, 1}, {0, 1}})->Iterations(200);

// 256 pages of a block, in runs of which every other one is there. Arguments: pages a run,
// neighbour, whether all runs with one call.
void discard_scattered(benchmark::State& state) {
  Bench b(Kind::kSignal, PageCount(kPages));
  if (!b.why_not().empty()) return state.SkipWithError(b.why_not().c_str());
  const Neighbour neighbour(state.range(1) != 0);
  const auto length = static_cast<std::uint64_t>(state.range(0));
  std::vector<PageRun> runs;
  for (std::uint64_t i = 0; i < 512; i += 2 * length) runs.push_back(b.run(i, length));
  for (auto _ : state) {
    state.PauseTiming();
    (void)b.mmu().install_zeros(b.r(), b.run(0, 512));
    state.ResumeTiming();
    if (state.range(2) == 0) {
      for (const PageRun& run : runs) (void)b.mmu().discard(b.r(), run);
    } else {
      for (std::size_t i = 0; i < runs.size(); i += kMostRuns)
        (void)b.mmu().discard_runs(
            b.r(), std::span(runs).subspan(i, std::min(kMostRuns, runs.size() - i)));
    }
    state.PauseTiming();
    (void)b.mmu().discard(b.r(), b.run(0, 512));
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * 256);
}
BENCHMARK(discard_scattered)->ArgsProduct({{1, 4, 16, 64}, {0, 1}, {0, 1}})->Iterations(300);

void install(benchmark::State& state) {
  Bench b(Kind::kSignal, PageCount(kPages));
  if (!b.why_not().empty()) return state.SkipWithError(b.why_not().c_str());
  const Neighbour neighbour(state.range(1) != 0);
  const auto n = static_cast<std::uint64_t>(state.range(0));
  const std::vector<std::byte> bytes(n * kPageSize, std::byte{7});
  for (auto _ : state) {
    (void)b.mmu().install(b.r(), b.run(0, n), bytes.data(), Stores::kAllowed);
    state.PauseTiming();
    (void)b.mmu().discard(b.r(), b.run(0, n));
    state.ResumeTiming();
  }
}
BENCHMARK(install)->ArgsProduct({{1, 16, 512}, {0, 1}});

void install_zeros(benchmark::State& state) {
  const bool is_huge = state.range(2) != 0;
  Bench b(Kind::kSignal, PageCount(kPages),
          is_huge ? Backing::kHugeWherePossible : Backing::kSmall);
  if (!b.why_not().empty()) return state.SkipWithError(b.why_not().c_str());
  const Neighbour neighbour(state.range(1) != 0);
  const auto n = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) {
    (void)b.mmu().install_zeros(b.r(), b.run(0, n));
    state.PauseTiming();
    (void)b.mmu().discard(b.r(), b.run(0, n));
    state.ResumeTiming();
  }
}
BENCHMARK(install_zeros)->ArgsProduct({{1, 16, 512}, {0, 1}, {0, 1}});

void protect_and_unprotect(benchmark::State& state) {
  Bench b(Kind::kSignal, PageCount(kPages));
  if (!b.why_not().empty()) return state.SkipWithError(b.why_not().c_str());
  const Neighbour neighbour(state.range(1) != 0);
  const auto n = static_cast<std::uint64_t>(state.range(0));
  fill(b, n);
  for (auto _ : state) {
    (void)b.mmu().protect(b.r(), b.run(0, n));
    (void)b.mmu().unprotect(b.r(), b.run(0, n));
  }
}
BENCHMARK(protect_and_unprotect)->ArgsProduct({{1, 16, 512}, {0, 1}});

// A touch of a missing page, answered by a page of zeros. Arguments: thread delivery, neighbour.
void fault(benchmark::State& state) {
  Bench b(state.range(0) != 0 ? Kind::kThread : Kind::kSignal, PageCount(kPages));
  if (!b.why_not().empty()) return state.SkipWithError(b.why_not().c_str());
  const Neighbour neighbour(state.range(1) != 0);
  std::uint64_t i = 0;
  for (auto _ : state) {
    b.store(i, 1);
    if (++i < kPages) continue;
    state.PauseTiming();
    (void)b.mmu().discard(b.r(), b.run(0, kPages));
    i = 0;
    state.ResumeTiming();
  }
}
BENCHMARK(fault)->ArgsProduct({{0, 1}, {0, 1}});

}  // namespace
}  // namespace buoy::mmu
