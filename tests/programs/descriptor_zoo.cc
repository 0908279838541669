// descriptor_zoo [MIB]: a daemon closes whatever descriptors it may have, in every way there is, puts
// files of its own under all numbers it can name, uses up all that are left, and finds its data.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <climits>
#include <vector>

#include "check.h"

namespace {

char* memory = nullptr;
std::size_t pages = 0;

void stamp_all(std::uint64_t version) {
  for (std::size_t i = 0; i < pages; ++i) stamp(memory + i * kPage, i, version);
}
void check_all(std::uint64_t version) {
  for (std::size_t i = 0; i < pages; ++i) check_stamp(memory + i * kPage, i, version);
}

void close_by_loop() {
  for (int fd = 3; fd < 70000; ++fd) close(fd);
}
void close_by_syscall() {
  for (long fd = 3; fd < 70000; ++fd) syscall(SYS_close, fd);
}
void close_by_range() { CHECK(close_range(3, UINT_MAX, 0) == 0); }
void close_by_raw_range() { CHECK(syscall(436, 3, ~0U, 0) == 0); }
void close_from() { closefrom(3); }

// The program's limit bounds what it can name; whatever is there besides is not to be had.
void take_every_number() {
  struct rlimit limit {};
  CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const int end = static_cast<int>(limit.rlim_cur < 2000 ? limit.rlim_cur : 2000);
  const int null = open("/dev/null", O_RDWR);
  CHECK(null >= 0);
  for (int fd = 3; fd < end; ++fd)
    if (fd != null) (void)dup2(null, fd);
  for (int fd = 3; fd < end; ++fd)
    if (fd != null) (void)dup3(null, fd, O_CLOEXEC);
}

void use_up_all() {
  while (open("/dev/null", O_RDWR) >= 0) {
  }
  CHECK(errno == EMFILE);
}

// A child's memory is set up though there is no descriptor left; or there is no child.
void fork_with_none_left() {
  const pid_t child = fork();
  if (child == 0) {
    check_all(6);
    stamp_all(7);
    check_all(7);
    _exit(0);
  }
  if (child == -1) {
    CHECK(errno == EMFILE || errno == EAGAIN);
    return;
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t mib = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 32;
  pages = (mib << 20) / kPage;
  memory = static_cast<char*>(
      mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(memory != MAP_FAILED);
  stamp_all(0);
  void (*const ways[])() = {close_by_loop,      close_by_syscall, close_by_range,
                            close_by_raw_range, close_from,       take_every_number};
  std::uint64_t version = 0;
  for (void (*way)() : ways) {
    way();
    check_all(version);
    stamp_all(++version);
  }
  use_up_all();
  fork_with_none_left();
  check_all(version);
  std::puts("OK descriptor_zoo");
  return 0;
}
