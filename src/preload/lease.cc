#include "preload/lease.h"

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "base/sys.h"
#include "control/ledger.h"
#include "frames/budget.h"
#include "preload/runtime.h"

namespace buoy::preload::lease {
namespace {

namespace ledger = control::ledger;

static_assert(control::kFirstLease == Budget::kMinimum);

constexpr ByteSize kMega = ByteSize{1} << 20;
// How much the budget grows or shrinks at a time.
constexpr ByteSize kStep = 4 * kMega;
constexpr std::uint64_t kLongestWaitNs = 20'000'000'000;
constexpr std::uint64_t kLookAgainNs = 20'000'000;

constinit control::Block* block = nullptr;
constinit unsigned own_place = control::kPlaces;
// Of the child that is about to be forked.
constinit unsigned child_place = control::kPlaces;
constinit std::uint64_t child_word = 0;

// Who changes the budget. Nobody waits for it who reclaims.
constinit std::atomic<bool> is_changing{false};
class Changing {
 public:
  enum class Wait : std::uint8_t { kNo, kYes };
  explicit Changing(Wait wait) {
    while (!(is_mine_ = !is_changing.exchange(true, std::memory_order_acquire)) &&
           wait == Wait::kYes)
      sys::call(SYS_sched_yield);
  }
  ~Changing() {
    if (is_mine_) is_changing.store(false, std::memory_order_release);
  }
  Changing(const Changing&) = delete;
  Changing& operator=(const Changing&) = delete;
  [[nodiscard]] bool is_mine() const { return is_mine_; }

 private:
  bool is_mine_ = false;
};

control::Place& own() { return block->place(own_place); }

std::uint64_t read(const char* name) {
  std::uint64_t value = 0;
  (void)pool().stat(name, &value);
  return value;
}

ByteSize own_limit() { return read("budget_bytes"); }

// What the ledger says is ours and the pool does not count on goes back.
void settle() { ledger::give_back(*block, own_place, own().lease.load() - own_limit()); }

// Down to `target`, step by step: what was reached stays.
void shrink_to(ByteSize target) {
  target = std::max(target, Budget::kMinimum);
  for (ByteSize limit = own_limit(); limit > target;) {
    limit = std::max(target, limit - std::min(limit, kStep));
    const bool is_done = pool().resize(limit).ok();
    settle();
    if (!is_done) break;
  }
}

std::uint64_t age_of_own() { return own().age_ms.load(std::memory_order_relaxed); }

[[nodiscard]] std::uint64_t deadline() { return sys::monotonic_ns() + kLongestWaitNs; }

// What was brought in up to the last beat, and how fast: the beat's thread alone uses them.
constinit std::uint64_t brought_before = 0;
constinit std::uint64_t beaten_at = 0;
constinit std::uint64_t pages_per_second = 0;

// How long a page stays: what is resident, over what is brought in in a second.
void publish_age() {
  constexpr std::uint64_t kNsPerMs = 1'000'000;
  constexpr std::uint64_t kMost = 1'000'000'000;
  const std::uint64_t now = sys::monotonic_ns();
  const std::uint64_t brought = read("pgfault_zero") + read("pswpin") + read("pgfault_standby");
  const std::uint64_t ms = std::max<std::uint64_t>((now - beaten_at) / kNsPerMs, 1);
  if (beaten_at != 0) {
    const std::uint64_t rate = (brought - std::min(brought, brought_before)) * 1000 / ms;
    pages_per_second = (pages_per_second * 7 + rate) / 8;
  }
  brought_before = brought;
  beaten_at = now;
  const std::uint64_t resident = read("resident_bytes") / kPageSize;
  own().age_ms.store(std::min(resident * 1000 / (pages_per_second + 1), kMost),
                     std::memory_order_relaxed);
}

// Waits for a first lease, asking others for it whatever their age.
bool wait_for_first(std::uint64_t until) {
  while (own().lease.load() < control::kFirstLease) {
    const std::uint64_t lacking = control::kFirstLease - own().lease.load();
    if (ledger::lease(*block, own_place, lacking, lacking) != 0) break;
    if (sys::monotonic_ns() > until) return false;
    (void)ledger::ask_another(*block, own_place, std::max(lacking, kStep), 0);
    ledger::wait_for_return(*block, kLookAgainNs);
  }
  return true;
}

// False: the ledger has nothing, or somebody is changing the budget just now.
bool grow_by_lease() {
  const Changing changing(Changing::Wait::kNo);
  if (!changing.is_mine()) return false;
  const ByteSize wanted = std::clamp(own_limit() / 8 / kPageSize * kPageSize, kStep, 4 * kStep);
  const ByteSize got = ledger::lease(*block, own_place, wanted, kPageSize);
  if (got != 0) pool().grow(got);
  return got != 0;
}

}  // namespace

bool is_in_tree() { return block != nullptr; }
unsigned place() { return own_place; }

ByteSize begin(control::Block& run) {
  block = &run;
  own_place = run.take_place(static_cast<int>(sys::call(SYS_getpid)));
  if (own_place == control::kPlaces) {
    sys::Line()
        .text("no more than ")
        .number(control::kPlaces)
        .text(" processes share a budget: this one cannot begin")
        .complain();
    return 0;
  }
  if (wait_for_first(deadline())) return own().lease.load();
  sys::Line()
      .text("the budget of ")
      .number(run.tree_limit.load() >> 20)
      .text("M for all processes has no ")
      .number(control::kFirstLease >> 20)
      .text("M left for this one: fewer processes, or a larger --budget")
      .complain();
  return 0;
}

ByteSize whole() { return block->tree_limit.load(); }
ByteSize leased() { return block->leased.load(); }

bool find_more_room(Reclaimer::Patience patience) {
  if (block == nullptr || pool_if_started() == nullptr) return false;
  if (grow_by_lease()) return true;
  if (patience == Reclaimer::Patience::kNone) {
    (void)ledger::ask_another(*block, own_place, kStep, age_of_own());
    return false;
  }
  constexpr unsigned kMostLooks = 100;
  for (unsigned i = 0; i < kMostLooks; ++i) {
    if (!ledger::ask_another(*block, own_place, kStep, 0)) return false;
    ledger::wait_for_return(*block, kLookAgainNs);
    if (grow_by_lease()) return true;
  }
  return false;
}

void give_back_wanted() {
  if (block == nullptr) return;
  const std::uint64_t wanted = own().lease_wanted.load();
  if (wanted == 0) return;
  {
    const Changing changing(Changing::Wait::kYes);
    const ByteSize limit = own_limit();
    shrink_to(limit - std::min(limit, wanted));
  }
  own().lease_wanted.store(0);
}

int resize(ByteSize bytes) {
  const Changing changing(Changing::Wait::kYes);
  const ByteSize limit = own_limit();
  bytes = bytes / kPageSize * kPageSize;
  if (bytes > limit) {
    const ByteSize got = ledger::lease(*block, own_place, bytes - limit, bytes - limit);
    if (got == 0) return ENOMEM;
    pool().grow(got);
    return 0;
  }
  shrink_to(bytes);
  return own_limit() <= std::max(bytes, Budget::kMinimum) ? 0 : EAGAIN;
}

void beat() {
  if (block == nullptr) return;
  publish_age();
  const ByteSize limit = own_limit();
  const ByteSize used = read("resident_bytes");
  // Some is kept for what comes next, and for reclaim.
  const ByteSize kept = used + std::max(used / 8, kStep);
  const ByteSize unused = limit - std::min(limit, kept);
  own().unused.store(unused, std::memory_order_relaxed);
  if (unused < 2 * kStep || limit <= Budget::kMinimum) return;
  std::uint64_t asked = 0;
  if (own().lease_wanted.compare_exchange_strong(asked, unused)) control::ring(own());
}

Status before_fork() {
  if (block == nullptr) return {};
  const std::uint64_t until = deadline();
  child_place = block->reserve_place(own_process());
  if (child_place == control::kPlaces) {
    sys::Line()
        .text("fork refused: no more than ")
        .number(control::kPlaces)
        .text(" processes share a budget")
        .complain();
    return Error{ENOMEM};
  }
  child_word = block->owner(child_place);
  for (;;) {
    while (is_changing.exchange(true, std::memory_order_acquire)) sys::call(SYS_sched_yield);
    // Held until the clone is made: nobody changes the budget that the child copies.
    const ByteSize limit = own_limit();
    if (ledger::lease(*block, child_place, limit, limit) != 0) return {};
    const ByteSize whole = block->tree_limit.load();
    const ByteSize leased = block->leased.load();
    const ByteSize free = whole - std::min(whole, leased);
    // Half of what we and the free part are; the rest is asked of others.
    const ByteSize half = (limit + free) / 2 / kPageSize * kPageSize;
    if (limit > Budget::kMinimum) shrink_to(std::min(half, limit - kPageSize));
    is_changing.store(false, std::memory_order_release);
    if (sys::monotonic_ns() > until) break;
    if (own_limit() > Budget::kMinimum || free >= Budget::kMinimum) continue;
    (void)ledger::ask_another(*block, own_place, Budget::kMinimum, 0);
    ledger::wait_for_return(*block, kLookAgainNs);
  }
  block->free_place(child_place, child_word);
  child_place = control::kPlaces;
  sys::Line()
      .text("fork refused: the budget of ")
      .number(block->tree_limit.load() >> 20)
      .text("M for all processes has no room for a copy of this one")
      .complain();
  return Error{ENOMEM};
}

void after_fork_in_parent(long child) {
  if (block == nullptr || child_place == control::kPlaces) return;
  if (child > 0)
    block->hand_over(child_place, child_word, static_cast<int>(child));
  else
    block->free_place(child_place, child_word);
  child_place = control::kPlaces;
  is_changing.store(false, std::memory_order_release);
}

void after_fork_in_child() {
  if (block == nullptr) return;
  own_place = child_place;
  child_place = control::kPlaces;
  block->hand_over(own_place, child_word, own_process());
  block->settle_in(own_place);
  brought_before = beaten_at = pages_per_second = 0;
  is_changing.store(false, std::memory_order_release);
}

}  // namespace buoy::preload::lease
