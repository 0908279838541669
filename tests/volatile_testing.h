// What tests of volatile memory share: a pool in either fault delivery, with nothing marked when it
// ends, and SIGBUS as it was.
#pragma once

#include <gtest/gtest.h>

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "buoy/buoy.h"
#include "pool_testing.h"

namespace buoy::testing {

inline constexpr std::size_t kPage = kPageSize;

inline void install(void (*handler)(int, siginfo_t*, void*), int flags = 0) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  ASSERT_EQ(sigaction(SIGBUS, &action, nullptr), 0);
}

class VolatileTest : public ::testing::TestWithParam<Delivery> {
 protected:
  void SetUp() override {
    if (pool == nullptr) GTEST_SKIP() << pool_.why_not();
  }
  void TearDown() override {
    signal(SIGBUS, SIG_DFL);
    if (pool == nullptr) return;
    validate();
    for (const auto& [at, bytes] : mapped)
      if (buoy_unmap(at, bytes) != 0) unmap_what_is_left(at, bytes);
    EXPECT_EQ(stat("volatile_bytes"), 0U);
    EXPECT_EQ(pool_.destroy(), 0);
  }

  static void unmap_what_is_left(char* at, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; i += kPage) (void)buoy_unmap(at + i, kPage);
  }
  char* map(std::size_t bytes, unsigned flags = 0) {
    auto* at = static_cast<char*>(buoy_map(pool, bytes, flags));
    EXPECT_NE(at, nullptr);
    mapped.emplace_back(at, bytes);
    return at;
  }
  void validate() const { pool_.validate(); }
  [[nodiscard]] std::uint64_t stat(const char* name) const { return pool_.stat(name); }
  void purge_all() const { EXPECT_GE(buoy_pool_reclaim(pool, 1024 * kMiB), 0); }

 private:
  TestPool pool_{GetParam(), 32 * kMiB};

 protected:
  buoy_pool* const pool = pool_.get();
  std::vector<std::pair<char*, std::size_t>> mapped;
};

}  // namespace buoy::testing
