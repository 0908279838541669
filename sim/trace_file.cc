#include "trace_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <memory>
#include <span>
#include <stdexcept>

#include "base/trace_format.h"

namespace buoy::sim {

namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

[[noreturn]] void fail(const std::string& line) { throw std::runtime_error(line); }

File open(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode), &std::fclose);
  if (file == nullptr) fail(fmt::format("{}: {}", path, std::strerror(errno)));
  return file;
}

std::string read_whole(const std::string& path) {
  const File file = open(path, "rb");
  std::string text;
  char chunk[1 << 16];
  for (std::size_t n; (n = std::fread(chunk, 1, sizeof chunk, file.get())) != 0;)
    text.append(chunk, n);
  if (std::ferror(file.get()) != 0) fail(fmt::format("{}: {}", path, std::strerror(errno)));
  return text;
}

// ---- Text ---------------------------------------------------------------------------------------

std::string_view next_word(std::string_view& line) {
  constexpr std::string_view kBlanks = " \t\r,";
  const std::size_t first = line.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return line = {};
  line.remove_prefix(first);
  const std::string_view word = line.substr(0, line.find_first_of(kBlanks));
  line.remove_prefix(word.size());
  return word;
}

std::optional<std::uint64_t> number_of(std::string_view word) {
  std::uint64_t n = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), n);
  constexpr std::uint64_t kLimit = std::uint64_t{1} << 62;
  if (error != std::errc() || end != word.data() + word.size() || n >= kLimit) return std::nullopt;
  return n;
}

bool is_comment(std::string_view line) {
  const std::string_view word = next_word(line);
  return word.empty() || word.front() == '*' || word.front() == '#';
}

// Calls f(line, its number) for each line that is no comment.
template <typename F>
void for_each_line(std::string_view text, F&& f) {
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!is_comment(line)) f(line, number);
  }
}

Trace parse_pages(const std::string& path, std::string_view text) {
  TraceBuilder builder;
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    const auto page = number_of(next_word(line));
    if (!page) fail(fmt::format("{}:{}: not a page number", path, number));
    const std::string_view how = next_word(line);
    builder.access(*page, !how.empty() && (how.front() == 'w' || how.front() == 'W'));
  });
  return std::move(builder).finish();
}

Trace parse_arc(const std::string& path, std::string_view text) {
  constexpr std::uint64_t kMostAtOnce = 1U << 20;
  TraceBuilder builder;
  for_each_line(text, [&](std::string_view line, std::size_t number) {
    const auto start = number_of(next_word(line));
    const auto count = number_of(next_word(line));
    if (!start || !count || *count == 0 || *count > kMostAtOnce)
      fail(fmt::format("{}:{}: not `start count ignored request`", path, number));
    for (std::uint64_t i = 0; i < *count; ++i) builder.access(*start + i, false);
  });
  return std::move(builder).finish();
}

TraceFormat format_of_text(std::string_view text) {
  TraceFormat format = TraceFormat::kPages;
  bool is_first = true;
  for_each_line(text.substr(0, 4096), [&](std::string_view line, std::size_t) {
    if (!is_first) return;
    is_first = false;
    for (int words = 0; words < 4; ++words)
      if (next_word(line).empty()) return;
    format = TraceFormat::kArc;
  });
  return format;
}

// ---- Binary -------------------------------------------------------------------------------------

// Each address space has its own pages, far from the others'.
constexpr std::uint64_t kSpaceStride = trace::Record::kPageLimit;

struct Placed {
  std::uint64_t space;
  trace::Record record;
};

bool begins_with_magic(std::string_view bytes) {
  return bytes.size() >= sizeof trace::kMagic &&
         std::memcmp(bytes.data(), trace::kMagic, sizeof trace::kMagic) == 0;
}

void check_header(const std::string& path, std::string_view bytes) {
  trace::Header header;
  if (bytes.size() < sizeof header) fail(path + ": a header that is cut off");
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.version != trace::kVersion)
    fail(fmt::format("{}: version {} of the trace format; this buoy-sim reads {}", path,
                     header.version, trace::kVersion));
  if (header.record_bytes != sizeof(trace::Record) || header.page_bytes != 4096)
    fail(path + ": a header that makes no sense");
}

// The records of each address space in the order of their sequence numbers.
std::vector<Placed> ordered_records(const std::string& path, std::string_view bytes) {
  std::vector<Placed> records;
  std::uint64_t space = 0;
  if (!begins_with_magic(bytes)) fail(path + ": no trace of buoy run");
  while (!bytes.empty()) {
    if (begins_with_magic(bytes)) {
      check_header(path, bytes);
      bytes.remove_prefix(sizeof(trace::Header));
      ++space;
      continue;
    }
    trace::Record record;
    if (bytes.size() < sizeof record) break;  // the process was killed in the middle of a write
    std::memcpy(&record, bytes.data(), sizeof record);
    bytes.remove_prefix(sizeof record);
    if (!record.is_known() || record.count() == 0)
      fail(fmt::format("{}: record {} makes no sense", path, records.size()));
    records.push_back({space, record});
  }
  std::stable_sort(records.begin(), records.end(), [](const Placed& a, const Placed& b) {
    return a.space != b.space ? a.space < b.space : a.record.sequence() < b.record.sequence();
  });
  return records;
}

void add(TraceBuilder& builder, std::uint64_t space, trace::Record record) {
  const std::uint64_t page = space * kSpaceStride + record.page();
  switch (record.kind()) {
    case trace::Kind::kLoad:
    case trace::Kind::kStore:
      for (std::uint64_t i = 0; i < record.count(); ++i)
        builder.access(page + i, record.kind() == trace::Kind::kStore);
      return;
    case trace::Kind::kFree:
      return builder.add(Act::kFree, page, record.count());
    case trace::Kind::kCold:
      return builder.add(Act::kCold, page, record.count());
    case trace::Kind::kPageOut:
      return builder.add(Act::kPageOut, page, record.count());
    case trace::Kind::kWillNeed:
      return builder.add(Act::kWillNeed, page, record.count());
    case trace::Kind::kLost:
      return builder.note_lost(record.count());
    case trace::Kind::kDiscard:
    case trace::Kind::kMap:
    case trace::Kind::kUnmap:
    case trace::Kind::kMoveFrom:
    case trace::Kind::kMoveTo:  // what was moved is new there: its first access is not counted
    case trace::Kind::kCount:
      return builder.add(Act::kDiscard, page, record.count());
  }
}

Trace parse_binary(const std::string& path, std::string_view bytes) {
  TraceBuilder builder;
  std::uint64_t last_space = 0;
  for (const Placed& placed : ordered_records(path, bytes)) {
    // What an exec leaves behind.
    if (placed.space != last_space && last_space != 0)
      builder.add(Act::kDiscard, last_space * kSpaceStride, kSpaceStride);
    last_space = placed.space;
    add(builder, placed.space, placed.record);
  }
  return std::move(builder).finish();
}

trace::Kind kind_of(Act act) {
  switch (act) {
    case Act::kLoad:
      return trace::Kind::kLoad;
    case Act::kStore:
      return trace::Kind::kStore;
    case Act::kDiscard:
      return trace::Kind::kDiscard;
    case Act::kFree:
      return trace::Kind::kFree;
    case Act::kCold:
      return trace::Kind::kCold;
    case Act::kPageOut:
      return trace::Kind::kPageOut;
    case Act::kWillNeed:
      break;
  }
  return trace::Kind::kWillNeed;
}

}  // namespace

std::optional<TraceFormat> trace_format_named(std::string_view name) {
  if (name == "auto") return TraceFormat::kAuto;
  if (name == "binary") return TraceFormat::kBinary;
  if (name == "pages" || name == "lirs") return TraceFormat::kPages;
  if (name == "arc") return TraceFormat::kArc;
  return std::nullopt;
}

Trace read_trace(const std::string& path, TraceFormat format) {
  const std::string bytes = read_whole(path);
  if (format == TraceFormat::kAuto)
    format = begins_with_magic(bytes) ? TraceFormat::kBinary : format_of_text(bytes);
  Trace trace = format == TraceFormat::kBinary ? parse_binary(path, bytes)
                : format == TraceFormat::kArc  ? parse_arc(path, bytes)
                                               : parse_pages(path, bytes);
  if (trace.accesses == 0) fail(path + ": no access to any page in it");
  return trace;
}

void write_trace(const std::string& path, const Trace& trace) {
  const File file = open(path, "wb");
  const trace::Header header = trace::make_header(0, 0, 0);
  bool ok = std::fwrite(&header, sizeof header, 1, file.get()) == 1;
  std::uint64_t sequence = 0;
  for (const Event& e : trace.events) {
    const trace::Record record(kind_of(e.act()), e.page(), e.count(), sequence++);
    ok = ok && std::fwrite(&record, sizeof record, 1, file.get()) == 1;
  }
  if (!ok || std::fflush(file.get()) != 0) fail(fmt::format("{}: {}", path, std::strerror(errno)));
}

}  // namespace buoy::sim
