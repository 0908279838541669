// What the tests of lazily freed memory share.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "vm/vm_testing.h"

namespace buoy {

class LazyFreeTest : public SoftVmTest {
 protected:
  void free(PageRun run) { EXPECT_EQ(soft_.vm().free_lazily(run).code(), 0); }
  void free_until_reuse(PageRun run) {
    EXPECT_EQ(soft_.vm().free_lazily(run, Vm::Until::kReuse).code(), 0);
  }
  // Discards all that is lazily freed and may go.
  void discard_all() {
    (void)soft_.reclaim(std::max<std::uint64_t>(soft_.context().lazyfree_pages(), 1));
  }
  [[nodiscard]] unsigned order_of(Vpn page) const { return soft_.pte(page).order().value(); }
};

}  // namespace buoy
