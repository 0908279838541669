#include "preload/member.h"

#include <atomic>
#include <cerrno>

#include "api/picture.h"
#include "base/thread.h"
#include "control/block.h"
#include "frames/place.h"
#include "preload/environment.h"
#include "preload/lease.h"
#include "preload/runtime.h"
#include "preload/settings.h"

namespace buoy::preload {
namespace {

using control::Block;
using control::Op;
using control::Place;

constinit Block* block = nullptr;
constinit std::atomic<bool> has_tried{false};
constinit std::atomic<bool> is_member{false};
// Made once; its destructor would run before the process ends.
constinit BareThread* thread = nullptr;
constinit unsigned place_taken = control::kPlaces;
constinit std::uint64_t owner_word = 0;
// What the run's budget was when this process, or the parent that it is a copy of, last obeyed it.
constinit std::uint64_t obeyed_budget = 0;

std::uint64_t layout() {
  control::LayoutOf layout;
  for (std::size_t i = 0; i < Pool::stat_count(); ++i) layout.add(Pool::stat_name(i));
  return layout.word();
}

static_assert(Pool::stat_count() <= control::kMostWords, "room for every statistic");
static_assert(kPictureWords <= control::Canvas::kWords, "room for a picture");

void publish(Place& place) {
  for (std::size_t i = 0; i < Pool::stat_count(); ++i) {
    std::uint64_t value = 0;
    (void)pool().stat(Pool::stat_name(i), &value);
    place.words[i].store(value, std::memory_order_relaxed);
  }
}

struct Done {
  int error = 0;
  std::uint64_t result = 0;
};

// Does the supervisor write our statistics if a signal ends us? Then they are kept fresh.
bool is_spoken_for() {
  return settings().stats != nullptr && settings().first_pid == own_process();
}

std::uint64_t budget_of_run() {
  const std::uint64_t budget = block->budget_of_run.load(std::memory_order_seq_cst);
  return budget < Budget::kMinimum ? 0 : budget;  // whoever wrote that
}

Done carry_out(Op op, std::uint64_t argument) {
  switch (op) {
    case Op::kStats:
      return {};
    case Op::kSetBudget:
      if (lease::is_in_tree()) return {lease::resize(argument), 0};
      obeyed_budget = budget_of_run();
      return {pool().resize(argument).code(), 0};
    case Op::kReclaim:
      return {0, pool().reclaim(argument)};
    case Op::kCompact:
      pool().compact();
      return {};
    case Op::kPicture:
      block->canvas().tag.store(0, std::memory_order_relaxed);
      draw_picture(pool(), block->canvas().words);
      block->canvas().tag.store(argument, std::memory_order_release);
      return {};
  }
  return {EINVAL, 0};  // written by who has no business here
}

// The run's budget was changed before this process could be asked to.
void catch_up() {
  const std::uint64_t budget = budget_of_run();
  if (budget == obeyed_budget) return;
  obeyed_budget = budget;
  (void)pool().resize(budget);  // as far as it goes: who asks for statistics sees
}

void serve(void*) {
  Place& place = block->place(place_taken);
  if (!lease::is_in_tree()) catch_up();
  for (;;) {
    control::wait_for_work(place);
    if (!block->is_owner(place_taken, owner_word)) return;  // taken for dead, and given away
    lease::give_back_wanted();
    std::uint32_t request = 0;
    if (!control::has_request(place, &request)) continue;
    const Done done = carry_out(static_cast<Op>(place.op.load(std::memory_order_relaxed)),
                                place.argument.load(std::memory_order_relaxed));
    publish(place);
    control::answer(place, request, done.error, done.result);
  }
}

void join() {
  if (thread == nullptr) {
    auto made = frames::place<BareThread>();
    if (!made) return;
    thread = *made;
  }
  place_taken = lease::is_in_tree() ? lease::place() : block->take_place(own_process());
  if (place_taken == control::kPlaces) return;
  owner_word = block->owner(place_taken);
  if (thread->start("buoy-control", &serve, nullptr))
    is_member.store(true, std::memory_order_release);
  else if (!lease::is_in_tree())
    block->free_place(place_taken, owner_word);
}

}  // namespace

std::uint64_t find_run() {
  const char* const text = initial_environment(environment::kControl);
  if (text != nullptr) block = Block::accept(text, layout());
  if (block == nullptr) return 0;
  if (block->tree_limit.load() != 0) return lease::begin(*block);
  return obeyed_budget = budget_of_run();
}

void beat_in_run() {
  if (block == nullptr || pool_if_started() == nullptr) return;
  if (!has_tried.exchange(true)) join();
  lease::beat();
  if (is_member.load(std::memory_order_acquire) && is_spoken_for())
    publish(block->place(place_taken));
}

void join_run_if_stats_are_wanted() {
  if (is_spoken_for()) beat_in_run();
}

void member_after_fork_in_child() {
  if (thread != nullptr) thread->forget_after_fork();
  has_tried.store(false);
  is_member.store(false);
  lease::after_fork_in_child();
}

}  // namespace buoy::preload
