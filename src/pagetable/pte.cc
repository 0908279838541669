#include "pagetable/pte.h"

namespace buoy {

namespace {
constexpr auto kStates = static_cast<std::size_t>(PteState::kCount);

constexpr std::uint16_t bit(PteState s) {
  return static_cast<std::uint16_t>(1U << static_cast<unsigned>(s));
}

// Row: from. Bits: to. The same table as the comment at the head of pte.h.
constexpr std::array<std::uint16_t, kStates> kAllowed = [] {
  using enum PteState;
  std::array<std::uint16_t, kStates> t{};
  const auto set = [&t](PteState from, std::uint16_t to) {
    t[static_cast<std::size_t>(from)] = to;
  };
  const auto anyone = static_cast<std::uint16_t>(bit(kHole) | bit(kPurged));
  const auto plus = [anyone](auto... s) {
    return static_cast<std::uint16_t>((anyone | ... | bit(s)));
  };
  set(kHole, bit(kEmpty));
  set(kEmpty, plus(kMapped, kSwapped));
  set(kMapped, plus(kLazyFree, kLazyAway, kStandby, kEmpty));
  set(kLazyFree, plus(kMapped, kEmpty));
  set(kLazyAway, plus(kMapped, kEmpty));
  set(kClean, plus(kMapped, kLazyFree, kLazyAway, kStandby, kEmpty));
  set(kStandby, plus(kMapped, kSwapped, kEmpty));
  set(kSwapped, plus(kMapped, kClean, kLoading, kEmpty));
  set(kLoading, static_cast<std::uint16_t>(bit(kSwapped) | bit(kMapped) | bit(kClean)));
  set(kPurged, plus(kEmpty));
  return t;
}();
}  // namespace

std::string_view state_name(PteState s) {
  static constexpr std::string_view kNames[] = {"hole",   "empty",   "mapped",  "lazyfree",
                                                "clean",  "standby", "swapped", "loading",
                                                "purged", "lazyaway"};
  return kNames[static_cast<std::size_t>(s)];
}

bool transition_is_allowed(PteState from, PteState to) {
  return from == to || (kAllowed[static_cast<std::size_t>(from)] & bit(to)) != 0;
}

}  // namespace buoy
