// Containers in volatile memory.
#ifndef BUOY_PURGEABLE_HPP
#define BUOY_PURGEABLE_HPP

#include "buoy/purgeable_buffer.hpp"
#include "buoy/purgeable_cache.hpp"

#endif  // BUOY_PURGEABLE_HPP
