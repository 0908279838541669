// RemapGate: keeps permit() and the moves of whole page tables apart.
//
// A move by mremap puts one side's mapping, access rights and all, in the place of the other's. If
// permit() changed those rights half-way, the shadow would end up closed to us, or the address open
// to the program. permit() is rare and may wait for a move; a move has other ways and never waits.
#pragma once

#include <atomic>
#include <cstdint>

namespace buoy::mmu {

class RemapGate {
 public:
  // A move by mremap. False: access rights are being changed; move page by page.
  [[nodiscard]] bool try_enter() {
    std::uint32_t now = word_.load(std::memory_order_relaxed);
    do {
      if (now >= kOnePermit) return false;
    } while (!word_.compare_exchange_weak(now, now + 1, std::memory_order_acquire));
    return true;
  }
  void leave() { word_.fetch_sub(1, std::memory_order_release); }

  // Around a change of access rights; several may be under way.
  void close() {
    word_.fetch_add(kOnePermit, std::memory_order_acquire);
    while (word_.load(std::memory_order_acquire) % kOnePermit != 0) __builtin_ia32_pause();
  }
  void open() { word_.fetch_sub(kOnePermit, std::memory_order_release); }

 private:
  static constexpr std::uint32_t kOnePermit = 1U << 16;
  std::atomic<std::uint32_t> word_{0};  // permits under way << 16 | moves under way
};

}  // namespace buoy::mmu
