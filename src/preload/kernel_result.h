// What the engine answers, in the words of a system call: the one place where the preload library makes
// them of it.
#pragma once

#include "base/result.h"

namespace buoy::preload {

// 0 or -errno.
[[nodiscard]] inline long kernel_result(const Status& s) { return -static_cast<long>(s.code()); }

}  // namespace buoy::preload
