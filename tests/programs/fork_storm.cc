// fork_storm [FORKS] [THREADS]: children of a busy threaded program fork on, and nobody waits for a
// thread that only the parent has. Children come by fork and by clone() on a stack from malloc;
// each checks what it inherited, forks in its turn, and ends. A child that takes longer than
// anything here may take hangs.
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kBytes = std::size_t{1} << 17;
constexpr std::size_t kStackBytes = std::size_t{64} << 10;
constexpr int kPatience = 20;  // seconds

std::atomic<bool> stop{false};
std::vector<char> inherited;

void* keep_busy(void*) {
  while (!stop.load()) {
    auto* p = static_cast<char*>(
        mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(p != MAP_FAILED);
    p[0] = 1;
    (void)madvise(p, kBytes, MADV_COLD);
    (void)munmap(p, kBytes);
  }
  return nullptr;
}

void expect_end(pid_t child, const char* what) {
  CHECK(child > 0);
  int status = 0;
  timespec begin{};
  clock_gettime(CLOCK_MONOTONIC, &begin);
  for (;;) {
    const pid_t done = waitpid(child, &status, WNOHANG);
    if (done == child) break;
    CHECK(done == 0);
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec - begin.tv_sec > kPatience) {
      std::fprintf(stderr, "a child by %s hangs\n", what);
      kill(child, SIGKILL);
      _exit(1);
    }
    usleep(200);
  }
  if (status != 0) std::fprintf(stderr, "a child by %s: status %x\n", what, status);
  CHECK(status == 0);
}

void check_inherited() {
  for (std::size_t i = 0; i < inherited.size() / kPage; ++i)
    check_stamp(inherited.data() + i * kPage, i, 1);
}

// What a child does: it looks, and forks in its turn.
int child(void* /*unused*/) {
  check_inherited();
  const pid_t grandchild = fork();
  if (grandchild == 0) {
    check_inherited();
    _exit(0);
  }
  expect_end(grandchild, "fork of a child");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int forks = argc > 1 ? std::atoi(argv[1]) : 500;
  const int count = argc > 2 ? std::atoi(argv[2]) : 4;
  inherited.resize(16 * kPage);
  for (std::size_t i = 0; i < 16; ++i) stamp(inherited.data() + i * kPage, i, 1);
  std::vector<pthread_t> threads(static_cast<std::size_t>(count));
  for (pthread_t& t : threads) CHECK(pthread_create(&t, nullptr, keep_busy, nullptr) == 0);
  std::vector<char> stack(kStackBytes);
  for (int i = 0; i < forks; ++i) {
    const pid_t forked = fork();
    if (forked == 0) _exit(child(nullptr));
    expect_end(forked, "fork");
    // Pushed out, so that the clone finds it missing as often as not.
    (void)madvise(stack.data() + kPage, kStackBytes - 2 * kPage, MADV_PAGEOUT);
    expect_end(clone(child, stack.data() + kStackBytes, SIGCHLD, nullptr), "clone");
  }
  stop.store(true);
  for (const pthread_t t : threads) CHECK(pthread_join(t, nullptr) == 0);
  std::printf("%d forks\n", forks);
  return 0;
}
