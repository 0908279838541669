#include "cli/prometheus.h"

#include "api/pool.h"
#include "base/counters.h"
#include "cli/answer.h"

namespace buoy::cli {
namespace {

// As a label's value wants it. It is one line of UTF-8 already.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string format_prometheus(const nlohmann::json& answer) {
  const std::string run = std::to_string(number(answer["run"], "pid"));
  std::string out;
  for (std::size_t i = 0; i < Pool::stat_count(); ++i) {
    const std::string name(Pool::stat_name(i));
    const std::string family = "buoy_" + name + (Pool::is_counter(i) ? "_total" : "");
    std::string samples;
    for (const auto& process : answer["processes"]) {
      if (!process.contains("stats")) continue;
      samples += family + "{run=\"" + run + "\",pid=\"" + std::to_string(number(process, "pid")) +
                 "\",command=\"" + escaped(text(process, "command")) + "\"} " +
                 std::to_string(number(process["stats"], name.c_str())) + "\n";
    }
    if (samples.empty()) continue;
    out += "# TYPE " + family + (Pool::is_counter(i) ? " counter\n" : " gauge\n") + samples;
  }
  return out;
}

}  // namespace buoy::cli
