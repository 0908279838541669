#include "reclaim/pool_share.h"

#include <algorithm>

namespace buoy {

namespace {
// A read of the file costs about as much as so many faults that need none.
constexpr double kReadInFaults = 6;
// A difference that is no noise.
constexpr double kClearly = 1.25;
constexpr unsigned kStep = 6;  // a sixth of the share
}  // namespace

void PoolShare::Recent::add(std::uint64_t now) {
  if (now < seen) seen = 0;  // a fork child counts anew
  sum = sum / 2 + (now - seen);
  seen = now;
}

void PoolShare::look(const Context& context) {
  const unsigned tick = context.lru.generation();
  if (tick == tick_) return;
  tick_ = tick;
  near_.add(context.counters.read(Event::workingset_activate));
  loads_.add(context.counters.read(Event::pswpin));
  reads_.add(context.counters.read(Event::pswpin_file));
  const swap::SwapStats stats = context.swap->stats();
  const auto frames = static_cast<double>(context.swap->frames().value());
  const auto pages = static_cast<double>(stats.compressed_pages - stats.same_filled_pages);
  if (frames < 1) return;
  const double kept = std::max(0.0, 1 - frames / std::max(pages, 1.0));  // 1 - 1/c
  const auto pool_loads = static_cast<double>(loads_.sum - std::min(loads_.sum, reads_.sum));
  const double pool = pool_loads * kept * kReadInFaults / frames;
  const double resident =
      static_cast<double>(near_.sum) / static_cast<double>(context.lru.tick_pages());
  const unsigned now = per_mille_.load(std::memory_order_relaxed);
  const unsigned step = now / kStep + 1;
  if (resident > pool * kClearly)
    per_mille_.store(std::max(now - std::min(step, now), kLeast), std::memory_order_relaxed);
  else if (pool > resident * kClearly)
    per_mille_.store(std::min(now + step, kMost), std::memory_order_relaxed);
}

}  // namespace buoy
