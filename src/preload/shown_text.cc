#include "preload/shown_text.h"

#include <algorithm>

namespace buoy::preload {
namespace {

constexpr ByteSize kKilobyte = 1024;

// Where distributions mount what tells of memory, the longer names first. Elsewhere files are read
// as they are.
constexpr std::string_view kMounts[] = {"/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified",
                                        "/sys/fs/cgroup"};

struct NamedFile {
  std::string_view name;
  ShownFile file;
};
constexpr NamedFile kGroupFiles[] = {{"memory.max", ShownFile::kLimit},
                                     {"memory.high", ShownFile::kLimit},
                                     {"memory.limit_in_bytes", ShownFile::kLimit},
                                     {"memory.current", ShownFile::kUsage},
                                     {"memory.usage_in_bytes", ShownFile::kUsage},
                                     {"memory.stat", ShownFile::kGroupStat}};

bool starts_with(std::string_view text, std::string_view start) {
  return text.substr(0, start.size()) == start;
}

// A number and nothing else.
bool parse(std::string_view text, std::uint64_t* value) {
  if (text.empty() || text.size() > 20) return false;
  std::uint64_t number = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
    number = number * 10 + static_cast<unsigned>(c - '0');
  }
  *value = number;
  return true;
}

// The folder of a cgroup below its mount point, "" or "/a/b"; false: it is no cgroup's.
bool find_group(std::string_view path, std::string_view* group, ShownFile* file) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return false;
  const auto* const named =
      std::find_if(std::begin(kGroupFiles), std::end(kGroupFiles),
                   [&](const NamedFile& each) { return each.name == path.substr(slash + 1); });
  if (named == std::end(kGroupFiles)) return false;
  const std::string_view folder = path.substr(0, slash);
  for (const std::string_view mount : kMounts) {
    if (!starts_with(folder, mount)) continue;
    if (folder.size() != mount.size() && folder[mount.size()] != '/') continue;
    *group = folder.substr(mount.size());
    *file = named->file;
    return true;
  }
  return false;
}

// Is the group the one that a path names, or above it?
bool is_above(std::string_view group, std::string_view own) {
  return starts_with(own, group) && (own.size() == group.size() || own[group.size()] == '/');
}

// "MemTotal:        8000000 kB": everything but the number is kept.
void show_meminfo_line(std::string_view line, const ShownBudget& shown, ByteSize total,
                       sys::Line* out) {
  const std::size_t colon = line.find(':');
  const std::size_t first =
      colon == std::string_view::npos ? colon : line.find_first_not_of(' ', colon + 1);
  const std::size_t end = first == std::string_view::npos ? first : line.find(' ', first);
  std::uint64_t value = 0;
  if (end == std::string_view::npos || shown.budget >= total ||
      !parse(line.substr(first, end - first), &value)) {
    out->text(line);
    return;
  }
  const std::string_view name = line.substr(0, colon);
  const auto is_one_of = [&](auto... names) { return ((name == names) || ...); };
  if (is_one_of("MemTotal")) {
    value = shown.budget / kKilobyte;
  } else if (is_one_of("MemFree", "MemAvailable")) {
    value = std::min(value, shown.free() / kKilobyte);
  } else if (is_one_of("Buffers", "Cached", "SReclaimable", "Active(file)", "Inactive(file)")) {
    value = 0;  // page cache is not in the budget
  } else if (is_one_of("Active", "Inactive", "AnonPages", "Active(anon)", "Inactive(anon)")) {
    value = std::min(value, shown.resident / kKilobyte);
  } else {
    out->text(line);
    return;
  }
  out->text(line.substr(0, first)).number(value).text(line.substr(end));
}

}  // namespace

ShownFile may_be_shown(std::string_view path) {
  if (path == "/proc/meminfo") return ShownFile::kMeminfo;
  std::string_view group;
  ShownFile file = ShownFile::kNone;
  return find_group(path, &group, &file) ? file : ShownFile::kNone;
}

ShownFile shown_file(std::string_view path, std::string_view own) {
  std::string_view group;
  ShownFile file = ShownFile::kNone;
  if (path == "/proc/meminfo") return ShownFile::kMeminfo;
  if (!find_group(path, &group, &file)) return ShownFile::kNone;
  // A line is "4:memory:/path" or "0::/path".
  for (std::size_t at = 0; at < own.size();) {
    const std::size_t end = std::min(own.find('\n', at), own.size());
    const std::string_view line = own.substr(at, end - at);
    at = end + 1;
    const std::size_t slash = line.find(":/");
    if (slash != std::string_view::npos && is_above(group, line.substr(slash + 1))) return file;
  }
  return ShownFile::kNone;
}

ByteSize meminfo_value(std::string_view line, std::string_view name) {
  if (!starts_with(line, name) || line.size() == name.size() || line[name.size()] != ':') return 0;
  const std::size_t first = line.find_first_not_of(' ', name.size() + 1);
  if (first == std::string_view::npos) return 0;
  std::uint64_t value = 0;
  return parse(line.substr(first, line.find(' ', first) - first), &value) ? value * kKilobyte : 0;
}

void show_line(ShownFile file, std::string_view line, const ShownBudget& shown, ByteSize total,
               sys::Line* out) {
  constexpr std::string_view kHierarchical = "hierarchical_memory_limit ";
  std::uint64_t value = 0;
  switch (file) {
    case ShownFile::kMeminfo:
      show_meminfo_line(line, shown, total, out);
      return;
    case ShownFile::kLimit:
      if (parse(line, &value) && value <= shown.budget)
        out->text(line);
      else
        out->number(shown.budget);
      return;
    case ShownFile::kUsage:
      if (parse(line, &value) && value <= shown.resident)
        out->text(line);
      else
        out->number(shown.resident);
      return;
    case ShownFile::kGroupStat:
      if (starts_with(line, kHierarchical) && parse(line.substr(kHierarchical.size()), &value) &&
          value > shown.budget)
        out->text(kHierarchical).number(shown.budget);
      else
        out->text(line);
      return;
    case ShownFile::kNone:
      break;
  }
  out->text(line);
}

}  // namespace buoy::preload
