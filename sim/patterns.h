// Generated traces: seeded, the same on every machine.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "trace.h"

namespace buoy::sim {

struct PatternRequest {
  std::string name;
  std::map<std::string, double> parameters;
  std::uint32_t pages = 0;
  std::uint64_t accesses = 0;  // without those that fill memory first
  std::uint64_t seed = 1;
};

struct NamedPattern {
  std::string_view name;
  std::string_view what;
  // Its parameters and their defaults.
  std::vector<std::pair<std::string_view, double>> parameters;
  void (*generate)(const PatternRequest& request, Trace& trace);
};

[[nodiscard]] const std::vector<NamedPattern>& patterns();

// NAME or NAME:KEY=VALUE,... into the request's name and parameters, defaults filled in. Both throw
// std::runtime_error with one line for the user.
void parse_pattern(std::string_view text, PatternRequest& request);
[[nodiscard]] Trace generate(const PatternRequest& request);

}  // namespace buoy::sim
