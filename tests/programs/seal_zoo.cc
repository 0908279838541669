// Sealed memory (mseal(2)) and protection keys: what is refused, what is let through, and that nothing
// is lost or hangs. Prints the same natively and under `buoy run`.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "check.h"

namespace {

constexpr std::size_t kBytes = std::size_t{1} << 20;
constexpr std::size_t kPages = kBytes / kPage;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

int seal(void* p, std::size_t bytes, unsigned long flags = 0) {
  return static_cast<int>(syscall(462, p, bytes, flags));
}

char* map(std::size_t bytes) {
  void* p = mmap(nullptr, bytes, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return static_cast<char*>(p);
}
char* map_stamped(std::size_t bytes, std::uint64_t owner) {
  char* p = map(bytes);
  for (std::size_t i = 0; i < bytes / kPage; ++i) stamp(p + i * kPage, owner, i);
  return p;
}
void check_stamps(const char* p, std::size_t first, std::size_t end, std::uint64_t owner) {
  for (std::size_t i = first; i < end; ++i) check_stamp(p + i * kPage, owner, i);
}

// Pushes everything out that the budget does not hold.
void press() {
  constexpr std::size_t kPress = 48 * kBytes;
  char* p = map(kPress);
  for (std::size_t i = 0; i < kPress / kPage; ++i) stamp(p + i * kPage, 9, i);
  CHECK(munmap(p, kPress) == 0);
}

void expect_refused(const char* what, bool failed) {
  std::printf("%s: %s\n", what, failed ? std::strerror(errno) : "done");
}
#define TRY(call)                                                \
  do {                                                           \
    errno = 0;                                                   \
    expect_refused(#call, reinterpret_cast<long>((call)) == -1); \
  } while (false)
#define TRY_INT(call)                    \
  do {                                   \
    errno = 0;                           \
    expect_refused(#call, (call) == -1); \
  } while (false)

void arguments() {
  char* p = map_stamped(kBytes, 1);
  TRY_INT(seal(p, kBytes, 1));
  TRY_INT(seal(p + 1, kBytes));
  TRY_INT(seal(p, 0));
  CHECK(munmap(p + kBytes / 2, kPage) == 0);
  TRY_INT(seal(p, kBytes));  // a hole: nothing is sealed
  TRY_INT(munmap(p, kBytes));
}

void sealed_range() {
  char* p = map_stamped(3 * kBytes, 2);
  char* middle = p + kBytes;
  CHECK(seal(middle, kBytes) == 0);
  TRY_INT(seal(middle, kBytes));
  TRY_INT(munmap(middle, kPage));
  TRY_INT(munmap(p, 3 * kBytes));
  TRY_INT(mprotect(middle, kBytes, PROT_READ));
  TRY_INT(mprotect(middle, kBytes, kReadWrite));
  TRY_INT(pkey_mprotect(middle, kBytes, PROT_READ, 0));
  TRY(mremap(middle, kBytes, kBytes / 2, 0));
  TRY(mremap(middle, kBytes, 2 * kBytes, MREMAP_MAYMOVE));
  char* other = map_stamped(kBytes, 3);
  TRY(mremap(other, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, middle));
  TRY(mremap(middle, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED, other));
  TRY(mmap(p, 2 * kBytes, kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  TRY(mmap(middle, kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
  press();
  check_stamps(p, 0, 3 * kPages, 2);
  check_stamps(other, 0, kPages, 3);
  stamp(middle, 2, 0);  // still its program's to store to
  check_stamp(middle, 2, 0);
  stamp(middle, 2, kPages);

  // mprotect changes what comes before the seal.
  TRY_INT(mprotect(p, 3 * kBytes, PROT_READ));
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    check_stamps(p, 0, 3 * kPages, 2);
    CHECK(munmap(middle, kBytes) == -1 && errno == EPERM);  // it inherits the seal
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(munmap(p, kBytes) == 0 && munmap(p + 2 * kBytes, kBytes) == 0);

  // What may be stored to may be discarded, too.
  TRY_INT(madvise(middle, kBytes, MADV_DONTNEED));
  CHECK(middle[0] == 0);
}

void read_only() {
  char* p = map_stamped(kBytes, 4);
  CHECK(mprotect(p, kBytes, PROT_READ) == 0);
  CHECK(seal(p, kBytes) == 0);
  TRY_INT(madvise(p, kBytes, MADV_DONTNEED));
  TRY_INT(madvise(p, kBytes, MADV_FREE));
  TRY_INT(madvise(p, kBytes, MADV_DONTFORK));
  TRY_INT(madvise(p, kBytes, MADV_WIPEONFORK));
  TRY_INT(madvise(p, kBytes, MADV_COLD));
  TRY_INT(munmap(p, kBytes));
  TRY_INT(mprotect(p, kBytes, kReadWrite));
  press();
  check_stamps(p, 0, kPages, 4);
  TRY_INT(mlock(p, kBytes));
  TRY_INT(munlock(p, kBytes));
  // A part that cannot be discarded stops what comes after it, too.
  char* q = map_stamped(2 * kBytes, 5);
  CHECK(mprotect(q + kBytes, kBytes, PROT_READ) == 0 && seal(q, 2 * kBytes) == 0);
  TRY_INT(madvise(q, 2 * kBytes, MADV_DONTNEED));
  CHECK(q[0] == 0);
  check_stamps(q, kPages, 2 * kPages, 5);
}

// The kernel's own seal, by an instruction of the program's: whatever it says, nobody spins or aborts,
// and what was there stays.
long raw_seal(void* p, std::size_t bytes) {
  long result = 462;
  __asm__ volatile("syscall" : "+a"(result) : "D"(p), "S"(bytes), "d"(0L) : "rcx", "r11", "memory");
  return result;
}
void by_instruction() {
  for (const int prot : {kReadWrite, static_cast<int>(PROT_READ)}) {
    char* p = map_stamped(kBytes, 6);
    CHECK(mprotect(p, kBytes, prot) == 0);
    CHECK(raw_seal(p, kBytes) == 0);
    TRY_INT(munmap(p, kBytes));
    check_stamps(p, 0, kPages, 6);
    TRY_INT(mprotect(p, kBytes, PROT_NONE));
    check_stamps(p, 0, kPages, 6);
  }
}

void keys() {
  char* p = map_stamped(kBytes, 7);
  TRY_INT(pkey_mprotect(p, kBytes, kReadWrite, 15));  // never allocated
  TRY_INT(pkey_mprotect(p, kBytes, kReadWrite, -2));
  TRY_INT(pkey_mprotect(p, kBytes, PROT_READ, -1));
  check_stamps(p, 0, kPages, 7);
  CHECK(pkey_mprotect(p, kBytes, kReadWrite, -1) == 0);
  // A key that is: the kernel's answer, or EINVAL, and nothing is lost.
  const int key = pkey_alloc(0, 0);
  if (key > 0) {
    if (pkey_mprotect(p, kBytes, PROT_READ, key) != 0) {
      CHECK(errno == EINVAL);
      stamp(p, 7, 0);  // and nothing is changed
    }
    pkey_free(key);
  }
  check_stamps(p, 0, kPages, 7);
  press();
  check_stamps(p, 0, kPages, 7);
}

}  // namespace

int main() {
  char* probe = map(kPage);
  if (seal(probe, 0) != 0) {
    std::printf("no mseal here\n");
  } else {
    arguments();
    sealed_range();
    read_only();
    by_instruction();
  }
  keys();
  return 0;
}
