// The checksum of what lies in the backing file: XXH64. Not cryptographic: it guards against disks and
// bugs, not against an enemy, who cannot open an unlinked 0600 file anyway.
//
// Source: xxHash (Yann Collet), compiled in: no call of libc's, no memory but its own frame.
#pragma once

#define XXH_INLINE_ALL
#define XXH_NO_STREAM
#include <xxhash.h>

#include <cstddef>
#include <cstdint>

namespace buoy::swap {

[[nodiscard]] inline std::uint64_t checksum_of(const std::byte* data, std::size_t size,
                                               std::uint64_t seed) {
  return XXH64(data, size, seed);
}

}  // namespace buoy::swap
