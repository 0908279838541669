// Pressure: how hard it is to stay inside the budget, in three levels.
//
//   none       what reclaim needs it finds in memory that may be forgotten
//   moderate   it squeezes ordinary pages: the program works on more than fits
//   critical   it finds nothing, or squeezed pages crowd out the others: shrink now
//
// Rising is noticed by reclaim as it happens; falling wants a margin, so that the working point of
// a program that is always a little too large does not look like news all the time:
//
//   critical -> moderate   free pages reach the high watermark, and the squeezed hold under half
//   moderate -> none       an eighth of the budget is free beyond that
//
// Each rise is told once through the Notifier. Lock-free; async-signal-safe.
#pragma once

#include <atomic>
#include <cstdint>

namespace buoy {

struct Context;

enum class PressureLevel : std::uint8_t { kNone, kModerate, kCritical };

class Pressure {
 public:
  explicit Pressure(Context& context) : context_(context) {}

  [[nodiscard]] PressureLevel level() const { return level_.load(std::memory_order_relaxed); }
  // Reclaim is about to take ordinary memory.
  void note_squeezing();
  // A round of reclaim freed nothing.
  void note_fruitless() { raise(PressureLevel::kCritical); }
  // Lowers the level if there is room again.
  void relax();

 private:
  void raise(PressureLevel to);
  // Whether the arena, which holds the squeezed pages, has more than this share of the budget.
  [[nodiscard]] bool is_arena_above(unsigned quarters) const;

  Context& context_;
  std::atomic<PressureLevel> level_{PressureLevel::kNone};
};

}  // namespace buoy
