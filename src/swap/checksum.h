// XXH64: the checksum of what lies in the backing file. Not cryptographic: it guards against disks
// and bugs, not against an enemy, who cannot open an unlinked 0600 file anyway.
//
// Source: the xxHash specification (Yann Collet), 64-bit variant. About 0.1 ns a byte.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace buoy::swap {

class Xxh64 {
 public:
  [[nodiscard]] static std::uint64_t of(const std::byte* data, std::size_t size,
                                        std::uint64_t seed) {
    const std::byte* const end = data + size;
    std::uint64_t h = 0;
    if (size >= 32) {
      std::uint64_t lane[4] = {seed + kP1 + kP2, seed + kP2, seed, seed - kP1};
      for (; end - data >= 32; data += 32)
        for (unsigned i = 0; i < 4; ++i) lane[i] = round(lane[i], word(data + 8 * i));
      h = std::rotl(lane[0], 1) + std::rotl(lane[1], 7) + std::rotl(lane[2], 12) +
          std::rotl(lane[3], 18);
      for (const std::uint64_t l : lane) h = (h ^ round(0, l)) * kP1 + kP4;
    } else {
      h = seed + kP5;
    }
    h += size;
    for (; end - data >= 8; data += 8) h = std::rotl(h ^ round(0, word(data)), 27) * kP1 + kP4;
    if (end - data >= 4) {
      std::uint32_t half = 0;
      std::memcpy(&half, data, sizeof half);
      h = std::rotl(h ^ half * kP1, 23) * kP2 + kP3;
      data += 4;
    }
    for (; data < end; ++data)
      h = std::rotl(h ^ std::to_integer<std::uint64_t>(*data) * kP5, 11) * kP1;
    h = (h ^ h >> 33) * kP2;
    h = (h ^ h >> 29) * kP3;
    return h ^ h >> 32;
  }

 private:
  static constexpr std::uint64_t kP1 = 0x9E3779B185EBCA87U;
  static constexpr std::uint64_t kP2 = 0xC2B2AE3D27D4EB4FU;
  static constexpr std::uint64_t kP3 = 0x165667B19E3779F9U;
  static constexpr std::uint64_t kP4 = 0x85EBCA77C2B2AE63U;
  static constexpr std::uint64_t kP5 = 0x27D4EB2F165667C5U;

  static std::uint64_t word(const std::byte* p) {
    std::uint64_t w = 0;
    std::memcpy(&w, p, sizeof w);
    return w;
  }
  static std::uint64_t round(std::uint64_t lane, std::uint64_t input) {
    return std::rotl(lane + input * kP2, 31) * kP1;
  }
};

}  // namespace buoy::swap
