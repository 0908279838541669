// Settings: what this process was told by `buoy run`, read from the environment it started with.
//
// Read from the initial stack, not through getenv: malloc is called before libc has set up
// `environ`, and the program may change its environment at any time. Allocates nothing.
#pragma once

#include "api/pool.h"

namespace buoy::preload {

struct Settings {
  PoolOptions pool;
  const char* stats = nullptr;  // "-" or a path; null: none wanted. In the initial environment
  int stats_pid = 0;            // the process whose file has no suffix
};

// EINVAL: the variables are missing or are not what `buoy run` writes. `*what` then names the
// variable.
[[nodiscard]] Result<Settings> read_settings(const char** what);

// The value of a variable in the environment the process started with, or null.
[[nodiscard]] const char* initial_environment(const char* name);

}  // namespace buoy::preload
