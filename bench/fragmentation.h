// What the benchmark `fragmentation` and its processes agree on.
#pragma once

#include <array>
#include <string>

namespace buoy::bench {

// Parts of the arena in use, in percent; all orders are told at the main one.
inline constexpr std::array<unsigned, 4> kUses = {70, 80, 90, 95};
inline constexpr unsigned kMainUse = 90;
inline constexpr unsigned kLowestOrder = 2;
// Each burst of requests would take so much of what is free; between two, this part of what is
// there is replaced.
inline constexpr double kPartAskedFor = 0.5;
inline constexpr double kTurnedOverBetween = 0.05;

// Makes the kernel compact all memory; for root.
inline constexpr const char* kCompactMemory = "/proc/sys/vm/compact_memory";

// The name of a quantity that a process answers for runs of one order: `what` is "success"
// (percent), "us" or "p99_us" (microseconds an allocation, in the mean and at p99; absent where
// none was served).
[[nodiscard]] std::string quantity_of(const char* what, unsigned order, unsigned use);

}  // namespace buoy::bench
