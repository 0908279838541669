#include "cli/memory_room.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

namespace buoy::cli {
namespace {

// How one version of cgroups names what we ask for.
struct Names {
  const char* limits[2];
  const char* usage;
  // In memory.stat: page cache on the kernel's lists, which has no shared memory in it.
  const char* cache[2];
};
constexpr Names kVersion1 = {{"memory.limit_in_bytes", nullptr},
                             "memory.usage_in_bytes",
                             {"total_inactive_file", "total_active_file"}};
constexpr Names kVersion2 = {
    {"memory.max", "memory.high"}, "memory.current", {"inactive_file", "active_file"}};

struct Hierarchy {
  const Names* names = nullptr;
  std::string mounted_at;
  std::string mounted_root;  // the cgroup that is seen at the mount point
  std::string path;          // the process's cgroup
};

std::optional<ByteSize> read_number(const std::string& path) {
  std::ifstream file(path);
  std::string text;
  ByteSize value = 0;
  if (!(file >> text)) return std::nullopt;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || *end != '\0') return std::nullopt;  // "max"
  return value;
}

// The value that stands behind a name in a file of such lines; 0: none does.
ByteSize value_in(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first;
    ByteSize value = 0;
    if (words >> first >> value && first == name) return value;
  }
  return 0;
}

bool has_word(std::string_view list, std::string_view word) {
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    if (list.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

// mountinfo(5) writes spaces and the like as \040.
std::string unescaped(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = 0;
    const bool is_escape = text[i] == '\\' && i + 3 < text.size() &&
                           std::from_chars(&text[i + 1], &text[i + 4], code, 8).ptr == &text[i + 4];
    plain += is_escape ? static_cast<char>(code) : text[i];
    if (is_escape) i += 3;
  }
  return plain;
}

// Where the memory controller's hierarchies are mounted.
std::vector<Hierarchy> find_mounts(const std::string& root) {
  std::vector<Hierarchy> found;
  std::ifstream file(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string skipped, mounted_root, at, word, type, options;
    words >> skipped >> skipped >> skipped >> mounted_root >> at;
    while (words >> word && word != "-") {
    }
    words >> type >> skipped >> options;
    const Names* names = nullptr;
    if (type == "cgroup2") names = &kVersion2;
    if (type == "cgroup" && has_word(options, "memory")) names = &kVersion1;
    if (names != nullptr) found.push_back({names, unescaped(at), unescaped(mounted_root), {}});
  }
  return found;
}

// A line of /proc/self/cgroup is "4:memory:/path", or "0::/path" of version 2.
void find_own_cgroups(const std::string& root, std::vector<Hierarchy>& hierarchies) {
  std::ifstream file(root + "/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const Names* names = nullptr;
    if (controllers.empty()) names = &kVersion2;
    if (has_word(controllers, "memory")) names = &kVersion1;
    for (Hierarchy& hierarchy : hierarchies)
      if (hierarchy.names == names) hierarchy.path = line.substr(second + 1);
  }
}

// The folders of the process's cgroup and of those above it, as far as they are mounted.
std::vector<std::string> folders_of(const std::string& root, const Hierarchy& hierarchy) {
  namespace fs = std::filesystem;
  fs::path below = fs::path(hierarchy.path).lexically_relative(hierarchy.mounted_root);
  // What is mounted is not above our cgroup, as in a container that sees its own as the root.
  if (below.empty() || *below.begin() == ".." || below == ".") below.clear();
  const fs::path top(root + hierarchy.mounted_at);
  std::vector<std::string> folders;
  for (; !below.empty(); below = below.parent_path()) folders.push_back((top / below).string());
  folders.push_back(top.string());
  return folders;
}

void narrow(MemoryRoom& room, const std::string& folder, const Names& names) {
  std::optional<ByteSize> limit;
  for (const char* name : names.limits)
    if (name != nullptr)
      if (const auto one = read_number(folder + "/" + name); one && (!limit || *one < *limit))
        limit = one;
  constexpr ByteSize kNoLimit = ByteSize{1} << 60;  // version 1 says so by such a number
  if (!limit || *limit >= kNoLimit) return;
  const std::string stat = folder + "/memory.stat";
  const ByteSize usage = read_number(folder + "/" + names.usage).value_or(0);
  const ByteSize cache = value_in(stat, names.cache[0]) + value_in(stat, names.cache[1]);
  const ByteSize used = usage - std::min(usage, cache);
  const ByteSize free = *limit - std::min(*limit, used);
  if (*limit < room.limit) {
    room.limit = *limit;
    room.is_cgroup = true;
    const std::string pressure = folder + "/memory.pressure";
    room.pressure_file = access(pressure.c_str(), F_OK) == 0 ? pressure : std::string();
  }
  room.free = std::min(room.free, free);
}

}  // namespace

MemoryRoom read_memory_room(const std::string& root) {
  constexpr ByteSize kKilobyte = 1024;  // as /proc/meminfo counts
  const std::string meminfo = root + "/proc/meminfo";
  MemoryRoom room;
  room.limit = value_in(meminfo, "MemTotal:") * kKilobyte;
  room.free = value_in(meminfo, "MemAvailable:") * kKilobyte;
  room.pressure_file = root + "/proc/pressure/memory";
  std::vector<Hierarchy> hierarchies = find_mounts(root);
  find_own_cgroups(root, hierarchies);
  for (const Hierarchy& hierarchy : hierarchies)
    for (const std::string& folder : folders_of(root, hierarchy))
      narrow(room, folder, *hierarchy.names);
  return room;
}

std::string system_root() {
  const char* const root = std::getenv("BUOY_SYSTEM_ROOT");
  return root != nullptr ? root : "";
}

}  // namespace buoy::cli
