// What `buoy serve` is asked to do: its words, read and checked.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "cli/outcome.h"

namespace buoy::serve {

struct Address {
  std::string host;  // a number: 127.0.0.1, ::1
  int port = 0;      // 0: any that is free
  bool is_local = false;
};

// ADDR:PORT, [ADDR]:PORT or localhost:PORT.
[[nodiscard]] cli::Outcome<Address> parse_address(const std::string& text);

struct Options {
  Address address;
  std::chrono::milliseconds interval{1000};
  std::string token;               // empty: nothing can be changed, and everybody may look
  std::vector<std::string> names;  // by which browsers may call this machine
};

// Of a token in a file, the first line counts.
[[nodiscard]] cli::Outcome<std::string> read_token(const std::string& path);
// Empty, or why not: too short to be safe, or what cannot stand in a header.
[[nodiscard]] std::string why_no_token(const std::string& token);

// May a request with this Host header be answered? A page of somebody else's, whose name was made to
// lead here (DNS rebinding), has a name that we do not go by. Numbers are no names.
[[nodiscard]] bool is_host_known(const std::string& host_header,
                                 const std::vector<std::string>& names);

// Equal? In a time that does not tell where they differ.
[[nodiscard]] bool is_same_secret(const std::string& a, const std::string& b);

}  // namespace buoy::serve
