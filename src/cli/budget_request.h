// BudgetRequest: what `--budget` says, and what it comes to on this machine, now.
//
//   256M            a size
//   75%             of the cgroup's limit, or of the machine's memory; once, at the start
//   auto            what the cgroup or the machine leaves; follows it (budget_follower.h)
//   auto:pressure   the same, and no more than the program needs; auto:pressure=N: at N faults a second
#pragma once

#include <cstdint>
#include <string>

#include "base/units.h"
#include "cli/memory_room.h"
#include "cli/outcome.h"
#include "frames/budget.h"

namespace buoy::cli {

// What the frame numbers of a pool's arena reach.
inline constexpr ByteSize kLargestBudget = ByteSize{1} << 43;

struct BudgetRequest {
  enum class Kind : std::uint8_t { kNone, kSize, kShare, kAuto, kPressure };
  Kind kind = Kind::kNone;
  ByteSize bytes = 0;     // kSize
  unsigned percent = 0;   // kShare
  unsigned faults = 100;  // kPressure: a second, that the program may have to wait for
  ByteSize least = 0;     // `--min-budget`; 0: not said

  [[nodiscard]] bool follows() const { return kind == Kind::kAuto || kind == Kind::kPressure; }
  // No budget is smaller.
  [[nodiscard]] ByteSize floor() const { return least != 0 ? least : Budget::kMinimum; }
};

// Empty, or why the words are refused.
[[nodiscard]] std::string set_budget(BudgetRequest& request, const std::string& value);
[[nodiscard]] std::string set_least_budget(BudgetRequest& request, const std::string& value);

// Kept free of what is there: the metadata of the pools, page tables and what else comes between two
// looks. Bytes.
[[nodiscard]] ByteSize cushion(const MemoryRoom& room);

// The budget to start with.
[[nodiscard]] Outcome<ByteSize> first_budget(const BudgetRequest& request, const MemoryRoom& room);

}  // namespace buoy::cli
