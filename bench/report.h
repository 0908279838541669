// Results: a table for people, or one JSON object a line (--json).
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

namespace buoy::bench {

enum class Better { kLower, kHigher };

struct Unit {
  std::string name;  // "ns/page", "MB/s", ...
  Better better;
};

// One line: a quantity of one case, measured on both sides.
struct Result {
  std::string case_name;
  Unit unit;
  double buoy;
  double peer;
  std::string peer_name;
};

class Report {
 public:
  enum class Format { kTable, kJson };

  // Writes to `out`, which must outlive the report. With kTable, machine facts come first.
  Report(std::string bench, Format format, std::FILE* out);
  Report(const Report&) = delete;
  Report& operator=(const Report&) = delete;

  void add(const Result& result);
  // A case whose peer could not be set up; `buoy` is what was measured of Buoy alone.
  void add_without_peer(std::string_view case_name, const Unit& unit, double buoy,
                        std::string_view peer_name, std::string_view why);
  // A case that Buoy did not finish: a failure of the run (see failed()).
  void add_failure(std::string_view case_name, std::string_view why);
  // A remark between the lines of the table, such as how both sides were charged. Not in JSON.
  void note(std::string_view text);

  [[nodiscard]] bool failed() const { return failed_; }

 private:
  void print_headings_once();

  const std::string bench_;
  const Format format_;
  std::FILE* const out_;
  bool headings_printed_ = false;
  bool failed_ = false;
};

}  // namespace buoy::bench
