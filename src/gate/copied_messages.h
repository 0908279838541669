// recvmmsg and sendmmsg: many messages in one call.
//
// Receiving, the kernel gets copies of all headers, and one buffer for each message; so there is no
// limit to the pages, and a call that blocks holds none. Sending is done message by message: what has
// been sent is told by the count, as the kernel does it.
#pragma once

#include "gate/memory.h"

namespace buoy::gate {

[[nodiscard]] long receive_messages(Memory& memory, const long* arguments);
[[nodiscard]] long send_messages(Memory& memory, const long* arguments);

}  // namespace buoy::gate
