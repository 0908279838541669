// Words: the command line of one of the commands that look at runs and steer them. Help goes to
// stdout, one line to stderr for what is wrong.
//
// CLI11 does the work, and is seen by this one file: it builds its validators before main() in every
// file that includes it, which `buoy run` would pay for.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"

namespace buoy::cli {

class Words {
 public:
  // `name`: as it is typed, as "buoy ps".
  Words(const std::string& name, const std::string& what_it_does, const std::string& example);
  ~Words();
  Words(const Words&) = delete;
  Words& operator=(const Words&) = delete;

  // What can be said. All pointers must live until parse() has returned. `name`: as "--json", or
  // "PID" for a word by its place.
  void take_pid(int* pid);
  void take_size(const std::string& name, ByteSize* bytes, const std::string& text);
  void take_flag(const std::string& name, bool* is_said, const std::string& text);
  void take_seconds(const std::string& name, double* seconds, const std::string& text);
  // `kind`: what it is, as "FILE".
  void take_text(const std::string& name, const std::string& kind, std::string* word,
                 const std::string& text);
  // The same, which may be said several times.
  void take_texts(const std::string& name, const std::string& kind, std::vector<std::string>* words,
                  const std::string& text);
  // Not both of two.
  void exclude(const std::string& one, const std::string& other);

  // A status: that was all (help was asked for, or something is wrong, and told).
  [[nodiscard]] std::optional<int> parse(std::vector<std::string> words);

 private:
  struct Parser;
  std::string name_;
  std::unique_ptr<Parser> parser_;
};

}  // namespace buoy::cli
