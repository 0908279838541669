// KnownData: the static data of the program's objects, as far as it can be read and stored to.
//
// It is not managed, and a load of it cannot fail as long as its mapping stays as the dynamic linker has
// made it; so a structure there (an iovec, a sigset_t) is read without asking the kernel whether it may be.
// Whoever unmaps, moves, covers or protects memory says forget() before. Lock-free, async-signal-safe.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gate/image.h"

namespace buoy::gate::known_data {

// Where there is no room for it, it is not known.
void note(CodeRange data);
void forget(std::uintptr_t address, std::size_t length);
[[nodiscard]] bool holds(std::uintptr_t address, std::size_t length);

}  // namespace buoy::gate::known_data
