// The length decoder against a full one, over the code of the libraries at hand.
#include "gate/instruction.h"

#include <Zydis/Zydis.h>
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <link.h>

#include <string>
#include <vector>

#include "gate/image.h"

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

// Every instruction of every function that the unwinder knows in the objects at hand: the same length
// as by Zydis, the same distances, or not known at all, which must be rare.
class AgainstZydis : public testing::Test {
 protected:
  AgainstZydis() { ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); }

  void compare(const Image& image, const std::string& name) {
    for (const CodeRange& segment : image.segments()) {
      for (std::uintptr_t at = segment.begin; at < segment.end;) {
        const CodeRange function = image.function_at(at).code;
        if (function.bytes() == 0) {
          ++at;
          continue;
        }
        compare_function(function, name);
        at = function.end;
      }
    }
  }

  unsigned long compared_ = 0;
  unsigned long unknown_ = 0;

 private:
  void compare_function(const CodeRange& function, const std::string& name) {
    for (std::uintptr_t at = function.begin; at < function.end;) {
      const std::span<const std::uint8_t> code = function.code().subspan(at - function.begin);
      ZydisDecodedInstruction full;
      if (!ZYAN_SUCCESS(
              ZydisDecoderDecodeInstruction(&decoder_, nullptr, code.data(), code.size(), &full)))
        return;  // data, or an instruction younger than the library
      compare_one(code, full, name);
      at += full.length;
    }
  }

  void compare_one(std::span<const std::uint8_t> code, const ZydisDecodedInstruction& full,
                   const std::string& name) {
    ++compared_;
    const Instruction ours = decode(code);
    if (!ours.is_known()) {
      ++unknown_;
      return;
    }
    ASSERT_EQ(ours.length, full.length) << name << bytes_of(code, full.length);
    const bool is_relative = (full.attributes & ZYDIS_ATTRIB_IS_RELATIVE) != 0;
    ASSERT_EQ(ours.distance_bytes != 0, is_relative) << name << bytes_of(code, full.length);
    if (!is_relative) return;
    const bool is_immediate = full.raw.imm[0].is_relative != 0;
    ASSERT_EQ(ours.is_branch, is_immediate) << name << bytes_of(code, full.length);
    ASSERT_EQ(ours.distance_at, is_immediate ? full.raw.imm[0].offset : full.raw.disp.offset)
        << name << bytes_of(code, full.length);
    ASSERT_EQ(ours.distance_bytes * 8, is_immediate ? full.raw.imm[0].size : full.raw.disp.size)
        << name << bytes_of(code, full.length);
  }

  static std::string bytes_of(std::span<const std::uint8_t> code, unsigned n) {
    std::string text = ":";
    for (unsigned i = 0; i < n; ++i) {
      char byte[4];
      std::snprintf(byte, sizeof byte, " %02x", code[i]);
      text += byte;
    }
    return text;
  }

  ZydisDecoder decoder_;
};

TEST_F(AgainstZydis, AgreesOnTheCodeAtHand) {
  for (const char* more :
       {"libcrypto.so.3", "libpython3.11.so.1.0", "libgomp.so.1", "libx264.so.164"})
    (void)dlopen(more, RTLD_LAZY);  // more code, where there is some
  std::vector<std::pair<std::string, Image>> images;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* raw) {
        static_cast<std::vector<std::pair<std::string, Image>>*>(raw)->emplace_back(
            info->dlpi_name, Image(info->dlpi_addr, std::span(info->dlpi_phdr, info->dlpi_phnum)));
        return 0;
      },
      &images);
  for (const auto& [name, image] : images) {
    compare(image, name);
    if (HasFatalFailure()) return;
  }
  std::printf("%lu instructions, %lu not known\n", compared_, unknown_);
  EXPECT_GT(compared_, 500'000U);
  EXPECT_LT(unknown_, compared_ / 10'000);
}

}  // namespace
}  // namespace buoy::gate
