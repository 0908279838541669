// Record: one page in the backing file, and its place there.
//
//   cluster: |rec|rec|rec|..pad|rec|rec|...          a batch ends at a 4 KiB border
//   rec:     | checksum 8 | handle 4 | length 2 | 0 2 | data: `length` bytes | pad to 16 |
//   place (60 bits):   | cluster 32 | offset / 16: 15 | length: 13 |
//
// The checksum covers the header's rest and the data, and is seeded with the cluster's place and
// generation: a record of an earlier use of the same bytes does not pass for a current one.
// A length of 0 ends a batch: what follows starts at the next 4 KiB border.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/units.h"
#include "swap/checksum.h"
#include "swap/cluster_map.h"

namespace buoy::swap {

struct RecordHeader {
  std::uint64_t checksum = 0;
  std::uint32_t handle = 0;
  std::uint16_t length = 0;
  std::uint16_t zero = 0;
};
static_assert(sizeof(RecordHeader) == 16);

// As the header's size, so that what is left of a batch's last 4 KiB holds a header or nothing.
inline constexpr unsigned kRecordAlign = 16;

[[nodiscard]] constexpr std::uint32_t record_bytes(unsigned length) {
  return (static_cast<std::uint32_t>(sizeof(RecordHeader)) + length + kRecordAlign - 1) &
         ~(kRecordAlign - 1);
}

[[nodiscard]] inline std::uint64_t record_checksum(const std::byte* record, unsigned length,
                                                   std::uint64_t seed) {
  constexpr std::size_t kSkip = sizeof(std::uint64_t);
  return checksum_of(record + kSkip, sizeof(RecordHeader) - kSkip + length, seed);
}
[[nodiscard]] constexpr std::uint64_t record_seed(std::uint32_t cluster, std::uint32_t generation) {
  return std::uint64_t{cluster} << 32 | generation;
}

class RecordPlace {
 public:
  constexpr explicit RecordPlace(std::uint64_t bits) : bits_(bits) {}
  constexpr RecordPlace(std::uint32_t cluster, std::uint32_t offset, unsigned length)
      : bits_(std::uint64_t{cluster} << 28 | std::uint64_t{offset / kRecordAlign} << 13 | length) {}
  [[nodiscard]] constexpr std::uint64_t bits() const { return bits_; }
  [[nodiscard]] constexpr std::uint32_t cluster() const {
    return static_cast<std::uint32_t>(bits_ >> 28);
  }
  [[nodiscard]] constexpr std::uint32_t offset() const {
    return (static_cast<std::uint32_t>(bits_ >> 13) & 0x7fffU) * kRecordAlign;
  }
  [[nodiscard]] constexpr unsigned length() const { return static_cast<unsigned>(bits_) & 0x1fffU; }
  constexpr bool operator==(const RecordPlace&) const = default;

 private:
  std::uint64_t bits_;
};
static_assert(kClusterBytes / kRecordAlign <= 1U << 15);

// The record at `bytes` if it is whole, is the handle's, and its checksum holds; else null.
[[nodiscard]] inline const std::byte* verified_data(const std::byte* bytes, std::uint32_t handle,
                                                    unsigned length, std::uint64_t seed) {
  RecordHeader header;
  std::memcpy(&header, bytes, sizeof header);
  if (header.handle != handle || header.length != length) return nullptr;
  if (header.checksum != record_checksum(bytes, length, seed)) return nullptr;
  return bytes + sizeof header;
}

}  // namespace buoy::swap
