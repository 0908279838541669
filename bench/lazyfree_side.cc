// What a process of the `lazyfree` benchmark does: one task, on memory of one kind.
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "child.h"
#include "lazy_memory.h"
#include "lazyfree_ops.h"
#include "machine.h"

namespace buoy::bench {
namespace {

void stay_on_cpu(unsigned cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // a machine with one CPU
}

// A thread of this process that computes on another CPU: every call that takes a translation away
// must interrupt it.
class ComputingThread {
 public:
  explicit ComputingThread(unsigned cpu)
      : thread_([this, cpu] {
          stay_on_cpu(cpu);
          running_.store(true);
          std::uint64_t x = 1;
          while (!stop_.load(std::memory_order_relaxed)) x = x * 6364136223846793005U + 1;
          sum_.store(x);
        }) {
    while (!running_.load()) std::this_thread::yield();
  }
  ~ComputingThread() {
    stop_.store(true);
    thread_.join();
  }
  ComputingThread(const ComputingThread&) = delete;
  ComputingThread& operator=(const ComputingThread&) = delete;

 private:
  std::atomic<bool> running_{false};
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> sum_{0};  // so that the loop is not nothing
  std::thread thread_;
};

}  // namespace

BUOY_BENCH_SIDE(lazyfree) {
  const Task task = task_of(arguments);
  const auto backing = backing_named(text_of(arguments, "backing"));
  if (!backing) throw Unavailable("no such backing");
  const auto memory = LazyMemory::make(*backing, task.pages);
  // Behind the pool's creation: its own thread shall not be bound.
  stay_on_cpu(0);
  std::optional<ComputingThread> other;
  if (task.threads > 1) {
    if (std::thread::hardware_concurrency() < 2) throw Unavailable("there is one CPU only");
    other.emplace(1U);
  }
  answer(run_task(task, *memory));
}

}  // namespace buoy::bench
