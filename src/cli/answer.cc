#include "cli/answer.h"

#include <cstdio>

namespace buoy::cli {

using Json = nlohmann::json;

Outcome<Json> parse_answer(const std::string& line) {
  Json json = Json::parse(line, nullptr, false);
  const bool is_whole = json.is_object() && json.contains("processes") &&
                        json["processes"].is_array() && json.contains("run");
  if (is_whole) return json;
  if (json.is_object() && json.contains("error")) return Failure{kFailed, text(json, "error")};
  return Failure{kFailed, "the run sends what is no answer; is it another version of buoy?"};
}

Outcome<Json> ask(ControlClient& client, const Json& request, std::chrono::seconds patience) {
  const Outcome<std::string> line = client.ask(request.dump(), patience);
  if (!line) return line.failure();
  return parse_answer(*line);
}

std::uint64_t number(const Json& object, const char* name) {
  const auto field = object.find(name);
  return field != object.end() && field->is_number_unsigned() ? field->get<std::uint64_t>() : 0;
}

std::string text(const Json& object, const char* name) {
  const auto field = object.find(name);
  std::string out = field != object.end() && field->is_string() ? field->get<std::string>() : "";
  // For a terminal, whoever sent it.
  for (char& c : out)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  return out;
}

bool say_errors(const Json& answer) {
  bool any = false;
  for (const Json& process : answer["processes"]) {
    const std::string error = text(process, "error");
    if (error.empty()) continue;
    say(error);
    any = true;
  }
  return any;
}

std::string readable_size(std::uint64_t bytes) {
  constexpr char kUnits[] = {'K', 'M', 'G', 'T'};
  if (bytes < 1024) return std::to_string(bytes);
  double value = static_cast<double>(bytes) / 1024;
  unsigned unit = 0;
  for (; value >= 1024 && unit + 1 < sizeof kUnits; ++unit) value /= 1024;
  char out[32];
  std::snprintf(out, sizeof out, value < 100 ? "%.1f%c" : "%.0f%c", value, kUnits[unit]);
  return out;
}

}  // namespace buoy::cli
