// Does to real memory, in one thread, what a trace of `buoy-sim --write-trace` says: so that the engine in
// the simulator and the engine in a process can be compared.
//
//   replay_trace FILE PART    PART: of each page, so much is noise and the rest one word
//
// The trace is read by pieces into static memory, which is not managed.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

namespace {

struct Record {  // docs/simulator.md
  std::uint64_t where;
  std::uint64_t when;
  [[nodiscard]] std::uint64_t page() const { return where & ((std::uint64_t{1} << 40) - 1); }
  [[nodiscard]] unsigned kind() const { return static_cast<unsigned>(where >> 40) & 0xff; }
  [[nodiscard]] std::uint64_t count() const { return when & 0xffffff; }
};
constexpr std::size_t kHeader = 64;
constexpr std::size_t kWords = kPage / 8;
enum Kind : unsigned { kLoad = 0, kStore = 1, kDiscard = 2 };

Record records[4096];

template <typename F>
void for_each_record(const char* path, F&& f) {
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  CHECK(lseek(fd, kHeader, SEEK_SET) == static_cast<off_t>(kHeader));
  for (;;) {
    const ssize_t n = read(fd, records, sizeof records);
    CHECK(n >= 0 && n % static_cast<ssize_t>(sizeof(Record)) == 0);
    if (n == 0) break;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n) / sizeof(Record); ++i) f(records[i]);
  }
  close(fd);
}

void fill(std::uint64_t* words, std::uint64_t page, std::size_t noise) {
  for (std::size_t i = 0; i < kWords; ++i)
    words[i] = i == 0 || i >= noise ? page + 1 : mix(page * kWords + i);
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc == 3);
  const auto noise = static_cast<std::size_t>(std::strtod(argv[2], nullptr) * kWords);
  std::uint64_t pages = 0;
  for_each_record(argv[1], [&](const Record& r) {
    if (r.page() + r.count() > pages) pages = r.page() + r.count();
  });
  void* memory = mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED);
  const auto words = [&](std::uint64_t page) {
    return static_cast<std::uint64_t*>(memory) + page * kWords;
  };
  std::uint64_t accesses = 0;
  for_each_record(argv[1], [&](const Record& r) {
    volatile std::uint64_t* first = words(r.page());
    if (r.kind() == kDiscard) {
      CHECK(madvise(words(r.page()), r.count() * kPage, MADV_DONTNEED) == 0);
      return;
    }
    CHECK(r.kind() == kLoad || r.kind() == kStore);
    ++accesses;
    const std::uint64_t there = *first;
    CHECK(there == 0 || there == r.page() + 1);
    if (r.kind() == kLoad) return;
    if (there == 0)
      fill(words(r.page()), r.page(), noise);
    else
      *first = there;
  });
  std::printf("%llu accesses\n", static_cast<unsigned long long>(accesses));
  return 0;
}
