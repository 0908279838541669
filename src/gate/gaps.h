// Gaps: addresses between the objects of the process that the kernel would give to the next mapping.
#pragma once

#include "gate/image.h"

namespace buoy::gate {

// Reserves what is free within `range`: nothing is mapped there any more. Without /proc it does nothing.
void reserve_gaps(CodeRange range);

}  // namespace buoy::gate
