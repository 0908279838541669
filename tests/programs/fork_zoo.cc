// fork_zoo [MIB] [ROUNDS]: children made in every way see exactly what the parent had, while other
// threads fault, with a hundred FILEs whose buffers have long been pushed out, and stay apart
// from the parent afterwards.
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kFiles = 100;

class Pages {
 public:
  Pages(std::size_t bytes, std::uint64_t owner) : count_(bytes / kPage), owner_(owner) {
    memory_ = static_cast<char*>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(memory_ != MAP_FAILED);
    stamp_all(0);
  }
  void stamp_all(std::uint64_t version) {
    for (std::size_t i = 0; i < count_; ++i) stamp(memory_ + i * kPage, owner_ + i, version);
    version_ = version;
  }
  void check_all() const {
    for (std::size_t i = 0; i < count_; ++i) check_stamp(memory_ + i * kPage, owner_ + i, version_);
  }
  void check_some(std::uint64_t random) const {
    for (int k = 0; k < 50; ++k) {
      const std::size_t i = mix(random + static_cast<unsigned>(k)) % count_;
      check_stamp(memory_ + i * kPage, owner_ + i, version_);
    }
  }

 private:
  std::size_t count_;
  std::uint64_t owner_;
  std::uint64_t version_ = 0;
  char* memory_ = nullptr;
};

void expect_success(pid_t child) {
  CHECK(child > 0);
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  if (status != 0) std::fprintf(stderr, "child %d: status %x\n", child, status);
  CHECK(status == 0);
}

// Half a buffer of each FILE is pending at a fork: the child must find the very same bytes.
class OpenFiles {
 public:
  OpenFiles() {
    for (std::size_t i = 0; i < kFiles; ++i) {
      files_[i] = tmpfile();
      CHECK(files_[i] != nullptr);
      write_to(i);
    }
  }
  void write_to(std::size_t i) {
    std::string text(700 + i, static_cast<char>('a' + i % 26));
    CHECK(std::fwrite(text.data(), 1, text.size(), files_[i]) == text.size());
    written_[i] += text.size();
  }
  void check_flushed(std::size_t i) {
    CHECK(std::fflush(files_[i]) == 0);
    std::vector<char> text(written_[i]);
    CHECK(pread(fileno(files_[i]), text.data(), text.size(), 0) ==
          static_cast<ssize_t>(text.size()));
    for (const char c : text) CHECK(c == static_cast<char>('a' + i % 26));
  }

 private:
  std::array<FILE*, kFiles> files_{};
  std::array<std::size_t, kFiles> written_{};
};

int child_body(void* pages) {
  static_cast<Pages*>(pages)->check_some(7);
  return 0;
}

std::atomic<int> prepared{0};
std::atomic<int> child_handlers{0};

}  // namespace

int main(int argc, char** argv) {
  const std::size_t mib = argument(argc, argv, 1, 128);
  const std::size_t rounds = argument(argc, argv, 2, 30);
  Pages pages(mib << 19, 1);
  OpenFiles files;
  pthread_atfork([] { ++prepared; }, nullptr, [] { ++child_handlers; });

  std::atomic<bool> stop{false};
  std::vector<std::thread> others;
  for (unsigned t = 0; t < 2; ++t) {
    others.emplace_back([&stop, t, mib] {
      Pages mine(mib << 18, 1000000 * (t + 1));
      for (std::uint64_t round = 1; !stop; ++round) {
        mine.check_some(round);
        std::vector<char> heap(100000 + round % 5000, 'h');
        for (const char c : heap) CHECK(c == 'h');
      }
      mine.check_all();
    });
  }

  for (std::size_t round = 0; round < rounds; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      // libc first: its buffers, its heap, its threads; then every page.
      for (std::size_t i = 0; i < kFiles; i += 1 + round % 3) files.check_flushed(i);
      std::thread([] { std::vector<int> v(100000, 1); }).join();
      pages.check_all();
      if (round % 4 == 0) {
        pages.stamp_all(round + 1);
        pages.check_all();
        const pid_t grandchild = fork();
        if (grandchild == 0) {
          pages.check_all();
          _exit(0);
        }
        expect_success(grandchild);
      }
      _exit(child_handlers.load() == 1 ? 0 : 1);
    }
    // The parent goes on at once; what it does must not reach the child.
    pages.check_some(round);
    expect_success(child);
    pages.check_all();
    CHECK(prepared.load() == static_cast<int>(round) + 1);
  }

  // The other ways.
  pid_t child = _Fork();
  if (child == 0) {
    pages.check_some(1);
    _exit(0);
  }
  expect_success(child);
  child = static_cast<pid_t>(syscall(SYS_fork));
  if (child == 0) {
    pages.check_some(2);
    _exit(0);
  }
  expect_success(child);
  child = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, nullptr));
  if (child == 0) {
    pages.check_some(3);
    _exit(0);
  }
  expect_success(child);
  struct {
    std::uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
  } clone3{};
  clone3.exit_signal = SIGCHLD;
  child = static_cast<pid_t>(syscall(SYS_clone3, &clone3, sizeof clone3));
  if (child == 0) {
    pages.check_some(4);
    _exit(0);
  }
  expect_success(child);
  std::vector<char> stack(1 << 20);
  child = clone(child_body, stack.data() + stack.size(), SIGCHLD, &pages);
  expect_success(child);
  int master = -1;
  child = forkpty(&master, nullptr, nullptr, nullptr);
  if (child == 0) {
    pages.check_some(5);
    _exit(0);
  }
  expect_success(child);
  close(master);
  child = fork();
  if (child == 0) {
    CHECK(daemon(1, 1) == 0);
    pages.check_some(6);
    _exit(0);
  }
  expect_success(child);

  // Two threads that fork at once.
  std::vector<std::thread> forkers;
  for (int t = 0; t < 2; ++t) {
    forkers.emplace_back([&pages, rounds] {
      for (std::size_t i = 0; i < rounds; ++i) {
        const pid_t one = fork();
        if (one == 0) {
          pages.check_some(i);
          _exit(0);
        }
        expect_success(one);
      }
    });
  }
  for (auto& t : forkers) t.join();
  stop = true;
  for (auto& t : others) t.join();
  for (std::size_t i = 0; i < kFiles; ++i) files.check_flushed(i);
  pages.check_all();
  std::puts("OK fork_zoo");
}
