// UffdSource: a right to userfaultfd that outlives the rights of a process.
//
// Whoever has /dev/userfaultfd open can make userfaultfds of it, whoever he has become since: the
// device is opened while the rights are there, stays open across exec, and is told to those who come
// after as a word of text (a number and the device it must be, so that a reused number is not taken
// for it).
#pragma once

#include <cstddef>

#include "base/result.h"

namespace buoy::mmu::uffd_source {

inline constexpr std::size_t kTextBytes = 48;

// Opens the device for this process and those that it executes, and writes the word for it.
// EACCES, ENOENT: not for us, or there is none.
[[nodiscard]] Status open(char (&text)[kTextBytes]);
// Takes over what an earlier process opened. False: that is not (any more) what the word says.
[[nodiscard]] bool accept(const char* text);

}  // namespace buoy::mmu::uffd_source
