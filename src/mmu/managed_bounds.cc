#include "mmu/managed_bounds.h"

namespace buoy::mmu {

constinit ManagedBounds managed_bounds;

}  // namespace buoy::mmu
