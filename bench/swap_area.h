// A swap file of the benchmark's own.
#pragma once

#include <cstdint>

namespace buoy::bench {

// A file in $TMPDIR as the machine's preferred swap, with the kernel's usual read-ahead; undone at the
// end. Throws Unavailable.
void swap_to_file(std::uint64_t size);

}  // namespace buoy::bench
