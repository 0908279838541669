// ctest: labels=soft
//
// What the kernel refuses: a fault tries again, not for ever, and then says what it was.

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "vm/vm_testing.h"

namespace buoy {
namespace {

using mmu::SoftMmu;
using Touch = SoftMmu::Touch;
using Primitive = SoftMmu::Primitive;

class SoftRefusal : public testing::Test {
 protected:
  // So many calls of this kind to come are refused at their first page.
  void refuse(Primitive primitive, mmu::Outcome why, std::uint64_t calls) {
    for (std::uint64_t i = 0; i < calls; ++i) soft_.mmu().inject({primitive, i, PageCount(0), why});
  }
  // How a load of the page ends, and what is said of it.
  Touch touch(Vpn page, std::string* said) {
    PageImage::Bytes bytes;
    testing::internal::CaptureStderr();
    const Touch end = soft_.load(page, &bytes);
    *said = testing::internal::GetCapturedStderr();
    return end;
  }
  // A page that is refused so often that it must be given up; in the end it is there.
  void expect_given_up(Primitive primitive, mmu::Outcome why, Vpn page, const char* reason) {
    refuse(primitive, why, 3000);
    std::string said;
    EXPECT_EQ(touch(page, &said), Touch::kBusError);
    EXPECT_NE(said.find(reason), std::string::npos) << said;
    EXPECT_EQ(said.find("full"), std::string::npos) << said;
    EXPECT_TRUE(soft_.mmu().has_uninjected_failures());
    soft_.mmu().clear_failures();
    soft_.validate();
  }
  SoftVm soft_;
};

TEST_F(SoftRefusal, OfZerosIsNotCalledWantOfRoom) {
  const PageRun run = soft_.map(8);
  expect_given_up(Primitive::kInstallZeros, mmu::Outcome::kExists, run.first, "already");
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

TEST_F(SoftRefusal, ForWantOfTheKernelsMemoryIsNotTheBudgets) {
  const PageRun run = soft_.map(8);
  expect_given_up(Primitive::kInstallZeros, mmu::Outcome::kNoMemory, run.first,
                  "the kernel has no memory");
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

TEST_F(SoftRefusal, OfAPageOnStandbyEndsAndLosesNothing) {
  const PageRun run = soft_.map(8);
  soft_.fill(run);
  soft_.age_to_standby(run);
  expect_given_up(Primitive::kGiveBack, mmu::Outcome::kBusy, run.first, "holds the page");
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
}

TEST_F(SoftRefusal, OfACompressedPageEndsAndLosesNothing) {
  const PageRun run = soft_.map(8);
  soft_.fill(run);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  expect_given_up(Primitive::kInstall, mmu::Outcome::kFailed, run.first, "refuses the page");
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
}

TEST_F(SoftRefusal, ThatPassesIsNotNoticed) {
  const PageRun run = soft_.map(8);
  soft_.fill(run);
  soft_.age_to_standby(run);
  refuse(Primitive::kGiveBack, mmu::Outcome::kBusy, 40);
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  soft_.validate();
}

TEST_F(SoftRefusal, OfAStoreThatIsTrappedEnds) {
  const PageRun run = soft_.map(8);
  soft_.fill(run);
  ASSERT_TRUE(soft_.vm().free_lazily(run).ok());
  refuse(Primitive::kUnprotect, mmu::Outcome::kFailed, 3000);
  testing::internal::CaptureStderr();
  EXPECT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kBusError);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("refuses the page"), std::string::npos);
  soft_.mmu().clear_failures();
  EXPECT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  soft_.validate();
}

TEST_F(SoftRefusal, ARemapSaysWhoRefused) {
  const PageRun run = soft_.map(8);
  soft_.fill(run);
  (void)soft_.map(1);  // no room to grow in place
  refuse(Primitive::kTake, mmu::Outcome::kNoMemory, 100);
  EXPECT_EQ(soft_.vm().remap(run, PageCount(100), true).code(), ENOMEM);
  soft_.mmu().clear_failures();
  refuse(Primitive::kTake, mmu::Outcome::kLocked, 100);
  EXPECT_EQ(soft_.vm().remap(run, PageCount(100), true).code(), EBUSY);
  soft_.mmu().clear_failures();
  for (Vpn page = run.first; page < run.end(); ++page)
    EXPECT_TRUE(soft_.holds(page, SoftVm::image_of(page)));
  soft_.validate();
}

}  // namespace
}  // namespace buoy
