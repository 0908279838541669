// Which of a site's places are used, by what its call may need.
#pragma once

#include "gate/sites.h"
#include "gate/stubs.h"

namespace buoy::gate {

// Nothing set: the site stays as it is. (A vfork's child runs on the stack of its parent, and a signal
// handler's way back is no call.)
[[nodiscard]] Plan plan_for(const Site& site);

}  // namespace buoy::gate
