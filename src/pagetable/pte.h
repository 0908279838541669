// A page-table entry: all that is known about one page of a region, in eight bytes.
//
//   63            32 31      24 23    18 17      15 14          8 7      4 3     0
//   [ swap entry    | pins     | gen    | level    | flags       | order  | state ]
//
// Written under the leaf's lock only; read without it to plan (and checked again under it).
//
// STATES AND TRANSITIONS (Leaf::set checks them in debug builds):
//
//   hole      not mapped by anyone               -> empty
//   empty     mapped, never stored to, or forgotten; reads zeros (kIdle: its owner said so of it)
//                                                -> mapped | swapped (mremap brings an entry)
//   mapped    at its address, stores allowed     -> lazyfree | lazyaway | standby | empty
//   lazyfree  at its address, stores trapped, contents may vanish until the next store
//             (kIdle: not trapped, its owner stores no more before it says so)
//                                                -> mapped (a store) | empty (discarded)
//   lazyaway  the same, but in the shadow: a whole block was freed, and moving its page table
//             away is cheaper than trapping the stores of 512 pages; or a device may hold a pin
//             that we do not know of, whose stores no trap catches
//                                                -> mapped (touched) | empty (discarded)
//   clean     at its address, stores trapped, still compressed: NOT lazily freed
//                                                -> mapped (a store) | lazyfree | lazyaway
//                                                   | standby | empty
//   standby   in the shadow, resident: the second chance
//                                                -> mapped (touched) | swapped (squeezed) | empty
//   swapped   in a tier, named by the entry      -> mapped | clean | loading | empty
//   loading   swapped, and somebody waits for the disk without the lock
//                                                -> swapped | mapped | clean
//   purged    was volatile and is lost           -> empty
//   every state but loading                      -> hole (unmapped) | purged (if volatile)
//
// The flag kInShadow says that the shadow holds a frame: always for standby and lazyaway; for
// mapped it is a stale copy (given back by COPY); for swapped a frame not dropped yet, whose
// bytes are still right.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "base/swap_entry.h"
#include "base/units.h"

namespace buoy {

enum class PteState : std::uint8_t {
  kHole = 0,
  kEmpty,
  kMapped,
  kLazyFree,
  kClean,
  kStandby,
  kSwapped,
  kLoading,
  kPurged,
  kLazyAway,
  kCount
};

[[nodiscard]] std::string_view state_name(PteState s);
[[nodiscard]] bool transition_is_allowed(PteState from, PteState to);

class Pte {
 public:
  static constexpr unsigned kMaxPins = 255;
  enum Flag : std::uint32_t {
    kInShadow = 1U << 8,   // the shadow holds a frame of this page
    kSqueezing = 1U << 9,  // being compressed from the shadow without the lock: keep the shadow
    kLocked = 1U << 10,    // mlocked by the program: stays resident
    kCold = 1U << 11,      // the user said so: old whatever its generation
    kBusy = 1U << 12,      // the kernel refused to let it go the last time
    kPoisoned = 1U << 13,  // thread delivery: marked so that a touch raises SIGBUS
    // Its owner does not store before reuse. lazyfree: there is no trap; empty (discarded, or never
    // stored to): nobody brings it in for the sake of a neighbour.
    kIdle = 1U << 14,
  };

  constexpr Pte() = default;
  constexpr explicit Pte(std::uint64_t bits) : bits_(bits) {}
  [[nodiscard]] static constexpr Pte of(PteState s) { return Pte(static_cast<std::uint64_t>(s)); }
  [[nodiscard]] constexpr std::uint64_t bits() const { return bits_; }

  [[nodiscard]] constexpr PteState state() const { return static_cast<PteState>(bits_ & 0xfU); }
  [[nodiscard]] constexpr Order order() const {
    return Order(static_cast<unsigned>(bits_ >> 4) & 0xfU);
  }
  [[nodiscard]] constexpr bool has(Flag f) const { return (bits_ & f) != 0; }
  [[nodiscard]] constexpr unsigned generation() const {
    return static_cast<unsigned>(bits_ >> 18) & 0x3fU;
  }
  // How often it has shown that it is wanted again (reclaim/lru.h).
  [[nodiscard]] constexpr unsigned level() const { return static_cast<unsigned>(bits_ >> 15) & 7U; }
  [[nodiscard]] constexpr unsigned pins() const {
    return static_cast<unsigned>(bits_ >> 24) & 0xffU;
  }
  [[nodiscard]] constexpr swap::SwapEntry entry() const {
    return swap::SwapEntry(static_cast<std::uint32_t>(bits_ >> 32));
  }
  // Must stay where it is: pinned for a device or locked by the program.
  [[nodiscard]] constexpr bool is_held() const { return pins() != 0 || has(kLocked); }
  // Populated at its address.
  [[nodiscard]] constexpr bool is_at_address() const {
    const PteState s = state();
    return s == PteState::kMapped || s == PteState::kLazyFree || s == PteState::kClean;
  }
  [[nodiscard]] constexpr bool traps_stores() const {
    return state() == PteState::kLazyFree || state() == PteState::kClean;
  }
  // Frames this page occupies, address and shadow together.
  [[nodiscard]] constexpr unsigned frames() const {
    return (is_at_address() ? 1U : 0U) + (has(kInShadow) ? 1U : 0U);
  }

  // Ends what is true of the old state only.
  [[nodiscard]] constexpr Pte with_state(PteState s) const {
    return Pte((bits_ & ~std::uint64_t{0xf | kIdle}) | static_cast<std::uint64_t>(s));
  }
  [[nodiscard]] constexpr Pte with_order(Order o) const {
    return Pte((bits_ & ~(std::uint64_t{0xf} << 4)) | (std::uint64_t{o.value()} << 4));
  }
  [[nodiscard]] constexpr Pte with(Flag f) const { return Pte(bits_ | f); }
  [[nodiscard]] constexpr Pte without(Flag f) const { return Pte(bits_ & ~std::uint64_t{f}); }
  [[nodiscard]] constexpr Pte with_generation(unsigned g) const {
    return Pte((bits_ & ~(std::uint64_t{0x3f} << 18)) | (std::uint64_t{g & 0x3fU} << 18));
  }
  [[nodiscard]] constexpr Pte with_level(unsigned n) const {
    return Pte((bits_ & ~(std::uint64_t{7} << 15)) | (std::uint64_t{n} << 15));
  }
  [[nodiscard]] constexpr Pte with_pins(unsigned n) const {
    return Pte((bits_ & ~(std::uint64_t{0xff} << 24)) | (std::uint64_t{n} << 24));
  }
  [[nodiscard]] constexpr Pte with_entry(swap::SwapEntry e) const {
    return Pte((bits_ & 0xffffffffU) | (std::uint64_t{e.bits()} << 32));
  }
  [[nodiscard]] constexpr Pte without_entry() const { return Pte(bits_ & 0xffffffffU); }

 private:
  std::uint64_t bits_ = 0;
};
static_assert(sizeof(Pte) == 8);

}  // namespace buoy
