// What a caller of the arena asks for.
#pragma once

#include <cstdint>

#include "base/units.h"
#include "frames/budget.h"
#include "frames/page.h"

namespace buoy::frames {

// Whether an allocation may move pages for it.
enum class Compaction : std::uint8_t {
  kNever,
  kAsync,  // pages of the engine's own owners; not again and again in vain
  kSync,   // pages of everybody, waiting for them: a call that the program made to get memory
};

struct FrameRequest {
  Order order;
  MigrateType type = MigrateType::kUnmovable;
  FrameOwner owner = FrameOwner::kNone;
  // Whether growing the arena may use the budget's reserve. kReclaim is for who frees more than
  // it takes. kOrdinary also leaves the last free frames (Watermarks::min) to reclaim.
  Charge charge = Charge::kOrdinary;
  Compaction compaction = Compaction::kAsync;
};

}  // namespace buoy::frames
