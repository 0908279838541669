#include "serve/options.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>

namespace buoy::serve {
namespace {

using cli::Failure;
using cli::kUsage;

constexpr std::size_t kLeastToken = 16;
constexpr int kLargestPort = 65535;

Failure wrong_address(const std::string& text) {
  return {kUsage,
          "serve: --listen " + text + ": ADDRESS:PORT is wanted, as 127.0.0.1:8080 or [::1]:8080"};
}

bool is_ipv4(const std::string& text) {
  in_addr address{};
  return inet_pton(AF_INET, text.c_str(), &address) == 1;
}
bool is_ipv6(const std::string& text) {
  in6_addr address{};
  return inet_pton(AF_INET6, text.c_str(), &address) == 1;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// NAME:PORT without the port, and without the brackets of an IPv6 address.
std::string host_of(const std::string& text) {
  if (!text.empty() && text.front() == '[') {
    const std::size_t end = text.find(']');
    return end == std::string::npos ? "" : text.substr(1, end - 1);
  }
  return text.substr(0, text.find(':'));
}

}  // namespace

cli::Outcome<Address> parse_address(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return wrong_address(text);
  Address address;
  const char* const first = text.data() + colon + 1;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(first, end, address.port);
  if (error != std::errc() || stopped != end || address.port < 0 || address.port > kLargestPort)
    return wrong_address(text);
  std::string host = text.substr(0, colon);
  const bool has_brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (has_brackets) host = host.substr(1, host.size() - 2);
  if (host == "localhost") host = "127.0.0.1";
  if (has_brackets ? !is_ipv6(host) : !is_ipv4(host)) return wrong_address(text);
  address.host = host;
  address.is_local = has_brackets ? host == "::1" : host.compare(0, 4, "127.") == 0;
  return address;
}

cli::Outcome<std::string> read_token(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!file || !std::getline(file, line))
    return Failure{kUsage, "serve: --token-file " + path + ": cannot read a line from it"};
  return line;
}

std::string why_no_token(const std::string& token) {
  if (token.size() < kLeastToken)
    return "a token has " + std::to_string(kLeastToken) +
           " characters or more; `openssl rand -hex 16` makes one";
  if (!std::all_of(token.begin(), token.end(),
                   [](unsigned char c) { return std::isgraph(c) != 0; }))
    return "a token has no spaces, and plain characters only";
  return {};
}

bool is_host_known(const std::string& host_header, const std::vector<std::string>& names) {
  const std::string host = lower(host_of(host_header));
  if (host == "localhost" || is_ipv4(host) || is_ipv6(host)) return true;
  return std::any_of(names.begin(), names.end(),
                     [&](const std::string& name) { return lower(name) == host; });
}

bool is_same_secret(const std::string& a, const std::string& b) {
  unsigned char difference = a.size() == b.size() ? 0 : 1;
  for (std::size_t i = 0; i < a.size(); ++i)
    difference |= static_cast<unsigned char>(a[i] ^ (i < b.size() ? b[i] : '\0'));
  return difference == 0;
}

}  // namespace buoy::serve
