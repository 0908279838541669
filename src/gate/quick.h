// Quick: what most calls are, done at the gate's entry without the vector registers being kept.
//
// Asks only what a few loads tell. What takes more (a page that is missing, a long vector, a structure
// that may not be there) is left to slow.h. Compiled without vector registers.
#pragma once

#include "gate/entry.h"
#include "gate/memory.h"

namespace buoy::gate {

enum class Quickly : std::uint8_t {
  kNot,      // is to be looked at in full
  kInPlace,  // can be made where it stands; what goes wrong is settled behind it
  kDone,     // made; frame.result is the result
};

[[nodiscard]] Quickly quickly(Memory& memory, Frame& frame);
// The call was made in place, with frame.result. Is that known to be all, though it may be less than was
// asked for? (Else a missing page may have ended it.)
[[nodiscard]] bool is_done(const Memory& memory, const Frame& frame);

}  // namespace buoy::gate
