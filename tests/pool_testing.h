// What whole-system tests share: a pool by the C API in either fault delivery, stamped pages, and a
// look at this process's memory from outside.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "api/pool.h"
#include "buoy/buoy.h"
#include "stamps_testing.h"

namespace buoy::testing {

enum class Delivery : int { kSignal = BUOY_FAULTS_SIGNAL, kThread = BUOY_FAULTS_THREAD };
[[nodiscard]] std::string name_of(Delivery delivery);

// A pool of its own. Where the kernel cannot serve, `why_not()` says why and there is no pool.
class TestPool {
 public:
  TestPool(Delivery delivery, std::size_t budget, int on_exhausted = BUOY_EXHAUSTED_SIGBUS);
  ~TestPool();
  TestPool(const TestPool&) = delete;
  TestPool& operator=(const TestPool&) = delete;

  [[nodiscard]] const std::string& why_not() const { return why_not_; }
  [[nodiscard]] buoy_pool* get() const { return pool_; }
  [[nodiscard]] std::uint64_t stat(const char* name) const;
  // What is populated as the kernel counts it, in regions, shadows and the arena.
  [[nodiscard]] std::uint64_t populated_bytes() const;
  // For what the C API has no word for.
  [[nodiscard]] Pool& engine() const { return *reinterpret_cast<Pool*>(pool_); }
  // Every accounting equation of the pool. No thread may be inside the API or fault meanwhile.
  void validate() const;
  // Destroys it; the errno, 0 for success.
  [[nodiscard]] int destroy();

 private:
  buoy_pool* pool_ = nullptr;
  std::string why_not_;
};

// A child that must not hang: its wait status, and what it wrote to stderr.
struct Ended {
  int status = 0;
  std::string said;
  [[nodiscard]] bool is_success() const { return status == 0; }
};
// Runs the body in a child, which exits with 0 behind it, beside this process until wait().
class Child {
 public:
  explicit Child(const std::function<void()>& body);
  [[nodiscard]] Ended wait();

 private:
  int pid_ = -1;
  int stderr_ = -1;
};
[[nodiscard]] Ended run_in_child(const std::function<void()>& body);
// A thread that is past its start. While threads start, the allocators of sanitizers hold locks that
// a child would inherit: who forks starts its threads so.
[[nodiscard]] std::thread started_thread(std::function<void()> body);
// For bodies of children: says so and exits with 1 if not.
void must(bool good, const char* what);

// Another process that samples our RssAnon every 10 ms until told to stop.
class OutsideObserver {
 public:
  OutsideObserver();
  ~OutsideObserver();
  OutsideObserver(const OutsideObserver&) = delete;
  OutsideObserver& operator=(const OutsideObserver&) = delete;
  // Bytes above what was there when it started, at the most. Ends the sampling.
  [[nodiscard]] std::size_t peak_growth();

 private:
  int child_ = -1;
  int to_child_ = -1;
  int from_child_ = -1;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif

}  // namespace buoy::testing
