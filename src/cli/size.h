// SIZE as users write it: bytes, or with K, M, G (powers of 1024). 256M, 1G, 1073741824.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/units.h"

namespace buoy::cli {

// Nothing for what is not a SIZE, or does not fit.
[[nodiscard]] std::optional<ByteSize> parse_size(std::string_view text);
// What to say of a text that is no size.
[[nodiscard]] std::string not_a_size(const std::string& text);

// The shortest exact way to write it: 256M, 1536K, 4097.
[[nodiscard]] std::string format_size(ByteSize bytes);

}  // namespace buoy::cli
