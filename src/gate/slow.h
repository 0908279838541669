// The entries' work where a few loads do not decide. Vector registers are kept by the caller.
#pragma once

#include "gate/entry.h"
#include "gate/gate.h"

namespace buoy::gate {

void set_router(Router router);
std::uintptr_t in_front_slowly(Frame* frame);
std::uintptr_t behind_slowly(Frame* frame);

}  // namespace buoy::gate
