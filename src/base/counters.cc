#include "base/counters.h"

namespace buoy {

std::string_view event_name(Event e) {
  static constexpr std::string_view kNames[] = {
#define BUOY_EVENT_NAME(name, text) #name,
      BUOY_EVENTS(BUOY_EVENT_NAME)
#undef BUOY_EVENT_NAME
  };
  return kNames[static_cast<std::size_t>(e)];
}

}  // namespace buoy
