// The program's zero-initialised static data (.bss), which the kernel maps before anybody else is there:
// large arrays of Fortran and embedded code come into the budget before they are first stored to.
#pragma once

namespace buoy::preload {

// Once, before the program's own code runs. What has been stored to by then stays where it is, and so
// does all of it where that is less than a MiB, or where it cannot be told.
void take_over_static_data();

}  // namespace buoy::preload
