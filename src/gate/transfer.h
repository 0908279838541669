// Transfers: the calls that move bytes between a descriptor and one buffer or vector, and say how many.
//
// One table for those who look at what such a call has answered: the stubs behind it (plan.h) and
// Call, which goes on where it stopped short.
#pragma once

#include <cstdint>

namespace buoy::gate {

struct Transfer {
  enum class Kind : std::uint8_t { kNone, kPlain, kVector };
  // Of all of them: which argument is the buffer (or the vector), and its length (or count).
  static constexpr std::uint8_t kBuffer = 1;
  static constexpr std::uint8_t kLength = 2;
  Kind kind = Kind::kNone;
  bool reads = false;       // from the descriptor, into memory
  bool has_offset = false;  // argument 3
  long one = 0;             // of a vector: the call for one of its elements
};

// kNone: it is no transfer.
[[nodiscard]] Transfer transfer_of(long number);

}  // namespace buoy::gate
