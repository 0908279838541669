// The length of an x86-64 instruction, and no more of it than patching needs.
//
// Decodes the instructions that compilers emit: the one-byte map, 0F, 0F 38, 0F 3A, VEX and EVEX.
// What is not an instruction in 64-bit mode, or is not known, has no length, and the site that it
// stands before is left alone. (A full decoder would be a library of its own in every program that
// is run; the tests hold this one against such a decoder, over all code of the machine's libraries.)
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, appendix A.
#pragma once

#include <cstdint>
#include <span>

namespace buoy::gate {

struct Instruction {
  unsigned length = 0;  // bytes; 0: not known
  // Where a distance from the instruction's end stands (a branch's, or memory by RIP), and its bytes,
  // 1 or 4; 0 bytes: there is none, and the instruction does the same anywhere.
  unsigned distance_at = 0;
  unsigned distance_bytes = 0;
  bool is_branch = false;
  [[nodiscard]] bool is_known() const { return length != 0; }
};

// The instruction at the start of `code`, which may end in the middle of it (then not known).
[[nodiscard]] Instruction decode(std::span<const std::uint8_t> code);

}  // namespace buoy::gate
