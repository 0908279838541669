#include "pagetable/leaf.h"

namespace buoy {

void Leaf::set(unsigned i, Pte value) {
  const Pte old = get(i);
  BUOY_DCHECK(transition_is_allowed(old.state(), value.state()));
  BUOY_DCHECK((value.state() != PteState::kStandby && value.state() != PteState::kLazyAway) ||
              value.has(Pte::kInShadow));
  --count[static_cast<std::size_t>(old.state())];
  ++count[static_cast<std::size_t>(value.state())];
  in_shadow = static_cast<std::uint16_t>(in_shadow + (value.has(Pte::kInShadow) ? 1 : 0) -
                                         (old.has(Pte::kInShadow) ? 1 : 0));
  held = static_cast<std::uint16_t>(held + (value.is_held() ? 1 : 0) - (old.is_held() ? 1 : 0));
  ptes_[i].store(value.bits(), std::memory_order_relaxed);
}

void Leaf::reset(std::uint64_t new_block, Region* owner, PteState fill) {
  for (auto& p : ptes_) p.store(Pte::of(fill).bits(), std::memory_order_relaxed);
  count.fill(0);
  count[static_cast<std::size_t>(fill)] = kPagesPerBlock;
  in_shadow = 0;
  held = 0;
  last_fault = kNoFault;
  window_order = 0;
  unfree_order = 0;
  last_unfree = kNoFault;
  faults.store(0, std::memory_order_relaxed);
  region.store(owner, std::memory_order_relaxed);
  block.store(new_block, std::memory_order_release);
}

void Leaf::validate() const {
  std::array<std::uint16_t, static_cast<std::size_t>(PteState::kCount)> counted{};
  unsigned shadows = 0;
  unsigned holding = 0;
  for (unsigned i = 0; i < kPagesPerBlock; ++i) {
    const Pte p = get(i);
    ++counted[static_cast<std::size_t>(p.state())];
    if (p.has(Pte::kInShadow)) ++shadows;
    if (p.is_held()) ++holding;
    const bool needs_entry = p.state() == PteState::kSwapped || p.state() == PteState::kClean ||
                             p.state() == PteState::kLoading;
    // Standby may still have its compressed copy (it was clean); nobody else may.
    BUOY_CHECK(needs_entry ? !p.entry().is_none()
                           : p.entry().is_none() || p.state() == PteState::kStandby);
    BUOY_CHECK((p.state() != PteState::kStandby && p.state() != PteState::kLazyAway) ||
               p.has(Pte::kInShadow));
    BUOY_CHECK(!p.has(Pte::kSqueezing) || p.has(Pte::kInShadow));
    BUOY_CHECK(!p.has(Pte::kIdle) || p.state() == PteState::kLazyFree ||
               p.state() == PteState::kEmpty);
  }
  BUOY_CHECK(counted == count);
  BUOY_CHECK(shadows == in_shadow);
  BUOY_CHECK(holding == held);
}

}  // namespace buoy
