// ctest: labels=soft timeout=600 shards=4
//
// The model test: millions of random operations on a whole Vm over SoftMmu, against a trivial
// account of what each page may hold. BUOY_MODEL_SEED and BUOY_MODEL_OPS choose one long run;
// BUOY_MODEL_TRACE=1 prints every operation, for failures that abort.

#include <gtest/gtest.h>

#include <cstdlib>

#include "vm/vm_model_testing.h"

namespace buoy {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// Checks of every step make an operation many times as dear.
#if defined(__SANITIZE_THREAD__)
constexpr std::uint64_t kOperations = 20'000;
#elif defined(BUOY_DEBUG_CHECKS)
constexpr std::uint64_t kOperations = 60'000;
#else
constexpr std::uint64_t kOperations = 250'000;
#endif

struct Setting {
  const char* name;
  SoftVmOptions vm;
  std::uint64_t mapped_pages;
  std::uint64_t failures_in_1000;
  std::uint64_t divisor = 1;  // of the operations: an access that finds no room waits 15 ms
};

SoftVmOptions vm_of(std::uint64_t budget, mmu::Return preferred = mmu::Return::kMoved,
                    mmu::Pins pins = mmu::Pins::kKnown) {
  SoftVmOptions options;
  options.budget = PageCount(budget);
  options.preferred_return = preferred;
  options.pins = pins;
  return options;
}

class SoftVmModel : public testing::TestWithParam<Setting> {};

TEST_P(SoftVmModel, HoldsWhatItMust) {
  const Setting& setting = GetParam();
  VmModelOptions options;
  options.vm = setting.vm;
  options.mapped_pages = setting.mapped_pages;
  options.failures_in_1000 = setting.failures_in_1000;
  const std::uint64_t first_seed = from_environment("BUOY_MODEL_SEED", 1);
  const std::uint64_t operations =
      from_environment("BUOY_MODEL_OPS", kOperations) / setting.divisor;
  const std::uint64_t rounds = std::getenv("BUOY_MODEL_SEED") != nullptr ? 1 : 2;
  std::uint64_t losses_told = 0;
  std::uint64_t purged_touches = 0;
  for (std::uint64_t seed = first_seed; seed < first_seed + rounds; ++seed) {
    std::printf("seed %llu, %llu operations\n", static_cast<unsigned long long>(seed),
                static_cast<unsigned long long>(operations));
    std::fflush(stdout);
    options.seed = seed;
    VmModel model(options);
    model.run(operations);
    ASSERT_EQ(model.failure(), "") << "seed " << seed;
    // A run that never swapped, never raced or never met a full budget has tested little.
    EXPECT_GT(model.raced_stores(), 0U);
    losses_told += model.losses_told();
    purged_touches += model.purged_touches();
  }
  // Rare where the runs are short.
  constexpr std::uint64_t kEnough = 10'000;
  if (rounds * operations >= kEnough) {
    EXPECT_GT(losses_told, 0U);
    EXPECT_GT(purged_touches, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Soft, SoftVmModel,
    testing::Values(Setting{"Roomy", vm_of(8192), 3000, 0}, Setting{"Tight", vm_of(2600), 3000, 0},
                    Setting{"TightCopying", vm_of(2600, mmu::Return::kCopied), 3000, 20},
                    Setting{"PinsUnknown", vm_of(2600, mmu::Return::kMoved, mmu::Pins::kUnknown),
                            3000, 20},
                    Setting{"Failing", vm_of(2600), 3000, 100},
                    Setting{"Full", vm_of(1500), 2500, 10, 4},
                    Setting{"NothingBelow", vm_of(500), 800, 10, 50}),
    [](const auto& setting) { return setting.param.name; });

}  // namespace
}  // namespace buoy
