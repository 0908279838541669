// PageCodec: what a page becomes when it leaves memory, and back. Shared by both tiers.
//
//   form            stored bytes          when
//   same-filled     8: the pattern        one 8-byte word, repeated
//   compressed      9 .. packed limit     the compressor made it short enough to share a frame
//   as it is        4096                  it did not
//
// The form is told by the length alone: no compressor makes 4096 bytes of fewer than nine that
// are not same-filled, and none is asked for 4096.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/units.h"
#include "swap/compressor.h"
#include "swap/work_area.h"
#include "zpool/size_class.h"

namespace buoy::swap {

inline constexpr unsigned kPatternBytes = 8;
// Above this an object costs a whole frame, so the page is stored as it is and need not be
// decompressed. The kernel's "huge" class is found the same way.
inline constexpr unsigned kPackedLimit = zpool::kSizeClasses.longest_packed();

struct EncodedPage {
  const std::byte* data = nullptr;  // in the work area, or the page itself
  unsigned length = 0;
};

class PageCodec {
 public:
  explicit PageCodec(const Compressor& compressor) : compressor_(compressor) {}

  // Is the page one repeated word? A page that changes under our eyes gives either answer.
  [[nodiscard]] static bool is_same_filled(const std::byte* page, std::uint64_t* pattern) {
    const auto word_at = [page](std::size_t i) {
      std::uint64_t w = 0;
      std::memcpy(&w, page + i * sizeof w, sizeof w);
      return w;
    };
    constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);
    const std::uint64_t first = word_at(0);
    // Most pages differ early or at the very end; in eights, so that the compiler may vectorise.
    if (word_at(kWords - 1) != first || word_at(1) != first) return false;
    for (std::size_t i = 0; i < kWords; i += 8) {
      std::uint64_t difference = 0;
      for (std::size_t j = 0; j < 8; ++j) difference |= word_at(i + j) ^ first;
      if (difference != 0) return false;
    }
    *pattern = first;
    return true;
  }

  // Compressed or as it is; never same-filled.
  [[nodiscard]] EncodedPage encode(const WorkArea& area, const std::byte* page) const {
    const unsigned size = compressor_.compress(area.state, page, area.output, kPackedLimit);
    if (size <= kPatternBytes) return {page, static_cast<unsigned>(kPageSize)};
    return {area.output, size};
  }

  static void fill(std::byte* out, std::uint64_t pattern) {
    if (pattern == 0) {
      std::memset(out, 0, kPageSize);
      return;
    }
    for (std::size_t i = 0; i < kPageSize; i += sizeof pattern)
      std::memcpy(out + i, &pattern, sizeof pattern);
  }

  // Can decode() do without a work area's state?
  [[nodiscard]] bool decodes_without_work() const {
    return !compressor_.needs_work_to_decompress();
  }
  // False: the bytes are not an encoded page. `state` may be null if decodes_without_work().
  [[nodiscard]] bool decode(std::byte* state, const std::byte* data, unsigned length,
                            std::byte* out) const {
    if (length == kPageSize) {
      std::memcpy(out, data, kPageSize);
      return true;
    }
    if (length == kPatternBytes) {
      std::uint64_t pattern = 0;
      std::memcpy(&pattern, data, sizeof pattern);
      fill(out, pattern);
      return true;
    }
    return compressor_.decompress(state, data, length, out);
  }

 private:
  const Compressor& compressor_;
};

}  // namespace buoy::swap
