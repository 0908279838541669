// Movable pages: the contract between the owners of arena pages and whoever moves them.
//
// It is the one that the Linux series of 2016 ("mm: migrate: support non-lru movable page
// migration", Minchan Kim after Gioh Kim) settled:
//
//   owner                             the page                         the core (migration.h)
//   set_movable()   -- page lock -->  kMovable
//                                     kMovable, kIsolated  <-- isolate() -- takes a reference
//                                        |                  migrate() -> done: the new page is
//                                        |                    kMovable, the old one is freed
//                                        |                  again (some times more), failed:
//                                     kMovable             <-- put_back() -- gives it up
//   clear_movable() -- page lock -->  neither: it stays where it is
//   release()       -- page lock -->  freed once: now, or when the core gives up its reference;
//                                     to the core, an isolated page that was freed is done
//
// - A page is isolated at most once at a time, and whoever finds it isolated leaves it alone. No
//   reference is taken of a page that is being freed.
// - A page is a run of any order. Its head moves; tails are passed over.
// - All three callbacks run under the page's lock, so they see no page that its owner has taken
//   back, and clear_movable() and release() return only when none is under way. Hence a callback
//   must only TRY for a lock under which its owner calls those two, and answer kAgain.
// - migrate() copies the contents and makes the owner's data name the new page, whose owner_word
//   is already a copy of the old one's; all or nothing. The core does the rest.
#pragma once

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/result.h"
#include "base/units.h"

namespace buoy::frames {

enum class MigrateMode : std::uint8_t {
  kAsync,  // never waits for anything that takes long: the caller may be in a fault
  kSync,   // may wait for users of the page to finish
};

enum class MigrateOutcome : std::uint8_t {
  kDone,
  kAgain,   // in use at the moment
  kFailed,  // do not ask again now
};

class MovableOps {
 public:
  // Whether the page may be moved now. What true has changed, put_back or migrate's kDone undoes.
  [[nodiscard]] virtual bool isolate(Pfn page, MigrateMode mode) = 0;
  [[nodiscard]] virtual MigrateOutcome migrate(Pfn from, Pfn to, MigrateMode mode) = 0;
  virtual void put_back(Pfn page) = 0;

 protected:
  ~MovableOps() = default;
};

// Who asks for a move, and whom an owner's callbacks may run for: a driver's may need libc, which
// the engine's own threads and a fault in the middle of malloc have not got.
enum class Callers : std::uint8_t {
  kUser,    // a thread of the program, in a call that it made
  kEngine,  // anybody: faults and the engine's threads, too
};

// An owner's number; 0 is nobody.
using OwnerId = std::uint32_t;

// The owners of one arena. Lock-free.
class MovableOwners {
 public:
  static constexpr std::size_t kMost = 255;

  // EBUSY: there are kMost. `callers`: the widest for whom the callbacks may run.
  [[nodiscard]] Result<OwnerId> add(MovableOps& ops, Callers callers) {
    for (std::size_t i = 0; i < kMost; ++i) {
      MovableOps* nobody = nullptr;
      if (!slots_[i].ops.compare_exchange_strong(nobody, &ops, std::memory_order_acq_rel)) continue;
      slots_[i].callers.store(callers, std::memory_order_release);
      return static_cast<OwnerId>(i + 1);
    }
    return Error{EBUSY};
  }
  // No page may be the owner's any more.
  void remove(OwnerId id) {
    slots_[id - 1].callers.store(Callers::kUser, std::memory_order_relaxed);
    slots_[id - 1].ops.store(nullptr, std::memory_order_release);
  }
  // Of a page that is movable and locked.
  [[nodiscard]] MovableOps& ops(OwnerId id) const {
    MovableOps* const ops = slots_[id - 1].ops.load(std::memory_order_acquire);
    BUOY_CHECK(ops != nullptr && "a movable page's owner is gone");
    return *ops;
  }
  [[nodiscard]] bool may_call(OwnerId id, Callers who) const {
    // A page's owner may be asked for without its lock, and be nobody by then.
    return who == Callers::kUser || id == 0 ||
           slots_[id - 1].callers.load(std::memory_order_acquire) == Callers::kEngine;
  }

 private:
  struct Slot {
    std::atomic<MovableOps*> ops{nullptr};
    std::atomic<Callers> callers{Callers::kUser};
  };
  std::array<Slot, kMost> slots_{};
};

}  // namespace buoy::frames
