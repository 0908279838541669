// What the files that define libc's names share: exporting a symbol, and libc's way to fail.
#pragma once

#include <cerrno>

#define BUOY_EXPORT extern "C" __attribute__((visibility("default"), used))

namespace buoy::preload {

// A kernel result to libc's: -1 and errno, or the value.
inline long libc_result(long kernel) {
  if (kernel < 0 && kernel > -4096) {
    errno = static_cast<int>(-kernel);
    return -1;
  }
  return kernel;
}

}  // namespace buoy::preload
