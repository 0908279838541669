#include "reclaim/pressure.h"

#include "reclaim/context.h"

namespace buoy {

void Pressure::raise(PressureLevel to) {
  PressureLevel now = level_.load(std::memory_order_relaxed);
  do {
    if (now >= to) return;
  } while (!level_.compare_exchange_weak(now, to, std::memory_order_relaxed));
  context_.notifier.tell(to == PressureLevel::kCritical ? Notice::kCritical : Notice::kModerate);
}

bool Pressure::is_arena_above(unsigned quarters) const {
  const std::int64_t shadows = context_.shadow_frames.load(std::memory_order_relaxed);
  const std::uint64_t pages = context_.pages_in(PteState::kMapped) +
                              context_.pages_in(PteState::kClean) +
                              context_.pages_in(PteState::kLazyFree) +
                              static_cast<std::uint64_t>(shadows < 0 ? 0 : shadows);
  const std::uint64_t used = context_.budget.used().value();
  const std::uint64_t arena = used > pages ? used - pages : 0;
  return arena > context_.budget.limit().value() / 4 * quarters;
}

void Pressure::note_squeezing() {
  raise(is_arena_above(3) ? PressureLevel::kCritical : PressureLevel::kModerate);
}

void Pressure::relax() {
  PressureLevel now = level_.load(std::memory_order_relaxed);
  if (now == PressureLevel::kNone) return;
  const Budget& budget = context_.budget;
  PressureLevel to = now;
  if (budget.free().value() >= budget.high_watermark().value() + budget.limit().value() / 8)
    to = PressureLevel::kNone;
  else if (budget.is_above_high() && !is_arena_above(2))
    to = PressureLevel::kModerate;
  // Somebody who raises it meanwhile is right.
  if (to < now) level_.compare_exchange_strong(now, to, std::memory_order_relaxed);
}

}  // namespace buoy
