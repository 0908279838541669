// The whole of a pool's pages: another budget for it, and counting everything anew.

#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

Status Vm::resize(PageCount budget) {
  const SignalBlock signals;
  if (budget >= context_.budget.limit()) {
    context_.budget.set_limit(budget);
    context_.lru.set_budget_pages(budget.value());
    return {};
  }
  constexpr unsigned kFruitlessRounds = 16;
  context_.budget.begin_shrink(budget);
  for (unsigned fruitless = 0; !context_.budget.finish_shrink();) {
    const GatePass pass(context_.gate);
    const PageCount used = context_.budget.used();
    if (used <= budget) continue;
    const PageCount freed = reclaimer_.reclaim(used - budget, ReclaimKind::kProactive);
    fruitless = freed.is_zero() ? fruitless + 1 : 0;
    if (fruitless > kFruitlessRounds) {
      context_.budget.cancel_shrink();
      return Error{EAGAIN};
    }
  }
  context_.lru.set_budget_pages(budget.value());
  return {};
}

void Vm::validate(PageCount arena_pages) {
  const SignalBlock signals;
  close_for_all();
  validate_marks();
  std::uint64_t frames = 0;
  std::array<std::uint64_t, static_cast<std::size_t>(PteState::kCount)> counted{};
  context_.table.for_each_leaf([&](Leaf& leaf) {
    const Guard guard(leaf.lock);
    leaf.validate();
    // What is on no list is never reclaimed.
    BUOY_CHECK(leaf.isolated || (lists_for(leaf) & ~leaf.lists.load()) == 0);
    frames += leaf.populated() + leaf.in_shadow;
    for (std::size_t s = 0; s < counted.size(); ++s) counted[s] += leaf.count[s];
  });
  for (std::size_t s = 0; s < counted.size(); ++s) {
    const auto state = static_cast<PteState>(s);
    // Leaves begin as holes or empties without passing a LockedLeaf; the others are exact.
    if (state == PteState::kHole || state == PteState::kEmpty) continue;
    BUOY_CHECK(counted[s] == context_.pages_in(state));
  }
  // Every page that was marked was discarded, stored to again, dropped by its user, or is there.
  const auto read = [this](Event e) { return context_.counters.read(e); };
  BUOY_CHECK(read(Event::pglazyfree) == read(Event::pglazyfreed) + read(Event::pglazyunfreed) +
                                            read(Event::pglazydropped) + context_.lazyfree_pages());
  BUOY_CHECK(frames + arena_pages.value() == context_.budget.used().value());
  open_for_all();
}

// Every purged page is under a mark that knows of it.
void Vm::validate_marks() {
  volatile_.validate();
  context_.table.for_each_leaf([this](Leaf& leaf) BUOY_NO_TSA {
    for (const LeafRange purged :
         runs_where(leaf, LeafRange::whole(), [](Pte p) { return p.state() == PteState::kPurged; }))
      BUOY_CHECK(volatile_.is_all_purged({leaf.page(purged.first), PageCount(purged.size())}));
  });
}

}  // namespace buoy
