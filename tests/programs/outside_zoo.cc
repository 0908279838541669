// outside_zoo: memory that is not malloc's nor plain mmap's, 96 MiB of each kind in a fork child of its own:
// large static arrays, MAP_32BIT, private mappings of /dev/zero, thousands of small mappings. Contents are
// right, those beside the array as well; where BUOY_BUDGET is set, what is resident keeps to it and 32 MiB.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kBytes = 96U << 20;
constexpr std::size_t kPages = kBytes / kPage;
// Ends within a page, which the next word shares; that page and what lies behind it are not in the budget.
char array[kBytes + 100];
std::uint64_t behind;
char initialised[3 * kPage] = {1};

std::size_t resident_kib() {
  std::FILE* f = std::fopen("/proc/self/status", "r");
  CHECK(f != nullptr);
  char line[200];
  std::size_t kib = 0;
  while (std::fgets(line, sizeof line, f) != nullptr)
    if (std::sscanf(line, "VmRSS: %zu", &kib) == 1) break;
  std::fclose(f);
  return kib;
}

void check_resident() {
  const char* budget = std::getenv("BUOY_BUDGET");
  if (budget == nullptr) return;
  const std::size_t most = std::strtoul(budget, nullptr, 10) / 1024 + (32U << 10);
  const std::size_t kib = resident_kib();
  if (kib > most) std::fprintf(stderr, "%zu KiB resident, at most %zu\n", kib, most);
  CHECK(kib <= most);
}

void use(char* memory) {
  CHECK(memory != MAP_FAILED);
  for (unsigned version = 1; version <= 2; ++version) {
    for (std::size_t p = 0; p < kPages; ++p) stamp(memory + p * kPage, p, version);
    check_resident();
    for (std::size_t p = 0; p < kPages; ++p) check_stamp(memory + p * kPage, p, version);
  }
}

void use_static() {
  auto* const start =
      reinterpret_cast<char*>((reinterpret_cast<std::uintptr_t>(array) + kPage - 1) & ~(kPage - 1));
  std::memset(array, 7, static_cast<std::size_t>(start - array));
  behind = 42;
  for (std::size_t i = kBytes; i < sizeof array; ++i) array[i] = 9;
  for (char& c : initialised) c = 3;
  char* const end = start + (kPages - 1) * kPage;
  for (std::size_t p = 0; start + p * kPage < end; ++p) stamp(start + p * kPage, p, 1);
  check_resident();
  for (std::size_t p = 0; start + p * kPage < end; ++p) check_stamp(start + p * kPage, p, 1);
  for (const char* c = array; c < start; ++c) CHECK(*c == 7);
  for (std::size_t i = kBytes; i < sizeof array; ++i) CHECK(array[i] == 9);
  for (const char c : initialised) CHECK(c == 3);
  CHECK(behind == 42);
}

void use_low() {
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT;
  use(static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, kFlags, -1, 0)));
  // Pieces, which share what address space there is: 1 GiB of it holds 8,192 of these.
  std::vector<char*> pieces;
  for (std::size_t i = 0; i < 2000; ++i) {
    auto* p = static_cast<char*>(mmap(nullptr, 128U << 10, PROT_READ | PROT_WRITE, kFlags, -1, 0));
    CHECK(p != MAP_FAILED);
    CHECK(reinterpret_cast<std::uintptr_t>(p) + (128U << 10) <= std::uintptr_t{1} << 31);
    stamp(p, i, 3);
    pieces.push_back(p);
    if (i % 3 != 0) continue;
    CHECK(munmap(p, 128U << 10) == 0);
    pieces.back() = nullptr;
  }
  for (std::size_t i = 0; i < pieces.size(); ++i)
    if (pieces[i] != nullptr) check_stamp(pieces[i], i, 3);
}

void use_zeros() {
  const int fd = open("/dev/zero", O_RDONLY);
  CHECK(fd >= 0);
  auto* const memory =
      static_cast<char*>(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  const int only_writing = open("/dev/zero", O_WRONLY);
  CHECK(mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE, only_writing, 0) == MAP_FAILED &&
        errno == EACCES);
  close(fd);
  close(only_writing);
  for (std::size_t i = 0; i < kBytes; i += kPage) CHECK(memory[i] == 0);
  use(memory);
  // Shared, it is another kind of memory: a child's stores are seen.
  const int shared = open("/dev/zero", O_RDWR);
  auto* const common =
      static_cast<char*>(mmap(nullptr, 1U << 20, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0));
  CHECK(common != MAP_FAILED);
  const pid_t child = fork();
  if (child == 0) {
    common[5] = 5;
    _exit(0);
  }
  CHECK(waitpid(child, nullptr, 0) == child && common[5] == 5);
}

void use_small() {
  constexpr std::size_t kSmall = 48U << 10;
  std::vector<char*> maps(kBytes / kSmall);
  for (std::size_t i = 0; i < maps.size(); ++i) {
    maps[i] = static_cast<char*>(
        mmap(nullptr, kSmall, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(maps[i] != MAP_FAILED);
    for (std::size_t at = 0; at < kSmall; at += kPage) stamp(maps[i] + at, i, at);
  }
  check_resident();
  for (std::size_t i = 0; i < maps.size(); ++i)
    for (std::size_t at = 0; at < kSmall; at += kPage) check_stamp(maps[i] + at, i, at);
}

}  // namespace

int main() {
  for (void (*const body)() : {use_static, use_low, use_zeros, use_small}) {
    const pid_t child = fork();
    if (child == 0) {
      body();
      _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  use_static();  // and in the process that was there from the start
  std::puts("all kinds");
  return 0;
}
