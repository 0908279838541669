#include "frames/migration.h"

#include "base/counters.h"
#include "base/sys.h"

namespace buoy::frames {
namespace {
// How often a page that answers "again" is asked. Linux: 3 where it must not wait, 10 otherwise.
constexpr unsigned kAsyncTries = 3;
constexpr unsigned kSyncTries = 10;

constexpr bool can_be_isolated(PageWord w) {
  return w.state() == PageState::kAllocated && w.has(PageFlag::kMovable) &&
         !w.has(PageFlag::kIsolated);
}
}  // namespace

bool Migrator::isolate(Pfn head, MigrateMode mode, Callers callers) {
  Page& page = pages_.page(head);
  if (!can_be_isolated(page.load()) || !page.try_get()) return false;
  // From here on the page stays allocated, whatever its owner does; what it is, its lock says.
  bool isolated = false;
  if (page.lock.try_lock(LockRank::kPage)) {
    if (const PageWord word = page.load(); can_be_isolated(word) &&
                                           pages_.owners().may_call(page.owner_id, callers) &&
                                           pages_.owners().ops(page.owner_id).isolate(head, mode)) {
      page.store(word.with(PageFlag::kIsolated));
      isolated = true;
    }
    page.lock.unlock(LockRank::kPage);
  }
  if (isolated)
    pages_.counters().add(Event::compact_isolated, page.load().order().pages().value());
  else
    pages_.put(head);
  return isolated;
}

MigrateStep Migrator::migrate(Pfn from, Pfn to, MigrateMode mode) {
  Page& page = pages_.page(from);
  Page& fresh = pages_.page(to);
  page.lock.lock(LockRank::kPage);
  const PageWord word = page.load();
  if (!word.has(PageFlag::kMovable)) {
    page.store(word.without(PageFlag::kIsolated));
    page.lock.unlock(LockRank::kPage);
    pages_.put(from);  // the last one, if its owner freed it
    return MigrateStep::kGone;
  }
  // Locked, too: once migrate() has made the owner's data name it, the owner may free it.
  fresh.lock.lock(LockRank::kPage);
  const OwnerId owner = page.owner();
  fresh.owner_id.store(owner, std::memory_order_relaxed);
  fresh.owner_word.store(page.owner_word.load(std::memory_order_relaxed),
                         std::memory_order_relaxed);
  fresh.store(fresh.load().with(PageFlag::kMovable));
  const MigrateOutcome outcome = pages_.owners().ops(owner).migrate(from, to, mode);
  if (outcome == MigrateOutcome::kDone) {
    page.owner_id.store(0, std::memory_order_relaxed);
    page.store(word.without(PageFlag::kMovable).without(PageFlag::kIsolated));
  } else {
    fresh.owner_id.store(0, std::memory_order_relaxed);
    fresh.store(fresh.load().without(PageFlag::kMovable));
  }
  fresh.lock.unlock(LockRank::kPage);
  page.lock.unlock(LockRank::kPage);
  if (outcome == MigrateOutcome::kAgain) return MigrateStep::kAgain;
  if (outcome == MigrateOutcome::kFailed) return MigrateStep::kFailed;
  pages_.put(from);  // the owner's, which has the new page now
  pages_.put(from);  // ours
  return MigrateStep::kMoved;
}

void Migrator::put_back(Pfn head) {
  Page& page = pages_.page(head);
  page.lock.lock(LockRank::kPage);
  const PageWord word = page.load();
  // An owner that took the page back, or freed it, has nothing put back.
  if (word.has(PageFlag::kMovable)) pages_.owners().ops(page.owner()).put_back(head);
  page.store(word.without(PageFlag::kIsolated));
  page.lock.unlock(LockRank::kPage);
  pages_.put(head);
}

MoveOutcome Migrator::move(Pfn head, const MoveRequest& request) {
  if (!isolate(head, request.mode, request.callers)) return MoveOutcome::kNotTaken;
  const PageWord word = pages_.page(head).load();
  const std::uint64_t pages = word.order().pages().value();
  const Pfn target = pages_.try_take_target(word, request.targets);
  const unsigned tries = request.mode == MigrateMode::kSync ? kSyncTries : kAsyncTries;
  MigrateStep step = target.is_none() ? MigrateStep::kFailed : MigrateStep::kAgain;
  for (unsigned i = 0; i < tries && step == MigrateStep::kAgain; ++i) {
    if (i > 0 && request.mode == MigrateMode::kSync) sys::yield();
    step = migrate(head, target, request.mode);
  }
  const bool ended = step == MigrateStep::kMoved || step == MigrateStep::kGone;
  if (!ended) put_back(head);
  if (!target.is_none() && step != MigrateStep::kMoved) pages_.release(target);
  pages_.counters().add(ended ? Event::pgmigrate_success : Event::pgmigrate_fail, pages);
  if (ended) return MoveOutcome::kMoved;
  if (target.is_none()) return MoveOutcome::kNoTarget;
  return step == MigrateStep::kAgain ? MoveOutcome::kBusy : MoveOutcome::kRefused;
}

}  // namespace buoy::frames
