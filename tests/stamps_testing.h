// What tests share that know nothing of the engine's inside: stamped pages, how long to stress.
#pragma once

#include <cstddef>
#include <cstdint>

namespace buoy::testing {

inline constexpr std::size_t kMiB = std::size_t{1} << 20;

// `BUOY_STRESS_SECONDS` where it is set: minutes of stress instead of seconds.
[[nodiscard]] double stress_seconds(double otherwise);

// A page that says whose it is and which edition; a quarter of it is random. Version 0: zeros.
void stamp_page(std::byte* page, std::uint64_t owner, std::uint64_t version);
[[nodiscard]] bool holds_stamp(const std::byte* page, std::uint64_t owner, std::uint64_t version);

}  // namespace buoy::testing
