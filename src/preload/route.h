// Routing: what becomes of a system call of the program that concerns what Buoy keeps, however it is
// made: by libc's code (through the gate), or by syscall(2).
#pragma once

#include "gate/gate.h"

namespace buoy::preload {

// See gate::Router.
[[nodiscard]] gate::Routed route(long number, const long* arguments, long* result);

}  // namespace buoy::preload
