// An answer of a run, as the commands read it (control_protocol.h writes it, docs/control.md).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/control_client.h"
#include "cli/outcome.h"

namespace buoy::cli {

// An object with "run" and "processes", whatever the run had to say of each process. Failure: the
// run refused, or what it sends cannot be read.
[[nodiscard]] Outcome<nlohmann::json> parse_answer(const std::string& line);

// Asks and parses.
[[nodiscard]] Outcome<nlohmann::json> ask(ControlClient& client, const nlohmann::json& request,
                                          std::chrono::seconds patience);

// A field that may be missing: 0, empty. Text is one line, without control characters.
[[nodiscard]] std::uint64_t number(const nlohmann::json& object, const char* name);
[[nodiscard]] std::string text(const nlohmann::json& object, const char* name);

// The errors of single processes, for stderr: one line each. Were there any?
bool say_errors(const nlohmann::json& answer);

// For reading: 61.5M.
[[nodiscard]] std::string readable_size(std::uint64_t bytes);

}  // namespace buoy::cli
