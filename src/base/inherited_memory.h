// InheritedMemory: memory that a process shares with all that it executes, and those with theirs.
//
// An anonymous file of a fixed size, sealed so that nobody can make it smaller under the others. Its
// descriptor is inherited through exec under its number, of which a word of text tells (the number,
// and the file that must be there, so that a reused number is not taken for it); the word goes through
// the environment.
//
// Every process that has it can write anywhere in it, whoever it has become since. Allocates
// nothing; async-signal-safe.
#pragma once

#include <cstddef>

#include "base/result.h"

namespace buoy {

struct InheritedMemory {
  // Room for the word.
  static constexpr std::size_t kTextBytes = 48;

  std::byte* bytes = nullptr;  // mapped, zeros at first
  int fd = -1;                 // the engine's own (base/descriptors.h)

  // `name`: as /proc shows it. The errno of what cannot be had.
  [[nodiscard]] static Result<InheritedMemory> create(const char* name, std::size_t size,
                                                      char (&text)[kTextBytes]);
  // What the text tells of, mapped. ENOENT: it is not there (any more), or has another size.
  [[nodiscard]] static Result<InheritedMemory> accept(const char* text, std::size_t size);
  static void unmap(void* bytes, std::size_t size);
};

}  // namespace buoy
