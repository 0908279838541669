// memory_kinds [KIND...]: uses of memory that conformance suites make, each with the kernel's answer:
// threads and children on stacks of all kinds, stacks that grow, memory far larger than a machine's.
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr int kAnon = MAP_PRIVATE | MAP_ANONYMOUS;
constexpr int kRw = PROT_READ | PROT_WRITE;
constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kTiB = std::size_t{1} << 40;

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
void expect_success(pid_t child) {
  CHECK(child > 0);
  int status = 0;
  CHECK(waitpid(child, &status, __WALL) == child);
  if (status != 0) std::fprintf(stderr, "child: status %x\n", static_cast<unsigned>(status));
  CHECK(status == 0);
}
template <typename Body>
void in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    _exit(0);
  }
  expect_success(child);
}

// A thread without libc, which sets a word and ends; its end clears another and wakes who waits.
void raw_thread_on_a_malloc_stack() {
  constexpr int kFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                         CLONE_SYSVSEM | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID;
  for (std::uint64_t round = 0; round < 4; ++round) {
    struct Shared {
      std::atomic<int> said{0};
      std::atomic<int> tid{-1};
    };
    auto* shared = new Shared;
    constexpr std::size_t kStack = 256 << 10;
    auto* stack = static_cast<char*>(std::malloc(kStack));
    char* ballast = map(24 * kMiB);
    fill(ballast, 24 * kMiB, round);  // what was on the stack is out by now
    const auto body = [](void* p) {
      static_cast<Shared*>(p)->said.store(7);
      return 0;
    };
    CHECK(clone(body, stack + kStack, kFlags, shared, nullptr, nullptr, &shared->tid) > 0);
    for (int tid = 0; (tid = shared->tid.load()) != 0;)
      syscall(SYS_futex, &shared->tid, 0 /* FUTEX_WAIT */, tid, nullptr);
    CHECK(shared->said.load() == 7);
    check_filled(ballast, 24 * kMiB, round);
    CHECK(munmap(ballast, 24 * kMiB) == 0);
    std::free(stack);
    delete shared;
  }
}

// clone3 with its arguments in memory that is out, and a word to be written in the child.
void clone3_with_own_arguments() {
  for (std::uint64_t round = 0; round < 10; ++round) {
    auto* page = map(64 << 10);
    auto* arguments = reinterpret_cast<clone_args*>(page);
    auto* tid = reinterpret_cast<int*>(page + kPage);
    *arguments = {};
    arguments->flags = CLONE_CHILD_SETTID | CLONE_PARENT_SETTID;
    arguments->exit_signal = SIGCHLD;
    arguments->child_tid = reinterpret_cast<std::uint64_t>(tid);
    arguments->parent_tid = reinterpret_cast<std::uint64_t>(tid + 1);
    if (round % 2 == 0) CHECK(madvise(page, 64 << 10, MADV_PAGEOUT) == 0);
    const auto child = static_cast<pid_t>(syscall(SYS_clone3, arguments, sizeof *arguments));
    if (child == 0) _exit(*tid == syscall(SYS_gettid) ? 0 : 1);
    expect_success(child);
    CHECK(tid[1] == child && tid[0] == 0);
    CHECK(munmap(page, 64 << 10) == 0);
  }
}

__attribute__((noinline)) int use_stack(int depth) {
  volatile char frame[3000];
  frame[0] = static_cast<char>(depth);
  frame[2999] = 1;
  const int deeper = depth == 0 ? 0 : use_stack(depth - 1);
  return deeper + frame[0] - static_cast<char>(depth) + frame[2999];
}

// A stack of one page that grows as it is used, as the whole stack of a child.
void stacks_that_grow() {
  constexpr std::size_t kRoom = 8 * kMiB;
  char* room = map(kRoom, PROT_NONE, MAP_NORESERVE);
  CHECK(munmap(room, kRoom) == 0);
  char* top = room + kRoom;
  char* stack = map(16 * kPage, kRw, MAP_GROWSDOWN | MAP_FIXED | MAP_STACK, top - 16 * kPage);
  std::memset(stack, 1, 16 * kPage);
  in_child([top] {
    for (std::size_t at = 16 * kPage; at < kMiB; at += kPage / 2) top[-static_cast<long>(at)] = 3;
    for (std::size_t at = 16 * kPage; at < kMiB; at += kPage / 2)
      CHECK(top[-static_cast<long>(at)] == 3);
  });
  const pid_t child =
      clone([](void*) { return use_stack(300) == 301 ? 0 : 1; }, top, SIGCHLD, nullptr);
  expect_success(child);
  CHECK(munmap(top - 2 * kMiB, 2 * kMiB) == 0);
}

// Read first (the zero page), then written.
void populated_then_written() {
  char* p = map(4 * kMiB);
  CHECK(madvise(p, 4 * kMiB, MADV_POPULATE_READ) == 0);
  unsigned char vec[1024];
  CHECK(mincore(p, 4 * kMiB, vec) == 0);
  CHECK(std::all_of(vec, vec + 1024, [](unsigned char v) { return (v & 1) != 0; }));
  fill(p, 4 * kMiB, 21);
  check_filled(p, 4 * kMiB, 21);
  in_child([p] { check_filled(p, 4 * kMiB, 21); });
  CHECK(munmap(p, 4 * kMiB) == 0);
}

void huge_zeros_at_a_hint() {
  char* at = reinterpret_cast<char*>(0x600000000000);  // NOLINT
  char* p = map(8 * kMiB, kRw, 0, at);
  CHECK(madvise(p, 8 * kMiB, MADV_HUGEPAGE) == 0);
  for (std::size_t i = 0; i < 8 * kMiB; i += kPage) CHECK(p[i] == 0);
  p[4 * kMiB] = 1;
  CHECK(p[4 * kMiB + 1] == 0 && p[4 * kMiB - 1] == 0 && p[4 * kMiB] == 1);
  CHECK(munmap(p, 8 * kMiB) == 0);
}

void merged_pages() {
  char* p = map(4 * kMiB);
  for (std::size_t i = 0; i < 4 * kMiB; i += kPage) stamp(p + i, 22, 0);
  const int r = madvise(p, 4 * kMiB, MADV_MERGEABLE);
  CHECK(r == 0 || errno == EINVAL);
  for (std::size_t i = 0; i < 4 * kMiB; i += 2 * kPage) stamp(p + i, 23, 0);
  for (std::size_t i = 0; i < 4 * kMiB; i += kPage)
    check_stamp(p + i, i % (2 * kPage) == 0 ? 23 : 22, 0);
  CHECK(r != 0 || madvise(p, 4 * kMiB, MADV_UNMERGEABLE) == 0);
  CHECK(munmap(p, 4 * kMiB) == 0);
}

// Sixteen TiB, of which a little is there.
void fork_with_terabytes() {
  std::vector<char*> parts;
  for (int i = 0; i < 16; ++i) {
    parts.push_back(map(kTiB, kRw, MAP_NORESERVE));
    stamp(parts.back() + kTiB / 2, 24, static_cast<std::uint64_t>(i));
  }
  for (int round = 0; round < 5; ++round)
    in_child([&parts] {
      for (std::size_t i = 0; i < parts.size(); ++i) {
        check_stamp(parts[i] + kTiB / 2, 24, i);
        CHECK(parts[i][kTiB / 2 - kPage] == 0);
      }
    });
  for (char* part : parts) CHECK(munmap(part, kTiB) == 0);
}

// Many processes that allocate and free.
void malloc_in_many_processes() {
  std::vector<pid_t> children;
  for (std::uint64_t c = 0; c < 16; ++c) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      std::vector<std::pair<char*, std::size_t>> blocks;
      for (std::uint64_t i = 0; i < 400; ++i) {
        const std::size_t bytes = kPage + mix(c * 1000 + i) % (64 << 10);
        auto* p = static_cast<char*>(std::malloc(bytes));
        CHECK(p != nullptr);
        stamp(p, c, i);
        blocks.emplace_back(p, i);
        if (blocks.size() < 50) continue;
        check_stamp(blocks.front().first, c, blocks.front().second);
        std::free(blocks.front().first);
        blocks.erase(blocks.begin());
      }
      _exit(0);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) expect_success(child);
}

struct Kind {
  const char* name;
  void (*run)();
};
constexpr Kind kKinds[] = {{"raw_thread", raw_thread_on_a_malloc_stack},
                           {"clone3", clone3_with_own_arguments},
                           {"growing", stacks_that_grow},
                           {"populated", populated_then_written},
                           {"huge_zeros", huge_zeros_at_a_hint},
                           {"merged", merged_pages},
                           {"terabytes", fork_with_terabytes},
                           {"mallocs", malloc_in_many_processes}};

}  // namespace

int main(int argc, char** argv) {
  for (const Kind& kind : kKinds) {
    const bool is_wanted =
        argc < 2 || std::find(argv + 1, argv + argc, std::string(kind.name)) != argv + argc;
    if (!is_wanted) continue;
    kind.run();
    std::printf("OK %s\n", kind.name);
    std::fflush(stdout);
  }
}
