// Budget: how many pages may be resident, and who may have the last of them.
//
//   0 ......................... high ... low ... reserve | limit
//   ^ used                      background reclaim runs  ^ only reclaim may charge here
//                               from `low` until `high`
//
// used = populated pages at addresses + populated pages in shadows + the arena's frames.
// A page is charged BEFORE it is populated and uncharged AFTER it is gone, so that the resident
// memory never passes the limit, not for a moment. Lock-free; async-signal-safe.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.h"

namespace buoy {

enum class Charge : std::uint8_t {
  kOrdinary,  // leaves the reserve alone
  kReturn,    // brings back what was stored where there is no other room: may use the reserve
  kReclaim,   // frees more than it takes: may use the reserve
};

class Budget {
 public:
  // The smallest limit that can work: the reserve, and something to manage. Bytes.
  static constexpr ByteSize kMinimum = ByteSize{16} << 20;

  void set_limit(PageCount limit) {
    ceiling_.store(limit.value(), std::memory_order_relaxed);
    reclaim_ceiling_.store(limit.value(), std::memory_order_relaxed);
    limit_.store(limit.value(), std::memory_order_relaxed);
  }
  // Shrinking takes two steps: from begin on nothing but reclaim, which frees more than it takes,
  // is charged above `target`; finish makes it the limit once no more is used (false: more is),
  // cancel goes back to the old limit.
  void begin_shrink(PageCount target) { ceiling_.store(target.value(), std::memory_order_relaxed); }
  [[nodiscard]] bool finish_shrink() {
    const PageCount target(ceiling_.load(std::memory_order_relaxed));
    if (used() > target) return false;
    // From here on reclaim obeys it, too; what was charged just before is seen, or seen to.
    reclaim_ceiling_.store(target.value(), std::memory_order_seq_cst);
    if (used_.load(std::memory_order_seq_cst) > target.value()) {
      reclaim_ceiling_.store(limit().value(), std::memory_order_relaxed);
      return false;
    }
    limit_.store(target.value(), std::memory_order_relaxed);
    return true;
  }
  [[nodiscard]] bool is_shrinking() const { return ceiling() < limit(); }
  void cancel_shrink() { ceiling_.store(limit().value(), std::memory_order_relaxed); }
  // In a fork child, where nobody is who would go on with a shrink that the parent was at.
  void after_fork_in_child() { set_limit(limit()); }
  [[nodiscard]] PageCount limit() const {
    return PageCount(limit_.load(std::memory_order_relaxed));
  }
  // Kept back for reclaim: a pageblock, at most an eighth. Whatever it holds, a block that the
  // arena takes out of it frees as many pages at least before it is full.
  [[nodiscard]] PageCount reserve() const {
    const std::uint64_t eighth = ceiling().value() / 8;
    return PageCount(eighth < kPagesPerBlock ? eighth : kPagesPerBlock);
  }
  // Free pages below which the background reclaimer starts, and up to which it goes on.
  [[nodiscard]] PageCount low_watermark() const {
    return reserve() + PageCount(ceiling().value() / 256);
  }
  [[nodiscard]] PageCount high_watermark() const {
    return reserve() + PageCount(ceiling().value() / 96);
  }

  [[nodiscard]] bool try_charge(PageCount n, Charge kind = Charge::kOrdinary) {
    const std::uint64_t highest = highest_for(kind);
    std::uint64_t used = used_.load(std::memory_order_relaxed);
    do {
      if (used + n.value() > highest) return false;
    } while (!used_.compare_exchange_weak(used, used + n.value(), std::memory_order_seq_cst));
    if (kind == Charge::kReclaim &&
        used + n.value() > reclaim_ceiling_.load(std::memory_order_seq_cst)) {
      uncharge(n);  // a shrink finished meanwhile
      return false;
    }
    std::uint64_t peak = peak_.load(std::memory_order_relaxed);
    while (used + n.value() > peak &&
           !peak_.compare_exchange_weak(peak, used + n.value(), std::memory_order_relaxed)) {
    }
    return true;
  }
  void uncharge(PageCount n) { used_.fetch_sub(n.value(), std::memory_order_relaxed); }

  [[nodiscard]] PageCount used() const { return PageCount(used_.load(std::memory_order_relaxed)); }
  [[nodiscard]] PageCount peak() const { return PageCount(peak_.load(std::memory_order_relaxed)); }
  [[nodiscard]] PageCount free() const {
    const std::uint64_t l = ceiling().value();
    const std::uint64_t u = used().value();
    return PageCount(u < l ? l - u : 0);
  }
  [[nodiscard]] bool is_below_low() const { return free() < low_watermark(); }
  [[nodiscard]] bool is_above_high() const { return free() >= high_watermark(); }

 private:
  [[nodiscard]] PageCount ceiling() const {
    return PageCount(ceiling_.load(std::memory_order_relaxed));
  }
  [[nodiscard]] std::uint64_t highest_for(Charge kind) const {
    if (kind == Charge::kReclaim) return reclaim_ceiling_.load(std::memory_order_relaxed);
    if (kind == Charge::kReturn) return ceiling().value();
    return (ceiling() - reserve()).value();
  }

  std::atomic<std::uint64_t> limit_{0};    // what users see
  std::atomic<std::uint64_t> ceiling_{0};  // what charges obey; below the limit while shrinking
  std::atomic<std::uint64_t> reclaim_ceiling_{0};  // what reclaim obeys; the limit while shrinking
  std::atomic<std::uint64_t> used_{0};
  std::atomic<std::uint64_t> peak_{0};
};

}  // namespace buoy
