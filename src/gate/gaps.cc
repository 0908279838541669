#include "gate/gaps.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <span>

#include "base/sys.h"

namespace buoy::gate {

namespace {

// Lines of /proc/self/maps: calls body(CodeRange) with the addresses of each.
template <typename Body>
void for_each_mapping(Body body) {
  const long fd =
      sys::call(SYS_openat, AT_FDCWD, sys::ptr("/proc/self/maps"), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  char buffer[4096];
  CodeRange mapping;
  std::uintptr_t number = 0;
  enum { kBegin, kEnd, kRest } field = kBegin;
  for (long n = 0; (n = sys::call(SYS_read, fd, sys::ptr(buffer), sizeof buffer)) > 0;) {
    for (const char c : std::span<const char>(buffer, static_cast<std::size_t>(n))) {
      if (c == '\n') {
        field = kBegin;
        number = 0;
      } else if (field == kBegin && c == '-') {
        mapping.begin = number;
        field = kEnd;
        number = 0;
      } else if (field == kEnd && c == ' ') {
        mapping.end = number;
        field = kRest;
        body(mapping);
      } else if (field != kRest) {
        number = number * 16 + static_cast<std::uintptr_t>(c <= '9' ? c - '0' : c - 'a' + 10);
      }
    }
  }
  sys::call(SYS_close, fd);
}

}  // namespace

void reserve_gaps(CodeRange range) {
  constexpr std::size_t kMost = 64;
  CodeRange gaps[kMost];
  std::size_t count = 0;
  std::uintptr_t end = 0;  // of the mapping before
  for_each_mapping([&](CodeRange mapping) {
    const CodeRange gap{std::max(end, range.begin), std::min(mapping.begin, range.end)};
    if (end != 0 && gap.begin < gap.end && count < kMost) gaps[count++] = gap;
    end = mapping.end;
  });
  for (const CodeRange& gap : std::span<const CodeRange>(gaps, count))
    sys::call(SYS_mmap, static_cast<long>(gap.begin), static_cast<long>(gap.bytes()), PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

}  // namespace buoy::gate
