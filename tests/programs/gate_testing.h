// For the programs that try the system call gate: memory whose pages leave all the time, and checks
// that are counted instead of ending the program at the first that fails.
#pragma once

#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "check.h"

namespace gate_testing {

inline std::atomic<std::size_t> checks{0};
inline std::atomic<std::size_t> wrong{0};

inline void note(bool is_right, const char* what, const char* file, int line) {
  const int error = errno;
  checks.fetch_add(1, std::memory_order_relaxed);
  if (is_right) return;
  constexpr std::size_t kMostTold = 20;
  if (wrong.fetch_add(1) < kMostTold)
    std::fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", file, line, what, error,
                 std::strerror(error));
}

// Goes on if it does not hold; true if it does.
#define EXPECT(condition)                                         \
  ([&](bool is_right) {                                           \
    gate_testing::note(is_right, #condition, __FILE__, __LINE__); \
    return is_right;                                              \
  }(static_cast<bool>(condition)))

// The status to end with, after a line that is the same whoever serves the faults.
inline int result(const char* name) {
  if (wrong != 0)
    std::fprintf(stderr, "%s: %zu of %zu checks wrong\n", name, wrong.load(), checks.load());
  std::printf("%s: done\n", name);
  return wrong == 0 ? 0 : 1;
}

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(mix(seed + 1)) {}
  std::uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ULL); }
  // 0 to bound - 1
  std::size_t below(std::size_t bound) { return next() % bound; }
  std::size_t between(std::size_t low, std::size_t high) { return low + below(high - low + 1); }
  bool one_in(std::size_t n) { return below(n) == 0; }

 private:
  std::uint64_t state_;
};

inline char* map(std::size_t bytes, int protection = PROT_READ | PROT_WRITE) {
  void* const p = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return static_cast<char*>(p);
}

inline void page_out(const void* p, std::size_t bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(p) & ~(kPage - 1);
  const auto end = (reinterpret_cast<std::uintptr_t>(p) + bytes + kPage - 1) & ~(kPage - 1);
  (void)madvise(reinterpret_cast<void*>(first), end - first, MADV_PAGEOUT);
}

// As long as it lives, a thread of its own, which takes no signals, pages a range out again and again.
class Evictor {
 public:
  Evictor(char* at, std::size_t bytes, std::chrono::milliseconds pause = {}) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    thread_ = std::thread([this, at, bytes, pause] {
      while (!stop_.load(std::memory_order_relaxed)) {
        page_out(at, bytes);
        if (pause.count() != 0) std::this_thread::sleep_for(pause);
      }
    });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~Evictor() {
    stop_ = true;
    thread_.join();
  }
  Evictor(const Evictor&) = delete;
  Evictor& operator=(const Evictor&) = delete;

 private:
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace gate_testing
