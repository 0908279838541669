// Compressors, the codec's forms, the checksum.
#include "swap/page_codec.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "swap/checksum.h"
#include "swap/record.h"
#include "swap/test_pages_testing.h"

namespace buoy::swap {
namespace {

using test::Fill;
using test::make_page;
using test::Page;

TEST(ChecksumTest, KnownAnswers) {
  const auto of = [](std::string_view s, std::uint64_t seed) {
    return checksum_of(reinterpret_cast<const std::byte*>(s.data()), s.size(), seed);
  };
  EXPECT_EQ(of("", 0), 0xEF46DB3751D8E999U);
  EXPECT_EQ(of("a", 0), 0xD24EC4F1A98C6E5BU);
  EXPECT_EQ(of("abc", 0), 0x44BC2CF5AD770999U);
  EXPECT_EQ(of("Nobody inspects the spammish repetition", 0), 0xFBCEA83C8A378BF1U);
}

TEST(RecordTest, PlacesKeepTheirParts) {
  const RecordPlace p(0xfffffffe, kClusterBytes - kRecordAlign, kPageSize);
  EXPECT_EQ(p.bits() >> 60, 0U);
  EXPECT_EQ(p.cluster(), 0xfffffffeU);
  EXPECT_EQ(p.offset(), kClusterBytes - kRecordAlign);
  EXPECT_EQ(p.length(), kPageSize);
}

class CodecTest : public testing::TestWithParam<CompressorKind> {
 protected:
  CodecTest() : compressor_(Compressor::of(GetParam())), codec_(compressor_) {
    EXPECT_TRUE(areas_.create(compressor_, 2).ok());
  }
  const Compressor& compressor_;
  PageCodec codec_;
  WorkAreas areas_;
};

TEST_P(CodecTest, EncodesAndDecodes) {
  const WorkAreas::Lease area(areas_);
  for (unsigned i = 0; i < 500; ++i) {
    const Page page = make_page(static_cast<Fill>(2 + i % (test::kFills - 2)), i);
    const EncodedPage encoded = codec_.encode(*area, page.data());
    ASSERT_TRUE(encoded.length <= kPackedLimit || encoded.length == kPageSize);
    Page out;
    ASSERT_TRUE(codec_.decode(area->state, encoded.data, encoded.length, out.data()));
    ASSERT_EQ(out, page);
  }
}

TEST_P(CodecTest, DamagedBytesNeverReachBeyondThePage) {
  const WorkAreas::Lease area(areas_);
  std::mt19937_64 random(5);
  // In the middle of a larger buffer, whose edges must stay as they are.
  std::vector<std::byte> out(3 * kPageSize, std::byte{0x77});
  for (unsigned i = 0; i < 3000; ++i) {
    const Page page = make_page(i % 2 == 0 ? Fill::kHalf : Fill::kText, i);
    const EncodedPage encoded = codec_.encode(*area, page.data());
    std::vector<std::byte> bytes(encoded.data, encoded.data + encoded.length);
    for (unsigned n = 0; n < 3; ++n)
      bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    // Exactly as long as it is, so that a sanitizer sees reads past the end.
    const auto exact = std::make_unique<std::byte[]>(bytes.size());
    std::memcpy(exact.get(), bytes.data(), bytes.size());
    (void)codec_.decode(area->state, exact.get(), encoded.length, out.data() + kPageSize);
    for (std::size_t b = 0; b < kPageSize; ++b) {
      ASSERT_EQ(out[b], std::byte{0x77});
      ASSERT_EQ(out[2 * kPageSize + b], std::byte{0x77});
    }
  }
}

#if !defined(__SANITIZE_THREAD__)  // the race is the test
TEST_P(CodecTest, APageThatChangesMeanwhileDoesNoHarm) {
  const WorkAreas::Lease area(areas_);
  Page page = make_page(Fill::kHalf, 1);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    std::mt19937_64 random(9);
    while (!stop.load(std::memory_order_relaxed)) {
      const std::uint64_t w = random() % 3 == 0 ? 0 : random();
      std::memcpy(&page[random() % (kPageSize - 8)], &w, sizeof w);
    }
  });
  Page out;
  for (unsigned i = 0; i < 30000; ++i) {
    std::memset(area->output + kPackedLimit, 0x55, kPageSize - kPackedLimit);
    const EncodedPage encoded = codec_.encode(*area, page.data());
    for (std::size_t b = kPackedLimit; b < kPageSize; ++b)
      ASSERT_EQ(area->output[b], std::byte{0x55});
    (void)codec_.decode(area->state, encoded.data, encoded.length, out.data());
  }
  stop.store(true);
  writer.join();
}
#endif

INSTANTIATE_TEST_SUITE_P(All, CodecTest,
                         testing::Values(CompressorKind::kLz4, CompressorKind::kZstd,
                                         CompressorKind::kNone));

TEST(PageCodecTest, SeesSameFilledPagesAndNoOthers) {
  std::uint64_t pattern = 0;
  EXPECT_TRUE(PageCodec::is_same_filled(make_page(Fill::kZero, 0).data(), &pattern));
  EXPECT_EQ(pattern, 0U);
  Page page = make_page(Fill::kPattern, 3);
  EXPECT_TRUE(PageCodec::is_same_filled(page.data(), &pattern));
  EXPECT_EQ(pattern, 0xF0E1D2C3B4A59687U ^ 3U);
  Page out;
  PageCodec::fill(out.data(), pattern);
  EXPECT_EQ(out, page);
  for (std::size_t i = 0; i < kPageSize; ++i) {
    page[i] ^= std::byte{1};
    ASSERT_FALSE(PageCodec::is_same_filled(page.data(), &pattern)) << i;
    page[i] ^= std::byte{1};
  }
}

}  // namespace
}  // namespace buoy::swap
