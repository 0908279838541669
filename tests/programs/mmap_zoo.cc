// mmap_zoo [MIB]: every kind of mapping and what can be done to it, each with the kernel's answer.
// MIB of ballast is rewritten all the time by another thread, so that pages come and go meanwhile.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;

char* map(std::size_t bytes, int prot = kReadWrite, int flags = kAnonymous, void* at = nullptr,
          int fd = -1) {
  void* p = mmap(at, bytes, prot, flags, fd, 0);
  CHECK(p != MAP_FAILED);
  return static_cast<char*>(p);
}

void stamp_all(char* p, std::size_t bytes, std::uint64_t owner) {
  for (std::size_t i = 0; i < bytes / kPage; ++i) stamp(p + i * kPage, owner, i);
}
void check_all(const char* p, std::size_t bytes, std::uint64_t owner, std::size_t from = 0) {
  for (std::size_t i = 0; i < bytes / kPage; ++i) check_stamp(p + i * kPage, owner, from + i);
}
bool is_zero(const char* p, std::size_t bytes) {
  return std::all_of(p, p + bytes, [](char c) { return c == 0; });
}

int temporary_file(std::size_t bytes) {
  char name[] = "/tmp/mmap_zoo.XXXXXX";
  const int fd = mkstemp(name);
  CHECK(fd >= 0);
  unlink(name);
  std::vector<char> page(kPage, 'f');
  for (std::size_t done = 0; done < bytes; done += kPage)
    CHECK(write(fd, page.data(), kPage) == static_cast<ssize_t>(kPage));
  return fd;
}

void reserve_then_commit() {
  const std::size_t all = 64 * kMiB;
  char* p = map(all, PROT_NONE, kAnonymous | MAP_NORESERVE);
  CHECK(mprotect(p + 8 * kMiB, 4 * kMiB, kReadWrite) == 0);
  CHECK(is_zero(p + 8 * kMiB, kMiB));
  stamp_all(p + 8 * kMiB, 4 * kMiB, 1);
  // Committed by MAP_FIXED, as runtimes do.
  CHECK(map(4 * kMiB, kReadWrite, kAnonymous | MAP_FIXED, p + 32 * kMiB) == p + 32 * kMiB);
  stamp_all(p + 32 * kMiB, 4 * kMiB, 2);
  // Decommitted by MAP_FIXED, and committed again: zeros.
  CHECK(map(2 * kMiB, PROT_NONE, kAnonymous | MAP_FIXED | MAP_NORESERVE, p + 8 * kMiB) ==
        p + 8 * kMiB);
  CHECK(mprotect(p + 8 * kMiB, 2 * kMiB, kReadWrite) == 0);
  CHECK(is_zero(p + 8 * kMiB, 2 * kMiB));
  check_all(p + 10 * kMiB, 2 * kMiB, 1, 2 * kMiB / kPage);
  check_all(p + 32 * kMiB, 4 * kMiB, 2);
  CHECK(munmap(p, all) == 0);
}

void giant_reservation() {
  const std::size_t all = std::size_t{64} << 30;
  char* p = map(all, PROT_NONE, kAnonymous | MAP_NORESERVE);
  for (std::size_t at = 0; at < all; at += all / 8) {
    CHECK(mprotect(p + at, kMiB, kReadWrite) == 0);
    stamp_all(p + at, kMiB, at);
  }
  for (std::size_t at = 0; at < all; at += all / 8) check_all(p + at, kMiB, at);
  CHECK(munmap(p, all) == 0);
}

void partial_unmap() {
  char* p = map(16 * kMiB);
  stamp_all(p, 16 * kMiB, 3);
  CHECK(munmap(p + 4 * kMiB + kPage, 2 * kMiB) == 0);
  check_all(p, 4 * kMiB + kPage, 3);
  const std::size_t after = 6 * kMiB + kPage;
  check_all(p + after, 16 * kMiB - after, 3, after / kPage);
  // A hole: madvise does the rest, and says ENOMEM; mprotect stops.
  errno = 0;
  CHECK(madvise(p, 8 * kMiB, MADV_DONTNEED) == -1 && errno == ENOMEM);
  CHECK(is_zero(p, kMiB) && is_zero(p + 7 * kMiB, kMiB));
  check_all(p + 8 * kMiB, 8 * kMiB, 3, 8 * kMiB / kPage);
  CHECK(mprotect(p, 16 * kMiB, PROT_READ) == -1 && errno == ENOMEM);
  unsigned char vec[16];
  CHECK(mincore(p + 4 * kMiB, 16 * kPage, vec) == -1 && errno == ENOMEM);
  CHECK(munmap(p, 16 * kMiB) == 0);
  CHECK(munmap(p, 16 * kMiB) == 0);  // nothing there is no error
}

void remaps() {
  char* p = map(4 * kMiB);
  stamp_all(p, 4 * kMiB, 4);
  p = static_cast<char*>(mremap(p, 4 * kMiB, 24 * kMiB, MREMAP_MAYMOVE));
  CHECK(p != MAP_FAILED);
  check_all(p, 4 * kMiB, 4);
  CHECK(is_zero(p + 4 * kMiB, 20 * kMiB));
  stamp_all(p, 24 * kMiB, 5);
  CHECK(mremap(p, 24 * kMiB, 6 * kMiB, 0) == p);
  check_all(p, 6 * kMiB, 5);
  char* target = map(8 * kMiB);
  stamp_all(target, 8 * kMiB, 6);
  void* moved = mremap(p, 6 * kMiB, 6 * kMiB, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  CHECK(moved == target);
  check_all(target, 6 * kMiB, 5);
  check_all(target + 6 * kMiB, 2 * kMiB, 6, 6 * kMiB / kPage);
  CHECK(mremap(target + 1, kPage, kPage, 0) == MAP_FAILED && errno == EINVAL);
  CHECK(munmap(target, 8 * kMiB) == 0);
  // Small mappings that grow large.
  char* small = map(kPage);
  stamp(small, 7, 0);
  small = static_cast<char*>(mremap(small, kPage, 8 * kMiB, MREMAP_MAYMOVE));
  CHECK(small != MAP_FAILED);
  check_stamp(small, 7, 0);
  CHECK(is_zero(small + kPage, 8 * kMiB - kPage));
  CHECK(munmap(small, 8 * kMiB) == 0);
}

void files_and_shared_over_anonymous() {
  const int fd = temporary_file(2 * kMiB);
  char* p = map(16 * kMiB);
  stamp_all(p, 16 * kMiB, 8);
  // A bad descriptor changes nothing.
  CHECK(mmap(p, kMiB, PROT_READ, MAP_PRIVATE | MAP_FIXED, 9999, 0) == MAP_FAILED);
  check_all(p, 16 * kMiB, 8);
  map(2 * kMiB, PROT_READ, MAP_PRIVATE | MAP_FIXED, p + 4 * kMiB, fd);
  CHECK(p[4 * kMiB] == 'f' && p[6 * kMiB - 1] == 'f');
  char* shared = map(kMiB, kReadWrite, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, p + 8 * kMiB);
  CHECK(is_zero(shared, kMiB));
  std::memset(shared, 's', kMiB);
  check_all(p, 4 * kMiB, 8);
  check_all(p + 6 * kMiB, 2 * kMiB, 8, 6 * kMiB / kPage);
  check_all(p + 9 * kMiB, 7 * kMiB, 8, 9 * kMiB / kPage);
  // Calls that span both kinds.
  CHECK(mprotect(p, 16 * kMiB, PROT_READ) == 0);
  CHECK(msync(p, 16 * kMiB, MS_SYNC) == 0);
  std::vector<unsigned char> vec(16 * kMiB / kPage);
  CHECK(mincore(p, 16 * kMiB, vec.data()) == 0);
  CHECK(mprotect(p + 6 * kMiB, 2 * kMiB, kReadWrite) == 0);
  stamp_all(p + 6 * kMiB, 2 * kMiB, 9);
  check_all(p + 6 * kMiB, 2 * kMiB, 9);
  // Anonymous again.
  CHECK(map(2 * kMiB, kReadWrite, kAnonymous | MAP_FIXED, p + 4 * kMiB) == p + 4 * kMiB);
  CHECK(is_zero(p + 4 * kMiB, 2 * kMiB));
  stamp_all(p + 4 * kMiB, 2 * kMiB, 10);
  check_all(p + 4 * kMiB, 2 * kMiB, 10);
  CHECK(munmap(p, 16 * kMiB) == 0);
  close(fd);
}

void locks_and_residency() {
  char* p = map(4 * kMiB);
  stamp_all(p, 4 * kMiB, 11);
  CHECK(mlock(p + 100, kMiB) == 0);
  std::vector<unsigned char> vec(kMiB / kPage);
  CHECK(mincore(p, kMiB, vec.data()) == 0);
  for (const unsigned char v : vec) CHECK((v & 1) == 1);
  CHECK(munlock(p + 100, kMiB) == 0);
  check_all(p, 4 * kMiB, 11);
  char* locked = map(kMiB, kReadWrite, kAnonymous | MAP_LOCKED);
  CHECK(is_zero(locked, kMiB));
  CHECK(munmap(locked, kMiB) == 0);
  CHECK(munmap(p, 4 * kMiB) == 0);
}

// What takes memory away ends at the first locked page; the pages behind it stay as they were.
void locked_advice() {
  for (const int advice : {MADV_DONTNEED, MADV_FREE, MADV_COLD, MADV_PAGEOUT}) {
    char* p = map(4 * kMiB);
    stamp_all(p, 4 * kMiB, 16);
    CHECK(mlock(p + 2 * kMiB, kPage) == 0);
    errno = 0;
    CHECK(madvise(p, 4 * kMiB, advice) == -1 && errno == EINVAL);
    check_all(p + 2 * kMiB, 2 * kMiB, 16, 2 * kMiB / kPage);
    if (advice == MADV_DONTNEED) CHECK(is_zero(p, 2 * kMiB));
    // A hole in front of it is not what is told.
    CHECK(munmap(p + kMiB, kPage) == 0);
    errno = 0;
    CHECK(madvise(p, 4 * kMiB, advice) == -1 && errno == EINVAL);
    check_all(p + 2 * kMiB, 2 * kMiB, 16, 2 * kMiB / kPage);
    CHECK(munmap(p, 4 * kMiB) == 0);
  }
}

void advice() {
  char* p = map(8 * kMiB);
  stamp_all(p, 8 * kMiB, 12);
  CHECK(madvise(p, 8 * kMiB, MADV_COLD) == 0);
  CHECK(madvise(p, 8 * kMiB, MADV_PAGEOUT) == 0);
  check_all(p, 8 * kMiB, 12);
  CHECK(madvise(p, 8 * kMiB, MADV_WILLNEED) == 0);
  // More than there may be: each page was there at its time.
  char* large = map(64 * kMiB);
  stamp_all(large, kMiB, 15);
  CHECK(madvise(large, 64 * kMiB, MADV_POPULATE_WRITE) == 0);
  CHECK(madvise(large, 64 * kMiB, MADV_POPULATE_READ) == 0);
  check_all(large, kMiB, 15);
  CHECK(is_zero(large + kMiB, 63 * kMiB));
  CHECK(munmap(large + kMiB, kPage) == 0);
  CHECK(madvise(large, 64 * kMiB, MADV_POPULATE_WRITE) == -1 && errno == ENOMEM);
  CHECK(munmap(large, 64 * kMiB) == 0);
  CHECK(madvise(p, 8 * kMiB, MADV_HUGEPAGE) == 0);
  CHECK(posix_madvise(p, 8 * kMiB, POSIX_MADV_DONTNEED) == 0);
  check_all(p, 8 * kMiB, 12);
  CHECK(madvise(p + 1, kPage, MADV_DONTNEED) == -1 && errno == EINVAL);
  CHECK(madvise(p, kPage, 9999) == -1 && errno == EINVAL);
  CHECK(madvise(p, 4 * kMiB, MADV_FREE) == 0);
  stamp_all(p, 4 * kMiB, 13);
  check_all(p, 4 * kMiB, 13);
  check_all(p + 4 * kMiB, 4 * kMiB, 12, 4 * kMiB / kPage);
  CHECK(syscall(SYS_madvise, p, 8 * kMiB, MADV_DONTNEED) == 0);
  CHECK(is_zero(p, 8 * kMiB));
  CHECK(munmap(p, 8 * kMiB) == 0);
}

// A page of droppable memory holds what was stored, or zeros; in a child zeros.
void droppable() {
  constexpr int kDroppable = 8 | MAP_ANONYMOUS;  // MAP_DROPPABLE of Linux 6.11
  void* got = mmap(nullptr, 8 * kMiB, kReadWrite, kDroppable, -1, 0);
  if (got == MAP_FAILED) return;
  char* p = static_cast<char*>(got);
  stamp_all(p, 8 * kMiB, 14);
  const pid_t child = fork();
  if (child == 0) _exit(is_zero(p, 8 * kMiB) ? 0 : 1);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  (void)madvise(p, 4 * kMiB, MADV_PAGEOUT);
  for (std::size_t at = 0; at < 8 * kMiB; at += kPage)
    if (!is_zero(p + at, kPage)) check_stamp(p + at, 14, at / kPage);
  stamp_all(p, kPage, 15);
  // To lock it is allowed, and changes nothing.
  CHECK(mlock(p, 8 * kMiB) == 0);
  CHECK(madvise(p, 8 * kMiB, MADV_FREE) == 0);
  CHECK(munmap(p, 8 * kMiB) == 0);
}

// What is mapped over a part of it is no longer droppable: it stays, in a child, too.
void over_droppable() {
  constexpr int kDroppable = 8 | MAP_ANONYMOUS;
  void* got = mmap(nullptr, 8 * kMiB, kReadWrite, kDroppable, -1, 0);
  if (got == MAP_FAILED) return;
  char* p = static_cast<char*>(got);
  stamp_all(p, 8 * kMiB, 16);
  CHECK(mmap(p + 2 * kMiB, kMiB, kReadWrite, kAnonymous | MAP_FIXED, -1, 0) == p + 2 * kMiB);
  CHECK(is_zero(p + 2 * kMiB, kMiB));
  stamp_all(p + 2 * kMiB, kMiB, 17);
  const pid_t child = fork();
  if (child == 0) {
    check_all(p + 2 * kMiB, kMiB, 17);
    _exit(is_zero(p, 2 * kMiB) ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  (void)madvise(p, 8 * kMiB, MADV_PAGEOUT);
  check_all(p + 2 * kMiB, kMiB, 17);
  CHECK(munmap(p, 8 * kMiB) == 0);
}

void refusals() {
  CHECK(mmap(nullptr, 0, kReadWrite, kAnonymous, -1, 0) == MAP_FAILED && errno == EINVAL);
  CHECK(mmap(nullptr, SIZE_MAX - kPage, kReadWrite, kAnonymous, -1, 0) == MAP_FAILED &&
        errno == ENOMEM);
  CHECK(munmap(nullptr, 0) == -1 && errno == EINVAL);
  char* p = map(kMiB);
  CHECK(munmap(p + 1, kPage) == -1 && errno == EINVAL);
  CHECK(mprotect(p + 1, kPage, PROT_READ) == -1 && errno == EINVAL);
  CHECK(msync(p, kMiB, MS_SYNC | MS_ASYNC) == -1 && errno == EINVAL);
  CHECK(munmap(p, kMiB) == 0);
}

void many_small_and_large() {
  std::vector<std::pair<char*, std::size_t>> maps;
  std::uint64_t random = 1;
  for (int i = 0; i < 2000; ++i) {
    random = mix(random + static_cast<unsigned>(i));
    if (maps.size() > 50 || (random % 3 == 0 && !maps.empty())) {
      const std::size_t at = random % maps.size();
      const auto [p, bytes] = maps[at];
      check_stamp(p, bytes, 1);
      check_stamp(p + bytes - kPage, bytes, 2);
      CHECK(munmap(p, bytes) == 0);
      maps.erase(maps.begin() + static_cast<std::ptrdiff_t>(at));
    } else {
      const std::size_t bytes = kPage * (2 + (random >> 32) % 500);
      char* p = map(bytes);
      CHECK(is_zero(p, kPage) && is_zero(p + bytes - kPage, kPage));
      stamp(p, bytes, 1);
      stamp(p + bytes - kPage, bytes, 2);
      maps.emplace_back(p, bytes);
    }
  }
  for (const auto& [p, bytes] : maps) CHECK(munmap(p, bytes) == 0);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t ballast = argument(argc, argv, 1, 64) * kMiB;
  char* pressure = map(ballast);
  std::atomic<bool> stop{false};
  std::thread presser([&] {
    for (std::uint64_t round = 0; !stop; ++round)
      for (std::size_t i = 0; i < ballast / kPage && !stop; ++i) {
        char* page = pressure + i * kPage;
        if (round != 0) check_stamp(page, i, round - 1);
        stamp(page, i, round);
      }
  });
  for (int round = 0; round < 3; ++round) {
    reserve_then_commit();
    giant_reservation();
    partial_unmap();
    remaps();
    files_and_shared_over_anonymous();
    locks_and_residency();
    advice();
    locked_advice();
    droppable();
    over_droppable();
    refusals();
    many_small_and_large();
  }
  stop = true;
  presser.join();
  std::puts("OK mmap_zoo");
}
