// PageImage: the contents of one page as a test names them, so that a page can be written, compared
// and printed without keeping 4 KiB of it.
//
//   | part 0: 512 bytes | part 1 | ... | part 7 |      a seed each; seed 0 is zeros
//
// Every word of a part follows from its seed, so a mixture of two contents inside a part is found,
// too. The seed decides how well a part compresses: to one word, about by half, or not at all.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/units.h"

namespace buoy {

class PageImage {
 public:
  static constexpr unsigned kParts = 8;
  static constexpr std::size_t kPartBytes = kPageSize / kParts;
  using Bytes = std::array<std::byte, kPageSize>;

  enum class Texture : std::uint8_t { kUniform, kCompressible, kIncompressible };
  // A seed of that texture out of any number.
  [[nodiscard]] static std::uint32_t seed_of(std::uint32_t number, Texture texture);

  constexpr PageImage() = default;  // zeros
  [[nodiscard]] static PageImage filled(std::uint32_t seed);

  void set_part(unsigned part, std::uint32_t seed) { seeds_[part] = seed; }
  [[nodiscard]] bool is_zero() const { return seeds_ == decltype(seeds_){}; }
  auto operator<=>(const PageImage&) const = default;

  static void write_part(std::uint32_t seed, std::byte* out);
  [[nodiscard]] Bytes bytes() const;
  [[nodiscard]] bool matches(const Bytes& bytes) const;
  [[nodiscard]] std::string name() const;

 private:
  std::array<std::uint32_t, kParts> seeds_{};
};

}  // namespace buoy
