// MarkWord: all that decides about the mark of an extent of volatile memory, in eight bytes; and
// Mark, the atomic that holds one.
//
//   63         48 47                        8 7      6 5     0
//   [ generation | stamp: age of the mark    | priority | flags ]
//
// Changed by compare-and-swap, so marking, withdrawing and purging are linearizable. The generation
// counts what seizing changed, so a compare-and-swap against a word that was read before fails.
//
// STATES AND TRANSITIONS (Mark checks them in debug builds):
//
//   withdrawn  the mark was withdrawn                  -> withdrawn | marked | seized
//   marked     volatile, nothing of it lost            -> withdrawn | marked | purging | seized
//   purged     volatile, pages may have been purged    -> purged (marked again) | purging | seized
//   purging    volatile, and a purge is at work on it  -> purging | marked | purged
//   seized     somebody changes the extent, or its pages' purged state; free objects are so for good
//                                                      -> seized | withdrawn | marked | purged
//
// What was lost is never forgotten on the way: from purged to withdrawn one must seize it and clear
// its pages. Whoever meets purging or seized may set `awaited` and wait; whoever ends them wakes.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/sys.h"

namespace buoy {

enum class MarkState : std::uint8_t { kWithdrawn, kMarked, kPurged, kPurging, kSeized, kCount };

// The table above.
[[nodiscard]] constexpr bool mark_transition_is_allowed(MarkState from, MarkState to) {
  using enum MarkState;
  constexpr auto set = [](auto... states) {
    return static_cast<std::uint8_t>((... | (1U << static_cast<unsigned>(states))));
  };
  constexpr std::array<std::uint8_t, static_cast<std::size_t>(kCount)> kAllowed = {
      set(kWithdrawn, kMarked, kSeized),            // withdrawn
      set(kWithdrawn, kMarked, kPurging, kSeized),  // marked
      set(kPurged, kPurging, kSeized),              // purged
      set(kPurging, kMarked, kPurged),              // purging
      set(kSeized, kWithdrawn, kMarked, kPurged),   // seized
  };
  return (kAllowed[static_cast<std::size_t>(from)] >> static_cast<unsigned>(to) & 1U) != 0;
}

class MarkWord {
 public:
  enum Flag : std::uint64_t {
    kVolatile = 1,
    kPurged = 2,
    kPurging = 4,
    kSeized = 8,
    kAwaited = 16,  // whoever ends purging or seizing wakes the waiters
    kSpent = 32,    // purged to its end since it was marked last
  };
  static constexpr unsigned kStampBits = 40;
  static constexpr std::uint64_t kStampMask = (std::uint64_t{1} << kStampBits) - 1;

  constexpr explicit MarkWord(std::uint64_t bits) : bits_(bits) {}
  [[nodiscard]] constexpr std::uint64_t bits() const { return bits_; }
  [[nodiscard]] constexpr bool has(std::uint64_t flags) const { return (bits_ & flags) != 0; }
  [[nodiscard]] constexpr MarkState state() const {
    if (has(kSeized)) return MarkState::kSeized;
    if (has(kPurging)) return MarkState::kPurging;
    if (!has(kVolatile)) return MarkState::kWithdrawn;
    return has(kPurged) ? MarkState::kPurged : MarkState::kMarked;
  }
  // Do the flags go together?
  [[nodiscard]] constexpr bool is_consistent() const {
    if (has(kSeized) && has(kPurging)) return false;
    if (has(kAwaited) && !has(kSeized | kPurging)) return false;
    return has(kVolatile) || !has(kPurged | kPurging | kSpent);
  }
  [[nodiscard]] constexpr unsigned priority() const {
    return static_cast<unsigned>(bits_ >> 6) & 3U;
  }
  [[nodiscard]] constexpr std::uint64_t stamp() const { return (bits_ >> 8) & kStampMask; }
  [[nodiscard]] constexpr MarkWord with(std::uint64_t flags) const {
    return MarkWord(bits_ | flags);
  }
  [[nodiscard]] constexpr MarkWord without(std::uint64_t flags) const {
    return MarkWord(bits_ & ~flags);
  }
  [[nodiscard]] constexpr MarkWord marked(unsigned priority, std::uint64_t stamp) const {
    const std::uint64_t kept = bits_ & ((kGenerationMask << 48) | kPurged | kPurging | kAwaited);
    return MarkWord(kept | kVolatile | std::uint64_t{priority} << 6 | (stamp & kStampMask) << 8);
  }
  // The mark, without what was purged and who is at work.
  [[nodiscard]] constexpr MarkWord withdrawn() const {
    return without(kVolatile | kPurged | kPurging | kSeized | kAwaited | kSpent);
  }
  // This word's content in the next generation of another object.
  [[nodiscard]] constexpr MarkWord in_generation_after(MarkWord other) const {
    constexpr std::uint64_t kOne = std::uint64_t{1} << 48;
    return MarkWord((bits_ & (kOne - 1)) | ((other.bits_ & ~(kOne - 1)) + kOne));
  }
  [[nodiscard]] constexpr MarkWord next_generation() const { return in_generation_after(*this); }
  [[nodiscard]] constexpr bool has_same_generation_as(MarkWord o) const {
    return bits_ >> 48 == o.bits_ >> 48;
  }
  [[nodiscard]] constexpr bool has_same_mark_as(MarkWord o) const {
    return stamp() == o.stamp() && priority() == o.priority();
  }

 private:
  static constexpr std::uint64_t kGenerationMask = 0xffff;
  std::uint64_t bits_;
};

// Of an object that is free at first.
class Mark {
 public:
  [[nodiscard]] MarkWord load() const { return MarkWord(word_.load(std::memory_order_acquire)); }
  // False: it is not *seen any more; *seen is what it is.
  [[nodiscard]] bool try_change(MarkWord* seen, MarkWord to) {
    check(*seen, to);
    std::uint64_t expected = seen->bits();
    if (word_.compare_exchange_strong(expected, to.bits(), std::memory_order_acq_rel,
                                      std::memory_order_acquire))
      return true;
    *seen = MarkWord(expected);
    return false;
  }
  // Ends what the caller has seized, and wakes who waits for that.
  void publish(MarkWord to) {
    const MarkWord before(word_.exchange(to.bits(), std::memory_order_acq_rel));
    check(before, to);
    if (before.has(MarkWord::kAwaited)) wake_waiters();
  }
  // Until something about `seen` changes, at most for 2 ms. A futex is 32 bits: the half with the
  // flags, which x86-64 has first.
  void wait(MarkWord seen) {
    sys::futex_wait(&word_, static_cast<std::uint32_t>(seen.bits()), 2'000'000);
  }
  void wake_waiters() const { sys::futex_wake(&word_, INT32_MAX); }

 private:
  static void check([[maybe_unused]] MarkWord from, [[maybe_unused]] MarkWord to) {
    BUOY_DCHECK(mark_transition_is_allowed(from.state(), to.state()));
    BUOY_DCHECK(to.is_consistent());
  }

  std::atomic<std::uint64_t> word_{MarkWord::kSeized};
};

}  // namespace buoy
