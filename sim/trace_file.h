// Traces in files.
//
//   binary  base/trace_format.h: what `buoy run --trace` and --write-trace write
//   pages   text, a page number a line; a second word that begins with w makes it a store. The
//           public LIRS traces are of this form: lines that begin with `*` or `#` are comments
//   arc     text, the public ARC traces: `start count ignored request` a line, so many pages
//           from `start` on
//
// Everything here throws std::runtime_error with one line for the user.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "trace.h"

namespace buoy::sim {

enum class TraceFormat : std::uint8_t { kAuto, kBinary, kPages, kArc };

[[nodiscard]] std::optional<TraceFormat> trace_format_named(std::string_view name);
// kAuto: by what the file begins with.
[[nodiscard]] Trace read_trace(const std::string& path, TraceFormat format);
void write_trace(const std::string& path, const Trace& trace);

}  // namespace buoy::sim
