// The address space as a program may know it: what the kernel answers about places that were freed,
// mapped over, promised away or moved, and what such calls cost over huge sparse ranges. Everything
// here holds natively; beside our reservations it must hold, too.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace {

constexpr int kAnon = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kRw = PROT_READ | PROT_WRITE;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL
constexpr int kGuardRemove = 103;
constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED
constexpr int kCollapse = 25;        // MADV_COLLAPSE
constexpr int kDontUnmap = 4;        // MREMAP_DONTUNMAP

char* map(std::size_t bytes, int prot = kRw, int more = 0, void* at = nullptr) {
  void* p = mmap(at, bytes, prot, kAnon | more, -1, 0);
  CHECK(p != MAP_FAILED);
  return static_cast<char*>(p);
}

void fill(char* p, std::size_t bytes, std::uint64_t owner) {
  for (std::size_t i = 0; i < bytes; i += kPage) stamp(p + i, owner, i / kPage);
}
void check_filled(const char* p, std::size_t bytes, std::uint64_t owner) {
  for (std::size_t i = 0; i < bytes; i += kPage) check_stamp(p + i, owner, i / kPage);
}
void check_zeros(const char* p, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += kPage) CHECK(p[i] == 0 && p[i + kPage - 1] == 0);
}

template <typename Call>
bool fails_with(int error, Call call) {
  errno = 0;
  return call() == -1 && errno == error;
}

// The si_code that a touch of the page raises; 0 if none.
sigjmp_buf back;
volatile int seen_code = 0;
void on_segv(int, siginfo_t* info, void*) {
  seen_code = info->si_code;
  siglongjmp(back, 1);
}
int code_of_touch(volatile char* p) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_sigaction = on_segv;
  action.sa_flags = SA_SIGINFO;
  CHECK(sigaction(SIGSEGV, &action, &before) == 0);
  seen_code = 0;
  if (sigsetjmp(back, 1) == 0) (void)*p;
  struct sigaction ours {};
  CHECK(sigaction(SIGSEGV, &before, &ours) == 0);
  CHECK(ours.sa_sigaction == on_segv && (ours.sa_flags & SA_SIGINFO) != 0);
  return seen_code;
}

// Runs the body in a fork child: 0 if it came to its end, else the signal that ended it.
template <typename Body>
int in_child(Body body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    body();
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

void freed_places() {
  char* neighbour = map(kMiB);
  char* p = map(kMiB);
  fill(neighbour, kMiB, 1);
  fill(p, kMiB, 2);
  char* const hole = p + kMiB / 4;
  const std::size_t bytes = kMiB / 4;
  CHECK(munmap(hole, bytes) == 0);
  unsigned char vec[512];
  CHECK(fails_with(ENOMEM, [&] { return msync(p, kMiB, MS_ASYNC); }));
  CHECK(fails_with(ENOMEM, [&] { return mincore(hole, kPage, vec); }));
  CHECK(fails_with(ENOMEM, [&] { return madvise(hole, kPage, MADV_NORMAL); }));
  CHECK(fails_with(ENOMEM, [&] { return mlock(hole, kPage); }));
  CHECK(fails_with(ENOMEM, [&] { return munlock(hole, kPage); }));
  CHECK(fails_with(ENOMEM, [&] { return mprotect(hole, kPage, PROT_READ); }));
  CHECK(munmap(hole, bytes) == 0);
  CHECK(code_of_touch(hole) == SEGV_MAPERR);
  CHECK(mprotect(p, kPage, PROT_NONE) == 0);
  CHECK(code_of_touch(p) == SEGV_ACCERR);
  CHECK(mprotect(p, kPage, kRw) == 0);
  // A hint, then a demand.
  CHECK(map(bytes, kRw, 0, hole) == hole);
  check_zeros(hole, bytes);
  CHECK(munmap(hole, bytes) == 0);
  CHECK(map(bytes, kRw, MAP_FIXED_NOREPLACE, hole) == hole);
  check_zeros(hole, bytes);
  fill(hole, bytes, 3);
  CHECK(mmap(hole, bytes, kRw, kAnon | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);
  CHECK(errno == EEXIST);
  CHECK(mmap(p, kMiB, kRw, kAnon | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
  check_filled(hole, bytes, 3);
  check_filled(p, kMiB / 4, 2);
  check_filled(neighbour, kMiB, 1);
  CHECK(munmap(p, kMiB) == 0 && munmap(neighbour, kMiB) == 0);
  // Far from everything: a runtime that looks for room for its heap.
  char* const far = reinterpret_cast<char*>(0x4200000000);  // NOLINT
  char* heap = map(std::size_t{64} << 20, kRw, MAP_NORESERVE, far);
  CHECK(heap == far);
  fill(heap + 3 * kMiB, kMiB, 4);
  CHECK(map(kMiB, kRw, 0, far) != far);  // taken
  check_filled(heap + 3 * kMiB, kMiB, 4);
  CHECK(munmap(heap, std::size_t{64} << 20) == 0);
  char* odd = far + 5 * kPage;  // no block of anything begins here
  CHECK(map(kMiB, kRw, 0, odd) == odd);
  fill(odd, kMiB, 5);
  check_filled(odd, kMiB, 5);
  CHECK(munmap(odd, kMiB) == 0);
}

// Others' mappings where ours were: a file's, and small ones, across forks.
void others_in_ours(const char* file) {
  const int fd = open(file, O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  char* p = map(4 * kMiB);
  fill(p, 4 * kMiB, 6);
  CHECK(mmap(p + kMiB, 2 * kPage, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) == p + kMiB);
  CHECK(munmap(p + 2 * kMiB, 2 * kPage) == 0);
  CHECK(mmap(p + 2 * kMiB, 2 * kPage, PROT_READ, MAP_PRIVATE | MAP_FIXED_NOREPLACE, fd, 0) ==
        p + 2 * kMiB);
  close(fd);
  const auto check_all = [&] {
    CHECK(std::memcmp(p + kMiB,
                      "\x7f"
                      "ELF",
                      4) == 0);
    CHECK(std::memcmp(p + 2 * kMiB,
                      "\x7f"
                      "ELF",
                      4) == 0);
    check_filled(p, kMiB, 6);
    for (std::size_t i = 2 * kMiB + 2 * kPage; i < 4 * kMiB; i += kPage)
      check_stamp(p + i, 6, i / kPage);
  };
  for (int i = 0; i < 3; ++i)
    CHECK(in_child([&] {
            check_all();
            CHECK(in_child(check_all) == 0);
          }) == 0);
  check_all();
  // Ours again, in the middle of one of them.
  CHECK(munmap(p + kMiB, 2 * kPage) == 0);
  CHECK(code_of_touch(p + kMiB) == SEGV_MAPERR);
  CHECK(mmap(p, 4 * kMiB, kRw, kAnon | MAP_FIXED, -1, 0) == p);
  check_zeros(p, 4 * kMiB);
  CHECK(munmap(p, 4 * kMiB) == 0);
}

void promises_for_children() {
  char* p = map(4 * kMiB);
  fill(p, 4 * kMiB, 7);
  CHECK(madvise(p, kMiB, MADV_DONTFORK) == 0);
  CHECK(madvise(p + kMiB, 2 * kMiB, MADV_WIPEONFORK) == 0);
  CHECK(madvise(p + 2 * kMiB, kMiB, MADV_KEEPONFORK) == 0);
  const auto check_child = [&] {
    CHECK(code_of_touch(p + kMiB / 2) == SEGV_MAPERR);
    unsigned char vec[1];
    CHECK(fails_with(ENOMEM, [&] { return mincore(p, kPage, vec); }));
    check_zeros(p + kMiB, kMiB);
    for (std::size_t i = 2 * kMiB; i < 4 * kMiB; i += kPage) check_stamp(p + i, 7, i / kPage);
  };
  CHECK(in_child([&] {
          check_child();
          fill(p + kMiB, kMiB, 8);
          CHECK(in_child(check_child) == 0);  // it is wiped for children's children, too
          CHECK(map(kMiB, kRw, MAP_FIXED_NOREPLACE, p) == p);
          check_zeros(p, kMiB);
        }) == 0);
  CHECK(in_child([&] { (void)*const_cast<volatile char*>(p); }) == SIGSEGV);
  CHECK(madvise(p, kMiB, MADV_DOFORK) == 0);
  CHECK(in_child([&] { check_filled(p, kMiB, 7); }) == 0);
  check_filled(p, 4 * kMiB, 7);
  // A promise goes with the mapping, and ends with it.
  void* moved = mremap(p + kMiB, kMiB, 2 * kMiB, MREMAP_MAYMOVE);
  CHECK(moved != MAP_FAILED);
  char* q = static_cast<char*>(moved);
  for (std::size_t i = 0; i < kMiB; i += kPage) check_stamp(q + i, 7, (i + kMiB) / kPage);
  CHECK(in_child([&] { check_zeros(q, kMiB); }) == 0);
  CHECK(mmap(q, kMiB, kRw, kAnon | MAP_FIXED, -1, 0) == q);
  fill(q, kMiB, 9);
  CHECK(in_child([&] { check_filled(q, kMiB, 9); }) == 0);
  CHECK(munmap(q, 2 * kMiB) == 0 && munmap(p, 4 * kMiB) == 0);
}

void advice() {
  char* small = map(kPage);
  char* p = map(kMiB);
  const auto same_answer = [&](int one) {
    const int small_error = madvise(small, kPage, one) == 0 ? 0 : errno;
    const int error = madvise(p, kMiB, one) == 0 ? 0 : errno;
    if (error != small_error)
      std::fprintf(stderr, "advice %d: %d, not %d\n", one, error, small_error);
    CHECK(error == small_error);
  };
  for (int one = 0; one <= 26; ++one) {
    if (one == kCollapse) continue;  // it is for 2 MiB and more
    fill(p, kMiB, 10);
    same_answer(one);
  }
  for (const int one : {-1, 99, 104, 1000}) same_answer(one);
  CHECK(madvise(p, kMiB, MADV_DOFORK) == 0 && madvise(p, kMiB, MADV_KEEPONFORK) == 0);
  if (madvise(small, kPage, kDontNeedLocked) == 0) {
    fill(p, kMiB, 11);
    CHECK(mlock(p, 4 * kPage) == 0);
    CHECK(fails_with(EINVAL, [&] { return madvise(p, kMiB, MADV_DONTNEED); }));
    CHECK(madvise(p, kMiB, kDontNeedLocked) == 0);
    check_zeros(p, kMiB);
    CHECK(munlock(p, 4 * kPage) == 0);
  }
  if (madvise(small, kPage, kGuardInstall) == 0) {
    fill(p, kMiB, 12);
    CHECK(madvise(p + 8 * kPage, 2 * kPage, kGuardInstall) == 0);
    CHECK(code_of_touch(p + 8 * kPage) == SEGV_MAPERR);
    CHECK(code_of_touch(p + 10 * kPage - 1) == SEGV_MAPERR);
    check_filled(p, 8 * kPage, 12);
    check_stamp(p + 10 * kPage, 12, 10);
    CHECK(madvise(p, kMiB, MADV_DONTNEED) == 0);
    CHECK(code_of_touch(p + 8 * kPage) == SEGV_MAPERR);
    CHECK(mprotect(p, kMiB, PROT_READ) == 0);
    CHECK(mprotect(p, kMiB, kRw) == 0);
    CHECK(code_of_touch(p + 9 * kPage) == SEGV_MAPERR);
    CHECK(in_child([&] { CHECK(code_of_touch(p + 9 * kPage) == SEGV_MAPERR); }) == 0);
    CHECK(madvise(p, kMiB, kGuardRemove) == 0);
    check_zeros(p, kMiB);
    fill(p, kMiB, 13);
    check_filled(p, kMiB, 13);
  }
  CHECK(munmap(p, kMiB) == 0 && munmap(small, kPage) == 0);
}

void moves() {
  // Onto a place that never was anybody's of ours, and is no multiple of anything.
  char* place = map(4 * kMiB, PROT_NONE, MAP_FIXED, reinterpret_cast<void*>(0x200000003000));
  char* p = map(2 * kMiB);
  fill(p, 2 * kMiB, 14);
  void* to = place + kMiB;
  CHECK(mremap(p, 2 * kMiB, 2 * kMiB, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
  check_filled(place + kMiB, 2 * kMiB, 14);
  CHECK(code_of_touch(p) == SEGV_MAPERR);
  CHECK(code_of_touch(place) == SEGV_ACCERR);
  CHECK(in_child([&] { check_filled(place + kMiB, 2 * kMiB, 14); }) == 0);
  unsigned char vec[1024];
  CHECK(mincore(place, 4 * kMiB, vec) == 0);
  CHECK(munmap(place, 4 * kMiB) == 0);
  CHECK(code_of_touch(place + kMiB) == SEGV_MAPERR);
  // Contents move, the old place stays mapped.
  p = map(kMiB);
  fill(p, kMiB, 15);
  // libc's mremap leaves the unused argument to chance, which the kernel looks at here.
  const long moved_to = syscall(SYS_mremap, p, kMiB, kMiB, MREMAP_MAYMOVE | kDontUnmap, 0);
  void* moved = reinterpret_cast<void*>(moved_to);  // NOLINT
  CHECK(moved_to > 0 && moved != p);
  check_filled(static_cast<char*>(moved), kMiB, 15);
  check_zeros(p, kMiB);
  fill(p, kMiB, 16);
  check_filled(static_cast<char*>(moved), kMiB, 15);
  CHECK(munmap(p, kMiB) == 0 && munmap(moved, kMiB) == 0);
}

void bad_pointers() {
  char* p = map(kMiB);
  auto* bad = reinterpret_cast<unsigned char*>(0x10);  // NOLINT
  CHECK(fails_with(EFAULT, [&] { return mincore(p, kMiB, bad); }));
  char* unreadable = map(kMiB, PROT_NONE);
  CHECK(fails_with(EFAULT,
                   [&] { return mincore(p, kMiB, reinterpret_cast<unsigned char*>(unreadable)); }));
  constexpr long kSize = 88;
  CHECK(fails_with(EFAULT, [&] { return syscall(SYS_clone3, bad, kSize); }));
  CHECK(fails_with(EFAULT, [&] { return syscall(SYS_clone3, unreadable, kSize); }));
  CHECK(munmap(unreadable, kMiB) == 0);
  CHECK(fails_with(EFAULT, [&] { return syscall(SYS_clone3, unreadable, kSize); }));
  CHECK(munmap(p, kMiB) == 0);
}

double cpu_seconds() {
  timespec now{};
  CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// A terabyte of which a thousand pages are used. Page by page each of these calls takes minutes.
void sparse() {
  constexpr std::size_t kAll = std::size_t{1} << 40;
  constexpr std::size_t kStep = std::size_t{1} << 30;
  char* p = map(kAll, kRw, MAP_NORESERVE);
  const double start = cpu_seconds();
  for (std::size_t i = 0; i < kAll; i += kStep) p[i] = 17;
  CHECK(madvise(p, kAll, MADV_DONTDUMP) == 0);
  CHECK(madvise(p, kAll, MADV_NORMAL) == 0);
  CHECK(madvise(p, kAll, MADV_COLD) == 0);
  CHECK(mprotect(p, kAll, PROT_READ) == 0);
  CHECK(madvise(p, kAll / 2, MADV_DONTNEED) == 0);
  CHECK(munlock(p, kAll) == 0);
  CHECK(msync(p, kAll, MS_ASYNC) == 0);
  for (std::size_t i = 0; i < kAll; i += kStep) CHECK(p[i] == (i < kAll / 2 ? 0 : 17));
  CHECK(munmap(p + kStep, kStep) == 0);
  CHECK(fails_with(ENOMEM, [&] { return madvise(p, kAll, MADV_DONTNEED); }));
  CHECK(p[kAll - kStep] == 0);
  CHECK(munmap(p, kAll) == 0);
  CHECK(cpu_seconds() - start < 10);
}

// Stacks with a guard page each: two of the kernel's mappings for each, of 65,530.
void guarded_stacks(std::size_t count) {
  constexpr std::size_t kStack = std::size_t{256} << 10;
  std::vector<char*> stacks;
  for (std::size_t i = 0; i < count; ++i) {
    char* stack = map(kStack, PROT_NONE, MAP_NORESERVE);
    CHECK(mprotect(stack + kPage, kStack - kPage, kRw) == 0);
    stamp(stack + kStack - kPage, 18, i);
    stacks.push_back(stack);
  }
  for (std::size_t i = 0; i < count; ++i) check_stamp(stacks[i] + kStack - kPage, 18, i);
  CHECK(code_of_touch(stacks[count / 2]) == SEGV_ACCERR);
  for (char* stack : stacks) CHECK(munmap(stack, kStack) == 0);
}

// Whoever locks all that /proc/self/maps lists must not make what is not the program's resident: as
// much as the program has itself, and a little.
void every_line_locked() {
  std::vector<std::pair<char*, std::size_t>> lines;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    CHECK(std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2);
    lines.emplace_back(reinterpret_cast<char*>(begin), end - begin);
  }
  std::size_t locked = 0;
  for (const auto& [at, bytes] : lines) locked += mlock(at, bytes) == 0 ? 1 : 0;
  CHECK(locked > 10);
  rusage use{};
  CHECK(getrusage(RUSAGE_SELF, &use) == 0);
  CHECK(use.ru_maxrss < 512 << 10);
  for (const auto& [at, bytes] : lines) (void)munlock(at, bytes);
}

}  // namespace

int main(int argc, char** argv) {
  freed_places();
  others_in_ours(argv[0]);
  promises_for_children();
  advice();
  moves();
  bad_pointers();
  every_line_locked();
  sparse();
  guarded_stacks(argument(argc, argv, 1, 20000));
  std::puts("OK address_space");
  return 0;
}
