// The two functions that the entries call.
#pragma once

#include "gate/entry.h"

namespace buoy::gate {

[[nodiscard]] Handlers handlers();

}  // namespace buoy::gate
