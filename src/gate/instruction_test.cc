// The length decoder against a full one, over the code of the libraries at hand.
#include "gate/instruction.h"

#include <gtest/gtest.h>
#include <link.h>

#include "gate/image.h"
#include "gate/sites.h"

namespace buoy::gate {
namespace {

unsigned length_of(std::initializer_list<std::uint8_t> code) {
  const std::vector<std::uint8_t> bytes(code);
  return decode(bytes).length;
}

TEST(Instruction, HasALengthOrIsNotKnown) {
  EXPECT_EQ(length_of({0x0f, 0x05}), 2U);                                // syscall
  EXPECT_EQ(length_of({0xb8, 1, 0, 0, 0}), 5U);                          // mov $1, %eax
  EXPECT_EQ(length_of({0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0}), 10U);       // movabs
  EXPECT_EQ(length_of({0x48, 0x3d, 0, 0xf0, 0xff, 0xff}), 6U);           // cmp $-4096, %rax
  EXPECT_EQ(length_of({0x64, 0x8b, 0x04, 0x25, 0x18, 0, 0, 0}), 8U);     // mov %fs:0x18, %eax
  EXPECT_EQ(length_of({0xf6, 0x05, 0, 0, 0, 0, 1}), 7U);                 // testb $1, x(%rip)
  EXPECT_EQ(length_of({0xf6, 0x1d, 0, 0, 0, 0}), 6U);                    // negb x(%rip)
  EXPECT_EQ(length_of({0xc5, 0xf8, 0x77}), 3U);                          // vzeroupper
  EXPECT_EQ(length_of({0x62, 0xf1, 0x7c, 0x48, 0x10, 0x46, 0x01}), 7U);  // vmovups 64(%rsi), %zmm0
  EXPECT_EQ(length_of({0x06}), 0U);
  EXPECT_EQ(length_of({0xb8, 1, 0}), 0U);  // cut off
  EXPECT_EQ(length_of({}), 0U);
}

TEST(Instruction, KnowsWhatIsBoundToItsPlace) {
  const std::uint8_t lea[] = {0x48, 0x8d, 0x05, 1, 0, 0, 0};
  EXPECT_EQ(decode(lea).distance_at, 3U);
  EXPECT_EQ(decode(lea).distance_bytes, 4U);
  EXPECT_FALSE(decode(lea).is_branch);
  const std::uint8_t jne[] = {0x75, 0x10};
  EXPECT_EQ(decode(jne).distance_bytes, 1U);
  EXPECT_TRUE(decode(jne).is_branch);
  const std::uint8_t mov[] = {0x48, 0x89, 0x45, 0xf8};
  EXPECT_EQ(decode(mov).distance_bytes, 0U);
}

}  // namespace
}  // namespace buoy::gate
