// What libc's malloc says about itself, said of ours: mallinfo, malloc_info, malloc_stats, mallopt,
// malloc_trim. "In use" is what jemalloc has given out, which includes what threads keep ready for
// their next calls; "system" is what it has mapped; the budget may hold less of it.
#include <malloc.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdio>

#include "preload/interpose.h"
#include "preload/jemalloc.h"

namespace {

// jemalloc's MALLCTL_ARENAS_ALL.
constexpr unsigned kAllArenas = 4096;

template <typename T>
T read_control(const char* name, T otherwise) {
  T value = otherwise;
  size_t size = sizeof value;
  return buoy_je_mallctl(name, &value, &size, nullptr, 0) == 0 ? value : otherwise;
}

// One of "stats.arenas.I.NAME".
size_t read_of_arena(const char* name, unsigned arena) {
  size_t mib[8];
  size_t parts = 8;
  if (buoy_je_mallctlnametomib(name, mib, &parts) != 0) return 0;
  mib[2] = arena;
  size_t value = 0;
  size_t size = sizeof value;
  return buoy_je_mallctlbymib(mib, parts, &value, &size, nullptr, 0) == 0 ? value : 0;
}

// jemalloc's statistics are as of the last epoch.
void refresh() {
  std::uint64_t epoch = 1;
  size_t size = sizeof epoch;
  (void)buoy_je_mallctl("epoch", &epoch, &size, &epoch, size);
}

struct Heap {
  size_t system;
  size_t in_use;
  [[nodiscard]] size_t free() const { return system - in_use; }
};

Heap heap_of(size_t system, size_t in_use) { return {std::max(system, in_use), in_use}; }

Heap whole_heap() {
  return heap_of(read_control<size_t>("stats.mapped", 0),
                 read_control<size_t>("stats.allocated", 0));
}

Heap heap_of_arena(unsigned arena) {
  return heap_of(read_of_arena("stats.arenas.0.mapped", arena),
                 read_of_arena("stats.arenas.0.small.allocated", arena) +
                     read_of_arena("stats.arenas.0.large.allocated", arena));
}

template <typename Body>
void for_each_arena_in_use(Body body) {
  const auto arenas = read_control<unsigned>("arenas.narenas", 0);
  for (unsigned i = 0; i < arenas; ++i) {
    const Heap heap = heap_of_arena(i);
    if (heap.system != 0) body(i, heap);
  }
}

void print_totals(FILE* to, const Heap& heap, size_t most) {
  std::fprintf(to,
               "<total type=\"fast\" count=\"0\" size=\"0\"/>\n"
               "<total type=\"rest\" count=\"%d\" size=\"%zu\"/>\n",
               heap.free() != 0 ? 1 : 0, heap.free());
  std::fprintf(to,
               "<system type=\"current\" size=\"%zu\"/>\n"
               "<system type=\"max\" size=\"%zu\"/>\n"
               "<aspace type=\"total\" size=\"%zu\"/>\n"
               "<aspace type=\"mprotect\" size=\"%zu\"/>\n",
               heap.system, most, heap.system, heap.system);
}

}  // namespace

BUOY_EXPORT struct mallinfo2 mallinfo2() {
  refresh();
  const Heap heap = whole_heap();
  struct mallinfo2 info {};
  info.arena = heap.system;
  info.ordblks = heap.free() != 0 ? 1 : 0;
  info.uordblks = heap.in_use;
  info.fordblks = heap.free();
  return info;
}

// Its fields are ints, which glibc lets wrap: the largest says more than a wrong number.
BUOY_EXPORT struct mallinfo mallinfo() {
  const struct mallinfo2 wide = mallinfo2();
  const auto narrow = [](size_t n) { return static_cast<int>(std::min<size_t>(n, INT_MAX)); };
  struct mallinfo info {};
  info.arena = narrow(wide.arena);
  info.ordblks = narrow(wide.ordblks);
  info.uordblks = narrow(wide.uordblks);
  info.fordblks = narrow(wide.fordblks);
  return info;
}

// glibc's XML, one heap an arena. jemalloc does not count free blocks by size: no <sizes> in it.
BUOY_EXPORT int malloc_info(int options, FILE* to) {
  if (options != 0) return EINVAL;
  refresh();
  std::fputs("<malloc version=\"1\">\n", to);
  for_each_arena_in_use([&](unsigned arena, const Heap& heap) {
    std::fprintf(to, "<heap nr=\"%u\">\n<sizes>\n</sizes>\n", arena);
    print_totals(to, heap, heap.system);
    std::fputs("</heap>\n", to);
  });
  const Heap heap = whole_heap();
  print_totals(to, heap, heap.system);
  std::fputs("</malloc>\n", to);
  return 0;
}

BUOY_EXPORT void malloc_stats() {
  refresh();
  for_each_arena_in_use([&](unsigned arena, const Heap& heap) {
    std::fprintf(stderr, "Arena %u:\nsystem bytes     = %10zu\nin use bytes     = %10zu\n", arena,
                 heap.system, heap.in_use);
  });
  const Heap heap = whole_heap();
  std::fprintf(stderr,
               "Total (incl. mmap):\nsystem bytes     = %10zu\nin use bytes     = %10zu\n"
               "max mmap regions = %10u\nmax mmap bytes   = %10zu\n",
               heap.system, heap.in_use, 0U, size_t{0});
}

// There is nothing here that glibc's parameters would set; what glibc refuses is refused.
BUOY_EXPORT int mallopt(int parameter, int value) {
  constexpr int kLargestFast = 160;
  constexpr int kLargestThreshold = 32 << 20;
  switch (parameter) {
    case M_MXFAST:
      return value >= 0 && value <= kLargestFast ? 1 : 0;
    case M_MMAP_THRESHOLD:
      return value >= 0 && value <= kLargestThreshold ? 1 : 0;
    default:
      return 1;
  }
}

// What jemalloc keeps of freed pages goes back to the pool. 1: something was released.
BUOY_EXPORT int malloc_trim(size_t /*pad*/) {
  (void)buoy_je_mallctl("thread.tcache.flush", nullptr, nullptr, nullptr, 0);
  refresh();
  const bool keeps_some = read_of_arena("stats.arenas.0.pdirty", kAllArenas) != 0 ||
                          read_of_arena("stats.arenas.0.pmuzzy", kAllArenas) != 0;
  (void)buoy_je_mallctl("arena.4096.purge", nullptr, nullptr, nullptr, 0);
  return keeps_some ? 1 : 0;
}
