// Where an object's code makes system calls, and what stands around each of them.
//
// The system call instruction stays where it is whenever it can: the instructions in front of it give
// their place to a jump, do their work in a stub, and the stub jumps back to the call; so do those
// behind it. What moves is whole instructions that do the same elsewhere (branches and RIP-relative
// memory with their distances mended), at least the five bytes of a jump, and no branch may lead into
// the middle of them.
//
//     mov $1,%eax      \ front: 5 bytes        jmp  in_front          in_front:  mov $1,%eax ...
//     syscall            the call              syscall                           jmp back to the call
//     cmp $-4096,%rax  \ behind: 6 bytes       jmp  behind            behind:    ... cmp ... jmp back
//
// Where branches of the same function lead is known by decoding it. From outside (a function's cold
// part is one of its own) only long ones reach: any bytes of the code that would be such a branch into
// a place count as one. The unwinder's table says where functions begin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gate/image.h"

namespace buoy::gate {

struct Site {
  static constexpr long kNumberUnknown = -1;
  std::uintptr_t call = 0;        // the two bytes of the instruction
  std::uintptr_t front = 0;       // [front, call) can move; front == call: nothing can
  std::uintptr_t behind_end = 0;  // [call + 2, behind_end) can move; call + 2: nothing can
  long number = kNumberUnknown;   // where %eax is set to a constant right before
  [[nodiscard]] std::uintptr_t behind() const { return call + 2; }
  [[nodiscard]] bool has_front() const { return front != call; }
  [[nodiscard]] bool has_behind() const { return behind_end != behind(); }
};

struct SiteCounts {
  unsigned found = 0;     // system call instructions, as far as decoded
  unsigned given_up = 0;  // calls, as far as one can tell, that cannot be patched
};

// The system calls of the image that a jump can be put at, by rising address; at most as many as
// `sites` has room for, all others count as given up. Reads the whole code. `*count`: how many.
SiteCounts find_sites(const Image& image, std::span<Site> sites, std::size_t* count);

}  // namespace buoy::gate
