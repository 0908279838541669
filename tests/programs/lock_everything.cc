// mlockall: what is locked is there and stays, now, in future, or once it is touched; what is more than
// can be locked is refused, and the program goes on. Natively it wants the right to lock memory.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

char* map(std::size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? nullptr : static_cast<char*>(p);
}
void stamp_all(char* p, std::size_t bytes, std::uint64_t owner) {
  for (std::size_t i = 0; i < bytes / kPage; ++i) stamp(p + i * kPage, owner, i);
}
void check_all(const char* p, std::size_t bytes, std::uint64_t owner) {
  for (std::size_t i = 0; i < bytes / kPage; ++i) check_stamp(p + i * kPage, owner, i);
}
std::size_t resident(char* p, std::size_t bytes) {
  std::vector<unsigned char> vec(bytes / kPage);
  CHECK(mincore(p, bytes, vec.data()) == 0);
  std::size_t n = 0;
  for (const unsigned char v : vec) n += v & 1U;
  return n;
}

// Pushes out what may leave. The last of it stays where nothing needs its room.
void press() {
  constexpr std::size_t kPress = 48 * kMiB;
  char* p = map(kPress);
  CHECK(p != nullptr);
  stamp_all(p, kPress, 9);
  check_all(p, kPress, 9);
  CHECK(munmap(p, kPress) == 0);
}

void bad_flags() {
  for (const int flags : {0, static_cast<int>(MCL_ONFAULT), 8, MCL_CURRENT | 64}) {
    errno = 0;
    CHECK(mlockall(flags) == -1 && errno == EINVAL);
  }
  std::printf("flags\n");
}

void current() {
  char* p = map(4 * kMiB);
  char* reserved = static_cast<char*>(
      mmap(nullptr, 1 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  CHECK(p != nullptr && reserved != MAP_FAILED);
  stamp_all(p, 2 * kMiB, 1);
  auto* heap = static_cast<char*>(std::malloc(2 * kMiB));
  CHECK(heap != nullptr);
  stamp_all(heap, 2 * kMiB - kPage, 2);
  CHECK(mlockall(MCL_CURRENT) == 0);
  CHECK(resident(p, 4 * kMiB) == 4 * kMiB / kPage);  // touched or not
  press();
  CHECK(resident(p, 4 * kMiB) == 4 * kMiB / kPage);
  check_all(p, 2 * kMiB, 1);
  check_all(heap, 2 * kMiB - kPage, 2);

  const pid_t child = fork();  // has no locks, and its memory
  CHECK(child >= 0);
  if (child == 0) {
    press();
    check_all(p, 2 * kMiB, 1);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && status == 0);

  CHECK(munlockall() == 0);
  press();
  check_all(p, 2 * kMiB, 1);
  check_all(heap, 2 * kMiB - kPage, 2);
  std::free(heap);
  CHECK(munmap(p, 4 * kMiB) == 0 && munmap(reserved, 1 << 30) == 0);
  std::printf("current\n");
}

void future() {
  CHECK(mlockall(MCL_FUTURE) == 0);
  char* p = map(2 * kMiB);
  CHECK(p != nullptr && resident(p, 2 * kMiB) == 2 * kMiB / kPage);
  // More than there is: refused, or there.
  for (int i = 0; i < 3; ++i) {
    errno = 0;
    char* large = map(64 * kMiB);
    if (large == nullptr)
      CHECK(errno == EAGAIN);
    else
      CHECK(resident(large, 64 * kMiB) == 64 * kMiB / kPage && munmap(large, 64 * kMiB) == 0);
  }
  // Locks go with what they were for: a hundred times what the budget holds.
  for (std::size_t i = 0; i < 800; ++i) {
    void* heap = std::malloc(kMiB + i * 512);
    CHECK(heap != nullptr);
    std::memset(heap, 1, kMiB);
    std::free(heap);
    char* fresh = map(kMiB);
    CHECK(fresh != nullptr && munmap(fresh, kMiB) == 0);
  }
  CHECK(munlockall() == 0);
  press();
  CHECK(munmap(p, 2 * kMiB) == 0);
  char* later = map(2 * kMiB);
  CHECK(later != nullptr && resident(later, 2 * kMiB) == 0);
  CHECK(munmap(later, 2 * kMiB) == 0);
  std::printf("future\n");
}

void on_fault() {
  char* p = map(4 * kMiB);
  CHECK(p != nullptr);
  CHECK(mlockall(MCL_CURRENT | MCL_ONFAULT) == 0);
  CHECK(resident(p, 4 * kMiB) == 0);
  stamp_all(p, 2 * kMiB, 3);
  press();
  CHECK(resident(p, 2 * kMiB) == 2 * kMiB / kPage);
  check_all(p, 2 * kMiB, 3);
  CHECK(munlockall() == 0 && munmap(p, 4 * kMiB) == 0);
  std::printf("on fault\n");
}

void too_much() {
  char* p = map(64 * kMiB);
  CHECK(p != nullptr);
  stamp_all(p, kMiB, 4);
  errno = 0;
  if (mlockall(MCL_CURRENT) == 0)
    CHECK(resident(p, 64 * kMiB) == 64 * kMiB / kPage && munlockall() == 0);
  else
    CHECK(errno == ENOMEM);
  check_all(p, kMiB, 4);
  press();  // nothing is locked
  CHECK(munmap(p, 64 * kMiB) == 0);
  std::printf("too much\n");
}

}  // namespace

int main() {
  bad_flags();
  if (mlockall(MCL_CURRENT) != 0) {
    std::printf("not allowed here: %s\n", std::strerror(errno));
    return 0;
  }
  CHECK(munlockall() == 0);
  current();
  future();
  on_fault();
  too_much();
  return 0;
}
