// buoy::memory_resource: a std::pmr resource whose freed memory is lazily freed.
//
// It hands out runs of whole pages from regions of a pool: put a std::pmr pool or monotonic
// resource in front of it for small objects. What is deallocated keeps its address and may be
// discarded by the pool at any time, in any order, without a call from here; what is allocated
// again before that costs no fault and no zeroing (BUOY_REUSE).
//
//   std::pmr::synchronized_pool_resource objects(&resource);
//   std::pmr::vector<int> v(&objects);
//
// Thread-safe. Throws std::bad_alloc; never touches the memory it manages. The pool must outlive
// the resource. All memory goes back when the resource is destroyed.
#ifndef BUOY_MEMORY_RESOURCE_HPP
#define BUOY_MEMORY_RESOURCE_HPP

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory_resource>
#include <mutex>
#include <new>
#include <set>
#include <utility>

#include "buoy/buoy.h"

namespace buoy {

class memory_resource final : public std::pmr::memory_resource {
 public:
  // `chunk_bytes`: how much address space to map at a time. Costs nothing until used.
  explicit memory_resource(buoy_pool* pool, std::size_t chunk_bytes = std::size_t{64} << 20)
      : pool_(pool), chunk_bytes_(round_up(chunk_bytes, kPage)) {}

  ~memory_resource() override {
    for (const auto& [address, length] : chunks_) buoy_unmap(pointer(address), length);
  }
  memory_resource(const memory_resource&) = delete;
  memory_resource& operator=(const memory_resource&) = delete;

  // Bytes handed out, in whole pages.
  [[nodiscard]] std::size_t allocated_bytes() const {
    const std::lock_guard guard(mutex_);
    return allocated_;
  }

 private:
  using Address = std::uintptr_t;
  static constexpr std::size_t kPage = 4096;
  // Freed runs shorter than this wait, unmarked, until a neighbour is freed too: marking costs a
  // system call, and a shootdown where threads run.
  static constexpr std::size_t kWorthMarking = 16 * kPage;
  // More than any address space has, and sums of a few do not wrap.
  static constexpr std::size_t kMost = SIZE_MAX / 4;

  struct Free {
    std::size_t length;
    bool marked;  // all of it is lazily freed
  };

  static constexpr std::size_t round_up(std::size_t n, std::size_t to) {
    return (n + to - 1) / to * to;
  }
  static void* pointer(Address a) { return reinterpret_cast<void*>(a); }

  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    if (bytes > kMost || alignment > kMost) throw std::bad_alloc();
    const std::size_t length = round_up(bytes == 0 ? 1 : bytes, kPage);
    const std::lock_guard guard(mutex_);
    for (int attempt = 0; attempt < 2; ++attempt) {
      // Best fit: the shortest free run that holds it, the lowest address among equals.
      for (auto it = by_length_.lower_bound({length, 0}); it != by_length_.end(); ++it) {
        const auto [free_length, start] = *it;
        const Address at = round_up(start, alignment);
        if (at - start + length > free_length) continue;
        take(start, at, length);
        return pointer(at);
      }
      if (attempt == 0) add_chunk(length + (alignment > kPage ? alignment : 0));
    }
    throw std::bad_alloc();
  }

  void do_deallocate(void* p, std::size_t bytes, std::size_t) override {
    const auto at = reinterpret_cast<Address>(p);
    const std::size_t length = round_up(bytes == 0 ? 1 : bytes, kPage);
    const std::lock_guard guard(mutex_);
    allocated_ -= length;
    insert(at, {length, false});
  }

  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  // Cuts [at, at + length) out of the free run at `start`.
  void take(Address start, Address at, std::size_t length) {
    const auto it = free_.find(start);
    const Free whole = it->second;
    // The rest keeps its marks; what cannot be entered again must not have been taken out.
    if (at > start) {
      const auto tail = at + length;
      if (tail < start + whole.length) enter(tail, {start + whole.length - tail, whole.marked});
      by_length_.erase({whole.length, start});
      it->second.length = at - start;
      by_length_.insert({at - start, start});
    } else {
      if (length < whole.length) enter(at + length, {whole.length - length, whole.marked});
      by_length_.erase({whole.length, start});
      free_.erase(it);
    }
    allocated_ += length;
    if (whole.marked) buoy_advise(pointer(at), length, BUOY_REUSE);
  }

  void enter(Address at, Free run) {
    free_.emplace(at, run);
    by_length_.insert({run.length, at});
  }

  // Enters a run that became free, joined with its neighbours, and marks it when that is worth it.
  void insert(Address at, Free run) {
    auto next = free_.lower_bound(at);
    if (next != free_.end() && at + run.length == next->first && !starts_chunk(next->first)) {
      run = {run.length + next->second.length, run.marked && next->second.marked};
      by_length_.erase({next->second.length, next->first});
      next = free_.erase(next);
    }
    if (next != free_.begin()) {
      const auto previous = std::prev(next);
      if (previous->first + previous->second.length == at && !starts_chunk(at)) {
        run = {run.length + previous->second.length, run.marked && previous->second.marked};
        at = previous->first;
        by_length_.erase({previous->second.length, at});
        free_.erase(previous);
      }
    }
    if (!run.marked && run.length >= kWorthMarking)
      run.marked = buoy_advise(pointer(at), run.length, BUOY_FREE) == 0;
    enter(at, run);
  }

  void add_chunk(std::size_t at_least) {
    const std::size_t length = at_least > chunk_bytes_ ? round_up(at_least, kPage) : chunk_bytes_;
    void* memory = buoy_map(pool_, length, 0);
    if (memory == nullptr) throw std::bad_alloc();
    const auto at = reinterpret_cast<Address>(memory);
    chunks_.emplace(at, length);
    // Never stored to: nothing to mark, nothing to make ordinary again.
    enter(at, {length, false});
  }
  [[nodiscard]] bool starts_chunk(Address at) const { return chunks_.count(at) != 0; }

  buoy_pool* pool_;
  std::size_t chunk_bytes_;
  mutable std::mutex mutex_;
  std::map<Address, Free> free_;
  std::set<std::pair<std::size_t, Address>> by_length_;
  std::map<Address, std::size_t> chunks_;
  std::size_t allocated_ = 0;
};

}  // namespace buoy

#endif  // BUOY_MEMORY_RESOURCE_HPP
