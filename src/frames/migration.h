// Migrator: the one path on which pages of the arena move, whoever owns them.
//
//   isolate() --> migrate() --> moved, or freed meanwhile        the three steps, for who must
//            \--> put_back()                                     interleave them; move() is all
//
// Thread-safe. The contract is in movable.h. Source: Linux mm/migrate.c (isolate_movable_page,
// move_to_new_page, putback_movable_page) as of 4.8.
#pragma once

#include "base/lock.h"
#include "base/units.h"
#include "frames/movable_pages.h"

namespace buoy::frames {

struct MoveRequest {
  MigrateMode mode = MigrateMode::kAsync;
  Callers callers = Callers::kEngine;
  Targets targets = Targets::kPartialBlocks;
};

enum class MigrateStep : std::uint8_t { kMoved, kGone, kAgain, kFailed };

enum class MoveOutcome : std::uint8_t {
  kMoved,     // or freed by its owner meanwhile; its old place is free when the last reference goes
  kNotTaken,  // not movable, isolated by another, being freed, or its owner keeps it
  kBusy,      // in use at every try
  kRefused,   // its owner said failed
  kNoTarget,  // no place to move to
};

class Migrator {
 public:
  explicit Migrator(MovablePages& pages) : pages_(pages) {}

  // True: the page is isolated and the caller holds a reference; migrate() or put_back() ends both.
  [[nodiscard]] bool isolate(Pfn head, MigrateMode mode, Callers callers);
  // One try. kMoved: `to` is the owner's now. kGone: the owner freed the page or took it back
  // meanwhile; `to` is still the caller's. In both cases the isolation is over and the caller's
  // reference given up. Otherwise the page is still isolated, and `to` still the caller's.
  [[nodiscard]] MigrateStep migrate(Pfn from, Pfn to, MigrateMode mode);
  // Ends the isolation without a move. The owner may have freed the page: then it goes now.
  void put_back(Pfn head);

  // All of it, with a bounded number of tries.
  [[nodiscard]] MoveOutcome move(Pfn head, const MoveRequest& request);

 private:
  MovablePages& pages_;
};

}  // namespace buoy::frames
