#include "vm/commitment.h"

#include <algorithm>
#include <initializer_list>

#include "base/signals.h"

namespace buoy {

namespace {
// Kept back from every promise: what the engine itself needs on the way (blocks of the arena that are
// not full yet), and what a program that was refused still needs to say so. Small requests may have
// half of it.
constexpr std::uint64_t kReserveShare = 16;
constexpr PageCount kLargestReserve(2048);  // 8 MiB
constexpr PageCount kSmallRequest(16);      // a slab of malloc's
// What one look for more room squeezes, and how often it may be in vain.
constexpr PageCount kBatch(64);
constexpr unsigned kMostFruitless = 4;
}  // namespace

PageCount Commitment::contents() const {
  std::uint64_t contents = 0;
  for (const PteState state : {PteState::kMapped, PteState::kClean, PteState::kStandby,
                               PteState::kSwapped, PteState::kLoading})
    contents += context_.pages_in(state);
  contents -= std::min(contents, context_.swap->same_filled_pages());
  return PageCount(contents);
}

PageCount Commitment::owed() const {
  const PageCount promised(promised_.load(std::memory_order_relaxed));
  return promised - std::min(promised, contents());
}

PageCount Commitment::reserve_for(PageCount n) const {
  const PageCount whole =
      std::min(PageCount(context_.budget.limit().value() / kReserveShare), kLargestReserve);
  return n <= kSmallRequest ? PageCount(whole.value() / 2) : whole;
}

PageCount Commitment::missing(PageCount n) const {
  const Budget& budget = context_.budget;
  const PageCount needed = owed() + reserve_for(n) + budget.reserve();
  const PageCount frames = budget.free() + PageCount(context_.lazyfree_pages());
  if (needed <= frames) return {};
  const PageCount room = frames + context_.arena->blocks().use().free + context_.swap->file_room();
  return needed - std::min(needed, room);
}

bool Commitment::try_promise(PageCount n) {
  if (!is_kept_) return true;
  add(n);
  PageCount now = missing(n);
  // Where not even an empty budget would be enough, nothing is pushed out.
  const bool is_hopeless = now > context_.budget.used();
  for (unsigned fruitless = 0; !now.is_zero() && !is_hopeless && fruitless < kMostFruitless;) {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    const PageCount before = now;
    // Objects moved together first, which pushes nothing out.
    if (context_.swap->compact().is_zero() &&
        reclaimer_.reclaim(kBatch, ReclaimKind::kProactive).is_zero())
      break;
    now = missing(n);
    if (now >= before) ++fruitless;
  }
  if (now.is_zero()) return true;
  drop(n);
  return false;
}

}  // namespace buoy
