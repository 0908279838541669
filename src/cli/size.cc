#include "cli/size.h"

#include <charconv>

namespace buoy::cli {

std::optional<ByteSize> parse_size(std::string_view text) {
  unsigned shift = 0;
  if (!text.empty()) {
    switch (text.back()) {
      case 'k':
      case 'K':
        shift = 10;
        break;
      case 'm':
      case 'M':
        shift = 20;
        break;
      case 'g':
      case 'G':
        shift = 30;
        break;
      default:
        break;
    }
    if (shift != 0) text.remove_suffix(1);
  }
  ByteSize number = 0;
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || stopped != end) return std::nullopt;
  if (number > SIZE_MAX >> shift) return std::nullopt;
  return number << shift;
}

std::string not_a_size(const std::string& text) {
  return "'" + text + "' is not a size: bytes, or with K, M or G, as 256M";
}

std::string format_size(ByteSize bytes) {
  constexpr char kUnits[] = {'G', 'M', 'K'};
  constexpr unsigned kShifts[] = {30, 20, 10};
  for (unsigned i = 0; i < 3; ++i) {
    const ByteSize unit = ByteSize{1} << kShifts[i];
    if (bytes != 0 && bytes % unit == 0) return std::to_string(bytes / unit) + kUnits[i];
  }
  return std::to_string(bytes);
}

}  // namespace buoy::cli
