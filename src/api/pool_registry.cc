#include "api/pool_registry.h"

#include <pthread.h>

#include <atomic>
#include <cerrno>

namespace buoy {

namespace {

constinit std::atomic<Pool*> pools[PoolRegistry::kMostPools]{};
constinit std::atomic<bool> fork_handled{false};

template <typename Body>
void for_each_pool(Body body) {
  for (auto& slot : pools)
    if (Pool* pool = slot.load(std::memory_order_acquire); pool != nullptr) body(*pool);
}

void before_fork() {
  // A refusal cannot stop the fork here; it stops the child.
  for_each_pool([](Pool& pool) { (void)pool.before_fork(); });
}
void after_fork_in_parent() {
  for_each_pool([](Pool& pool) { pool.after_fork_in_parent(); });
}
void after_fork_in_child() {
  for_each_pool([](Pool& pool) {
    if (const Status s = pool.after_fork_in_child(); !s) {
      // Going on would mean zeros where data was.
      sys::Line()
          .text("a fork child cannot set up its memory, errno ")
          .number(static_cast<std::uint64_t>(s.code()))
          .complain();
      sys::exit_aborted();
    }
  });
}

}  // namespace

Status PoolRegistry::add(Pool& pool) {
  for (auto& slot : pools) {
    Pool* expected = nullptr;
    if (!slot.compare_exchange_strong(expected, &pool)) continue;
    if (!fork_handled.exchange(true))
      if (const int rc = pthread_atfork(&before_fork, &after_fork_in_parent, &after_fork_in_child);
          rc != 0) {
        fork_handled.store(false);
        slot.store(nullptr);
        return Error{rc};
      }
    return {};
  }
  return Error{EBUSY};
}

void PoolRegistry::remove(Pool& pool) {
  for (auto& slot : pools) {
    Pool* expected = &pool;
    if (slot.compare_exchange_strong(expected, nullptr)) return;
  }
}

bool PoolRegistry::has(const Pool& pool) {
  for (const auto& slot : pools)
    if (slot.load(std::memory_order_acquire) == &pool) return true;
  return false;
}

Pool* PoolRegistry::find(const void* address) {
  for (auto& slot : pools) {
    Pool* pool = slot.load(std::memory_order_acquire);
    if (pool != nullptr && pool->manages(address)) return pool;
  }
  return nullptr;
}

}  // namespace buoy
