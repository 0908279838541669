#include "cli/budget_request.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "cli/size.h"

namespace buoy::cli {
namespace {

using Kind = BudgetRequest::Kind;

constexpr std::string_view kPressure = "auto:pressure";

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

std::optional<unsigned> whole_number(std::string_view text) {
  unsigned value = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stopped != end) return std::nullopt;
  return value;
}

std::string set_share(BudgetRequest& request, const std::string& value) {
  const auto percent = whole_number(std::string_view(value).substr(0, value.size() - 1));
  if (!percent || *percent == 0 || *percent > 100)
    return quoted(value) + " is not a share of memory: a whole number from 1% to 100%";
  request.kind = Kind::kShare;
  request.percent = *percent;
  return {};
}

std::string set_pressure(BudgetRequest& request, const std::string& value) {
  constexpr unsigned kMost = 1'000'000;
  request.kind = Kind::kPressure;
  if (value.size() == kPressure.size()) return {};
  std::optional<unsigned> faults;
  if (value[kPressure.size()] == '=')
    faults = whole_number(std::string_view(value).substr(kPressure.size() + 1));
  if (!faults || *faults == 0 || *faults > kMost)
    return quoted(value) + " is not auto:pressure=N: N faults a second, from 1 to 1000000";
  request.faults = *faults;
  return {};
}

// Empty, or why a size is no budget.
std::string check_size(const std::string& value, ByteSize* bytes) {
  const auto parsed = parse_size(value);
  if (!parsed) return not_a_size(value);
  if (*parsed == 0)
    return "a budget of zero holds nothing; the smallest is " + format_size(Budget::kMinimum);
  if (*parsed < Budget::kMinimum)
    return quoted(value) + " is below the smallest budget, " + format_size(Budget::kMinimum);
  if (*parsed > kLargestBudget)
    return quoted(value) + " is above the largest budget, " + format_size(kLargestBudget);
  *bytes = *parsed;
  return {};
}

std::string readable(ByteSize bytes) { return std::to_string(bytes >> 20) + "M"; }

}  // namespace

std::string set_budget(BudgetRequest& request, const std::string& value) {
  if (value == "auto") {
    request.kind = Kind::kAuto;
    return {};
  }
  if (value.compare(0, kPressure.size(), kPressure) == 0) return set_pressure(request, value);
  if (!value.empty() && value.back() == '%') return set_share(request, value);
  request.kind = Kind::kSize;
  std::string why = check_size(value, &request.bytes);
  if (!why.empty() && !parse_size(value)) why += "; or 75%, auto, auto:pressure";
  return why;
}

std::string set_least_budget(BudgetRequest& request, const std::string& value) {
  return check_size(value, &request.least);
}

ByteSize cushion(const MemoryRoom& room) {
  return std::clamp<ByteSize>(room.limit / 32, ByteSize{4} << 20, ByteSize{64} << 20);
}

Outcome<ByteSize> first_budget(const BudgetRequest& request, const MemoryRoom& room) {
  if (request.kind == Kind::kSize) return request.bytes;
  const char* const whose = room.is_cgroup ? "the cgroup's limit" : "this machine's memory";
  if (room.limit == 0)
    return Failure{kUsage,
                   "run: --budget: how much memory there is cannot be read (/proc/meminfo); "
                   "give a size, as 256M"};
  if (request.kind == Kind::kShare) {
    const ByteSize share = room.limit / 100 * request.percent;
    const ByteSize bytes = std::min(std::max(share, request.least), kLargestBudget);
    if (bytes < Budget::kMinimum)
      return Failure{kUsage, "run: --budget: " + std::to_string(request.percent) + "% of " + whose +
                                 ", " + readable(room.limit) + ", is below the smallest budget, " +
                                 format_size(Budget::kMinimum)};
    return bytes;
  }
  const ByteSize free = room.free - std::min(room.free, cushion(room));
  if (free < request.floor())
    say("warning: --budget auto: " + std::string(whose) + " is " + readable(room.limit) + ", and " +
        readable(room.free) + " of it are free: the budget is " + format_size(request.floor()) +
        (request.least != 0 ? ", as --min-budget says" : ", the smallest"));
  return std::clamp(free, request.floor(), kLargestBudget);
}

}  // namespace buoy::cli
