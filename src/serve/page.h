// The page, page.html, as it lies beside this file: one file with all that it needs.
#pragma once

#include <string_view>

namespace buoy::serve {

[[nodiscard]] std::string_view page();

}  // namespace buoy::serve
