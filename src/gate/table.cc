#include "gate/table.h"

namespace buoy::gate {

namespace {
constexpr Entry kNobody;
}

long table_end() { return 0; }
const Entry& entry_of(long) { return kNobody; }

}  // namespace buoy::gate
