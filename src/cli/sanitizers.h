// Is a program built with a sanitizer? Those bring a malloc and a map of the address space of their
// own, which cannot be had together with Buoy's.
#pragma once

#include <string>

namespace buoy::cli {

// What follows `-fsanitize=`, or empty: none, or not to be seen in the file. Sees the library that
// the program needs (gcc), and the runtime that is linked in (clang).
[[nodiscard]] std::string sanitizer_of(const std::string& path);

}  // namespace buoy::cli
