// Where a signal handler that this library installed, or was asked to install, returns to.
#pragma once

// rt_sigreturn, in the words by which unwinders and debuggers know a signal frame.
extern "C" __attribute__((visibility("hidden"))) void buoy_sigreturn();
