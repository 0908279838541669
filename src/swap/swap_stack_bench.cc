// What a page costs to store, load and free in tier 1, beside the compressor on the same data.
#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "frames/arena.h"
#include "swap/compressor.h"
#include "swap/swap_stack.h"
#include "swap/test_pages_testing.h"
#include "swap/work_area.h"

namespace buoy::swap {
namespace {

using test::Fill;
using test::Page;

constexpr unsigned kPages = 8192;  // 32 MiB: more than a cache holds

const std::vector<Page>& pages_of(Fill fill) {
  static std::vector<Page> pages[test::kFills];
  std::vector<Page>& mine = pages[static_cast<unsigned>(fill)];
  for (unsigned i = static_cast<unsigned>(mine.size()); i < kPages; ++i)
    mine.push_back(make_page(fill, i));
  return mine;
}

struct Bed {
  Bed() {
    budget.set_limit(PageCount::covering(ByteSize{1} << 30));
    arena = *frames::Arena::create(budget, counters, ByteSize{1} << 30);
    stack = *SwapStack::create({}, *arena, counters);
  }
  ~Bed() {
    SwapStack::destroy(stack);
    frames::Arena::destroy(arena);
  }
  Budget budget;
  Counters counters;
  frames::Arena* arena;
  SwapStack* stack;
};

void compress_alone(benchmark::State& state) {
  const auto& pages = pages_of(static_cast<Fill>(state.range(0)));
  const Compressor& lz4 = lz4_compressor();
  WorkAreas areas;
  if (!areas.create(lz4, 1)) state.SkipWithError("no memory");
  const WorkAreas::Lease area(areas);
  unsigned i = 0;
  for (auto _ : state)
    benchmark::DoNotOptimize(
        lz4.compress(area->state, pages[i++ % kPages].data(), area->output, kPageSize - 1));
}

void decompress_alone(benchmark::State& state) {
  const auto& pages = pages_of(static_cast<Fill>(state.range(0)));
  const Compressor& lz4 = lz4_compressor();
  WorkAreas areas;
  if (!areas.create(lz4, 1)) state.SkipWithError("no memory");
  const WorkAreas::Lease area(areas);
  std::vector<std::vector<std::byte>> packed;
  for (const Page& p : pages) {
    const unsigned n = lz4.compress(area->state, p.data(), area->output, kPageSize - 1);
    packed.emplace_back(area->output, area->output + n);
  }
  Page out;
  unsigned i = 0;
  for (auto _ : state) {
    const auto& bytes = packed[i++ % kPages];
    benchmark::DoNotOptimize(
        lz4.decompress(area->state, bytes.data(), static_cast<unsigned>(bytes.size()), out.data()));
  }
}

void store(benchmark::State& state) {
  const auto& pages = pages_of(static_cast<Fill>(state.range(0)));
  Bed bed;
  std::vector<SwapEntry> entries(kPages);
  unsigned i = 0;
  const auto free_all = [&] {
    for (unsigned n = 0; n < i; ++n) bed.stack->free(entries[n]);
    i = 0;
  };
  for (auto _ : state) {
    if (i == kPages) {
      state.PauseTiming();
      free_all();
      state.ResumeTiming();
    }
    benchmark::DoNotOptimize(bed.stack->store(pages[i].data(), &entries[i]));
    ++i;
  }
  const SwapStats s = bed.stack->stats();
  state.counters["pool/original"] =
      static_cast<double>(s.pool_bytes) / static_cast<double>(s.compressed_original_bytes);
  free_all();
}

void load(benchmark::State& state) {
  const auto& pages = pages_of(static_cast<Fill>(state.range(0)));
  Bed bed;
  std::vector<SwapEntry> entries(kPages);
  for (unsigned i = 0; i < kPages; ++i)
    if (bed.stack->store(pages[i].data(), &entries[i]) != StoreOutcome::kStored)
      state.SkipWithError("full");
  Page out;
  unsigned i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(bed.stack->load(entries[i++ % kPages], out.data()));
}

void store_and_free(benchmark::State& state) {
  const auto& pages = pages_of(static_cast<Fill>(state.range(0)));
  Bed bed;
  unsigned i = 0;
  for (auto _ : state) {
    SwapEntry entry;
    benchmark::DoNotOptimize(bed.stack->store(pages[i++ % kPages].data(), &entry));
    bed.stack->free(entry);
  }
}

void fills(benchmark::internal::Benchmark* b) {
  for (const Fill f : {Fill::kQuarter, Fill::kHalf, Fill::kMostly, Fill::kRandom})
    b->Arg(static_cast<int>(f));
}

BENCHMARK(compress_alone)->Apply(fills);
BENCHMARK(store)->Apply(fills);
BENCHMARK(store_and_free)->Apply(fills);
BENCHMARK(decompress_alone)->Apply(fills);
BENCHMARK(load)->Apply(fills)->Arg(static_cast<int>(Fill::kZero));

}  // namespace
}  // namespace buoy::swap
