// Slab<T>: type-stable metadata objects with 32-bit indices, out of one reserved range.
//
//   reserved ... | T T T T T T T | never touched yet ............ |
//                ^0              ^high-water mark                 ^capacity
//
// The range is reserved once and becomes resident as the mark rises; objects are recycled, never
// unmapped: a stale pointer or index reads some T, never a fault, and its holder re-checks under
// the object's own lock. Constructed once, when the mark passes; recycling does not construct.
// Lock-free (a tagged free list): safe in a fault and in signal handlers. Index 0 is never given.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <new>

#include "base/check.h"
#include "base/result.h"
#include "base/sys.h"
#include "base/units.h"

namespace buoy {

template <typename T>
class Slab {
 public:
  Slab() = default;
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;
  ~Slab() { destroy(); }

  // Reserves room for `capacity` objects: address space only. ENOMEM if there is none.
  [[nodiscard]] Status create(std::uint32_t capacity) {
    const std::size_t bytes = slot_bytes() * (std::size_t{capacity} + 1);
    auto range =
        sys::reserve((bytes + kPageSize - 1) & ~(kPageSize - 1), kPageSize, PROT_READ | PROT_WRITE);
    if (!range) return range.error();
    base_ = *range;
    bytes_ = (bytes + kPageSize - 1) & ~(kPageSize - 1);
    capacity_ = capacity;
    high_water_.store(1, std::memory_order_relaxed);
    free_.store(0, std::memory_order_relaxed);
    live_.store(0, std::memory_order_relaxed);
    return {};
  }
  void destroy() {
    if (base_ != nullptr) sys::unmap(base_, bytes_);
    base_ = nullptr;
  }

  // An object, fresh or recycled (its old fields are still there). 0 if the slab is full.
  [[nodiscard]] std::uint32_t try_allocate() {
    std::uint64_t head = free_.load(std::memory_order_acquire);
    while (index_of(head) != 0) {
      const std::uint32_t index = index_of(head);
      const std::uint32_t next = link(index).load(std::memory_order_relaxed);
      if (free_.compare_exchange_weak(head, tagged(next, head), std::memory_order_acquire)) {
        live_.fetch_add(1, std::memory_order_relaxed);
        return index;
      }
    }
    std::uint32_t fresh = high_water_.load(std::memory_order_relaxed);
    do {
      if (fresh > capacity_) return 0;
    } while (!high_water_.compare_exchange_weak(fresh, fresh + 1, std::memory_order_relaxed));
    new (slot(fresh)) T();
    live_.fetch_add(1, std::memory_order_relaxed);
    return fresh;
  }
  void release(std::uint32_t index) {
    BUOY_DCHECK(index != 0 && index < high_water_.load(std::memory_order_relaxed));
    live_.fetch_sub(1, std::memory_order_relaxed);
    std::uint64_t head = free_.load(std::memory_order_relaxed);
    do {
      link(index).store(index_of(head), std::memory_order_relaxed);
    } while (!free_.compare_exchange_weak(head, tagged(index, head), std::memory_order_release,
                                          std::memory_order_relaxed));
  }

  [[nodiscard]] T& at(std::uint32_t index) const { return *reinterpret_cast<T*>(slot(index)); }
  [[nodiscard]] std::uint32_t index_of(const T& object) const {
    const auto offset = reinterpret_cast<const std::byte*>(&object) - base_;
    return static_cast<std::uint32_t>(static_cast<std::size_t>(offset) / slot_bytes());
  }
  [[nodiscard]] std::uint32_t live() const { return live_.load(std::memory_order_relaxed); }
  // One past the highest index ever given; every index below it (but 0) is a constructed T.
  [[nodiscard]] std::uint32_t high_water() const {
    return high_water_.load(std::memory_order_acquire);
  }
  // Resident metadata: what the high-water mark has touched, in whole pages.
  [[nodiscard]] ByteSize touched_bytes() const {
    const std::size_t used = slot_bytes() * high_water_.load(std::memory_order_relaxed);
    return (used + kPageSize - 1) & ~(kPageSize - 1);
  }

 private:
  // The free-list link stands beside the object, so that a stale reader never sees it.
  struct Footer {
    std::atomic<std::uint32_t> next_free;
  };
  static constexpr std::size_t footer_at() {
    return (sizeof(T) + alignof(Footer) - 1) & ~(alignof(Footer) - 1);
  }
  static constexpr std::size_t slot_bytes() {
    constexpr std::size_t align = alignof(T) > alignof(Footer) ? alignof(T) : alignof(Footer);
    return (footer_at() + sizeof(Footer) + align - 1) & ~(align - 1);
  }
  static constexpr std::uint32_t index_of(std::uint64_t head) {
    return static_cast<std::uint32_t>(head);
  }
  static constexpr std::uint64_t tagged(std::uint32_t index, std::uint64_t previous) {
    return (((previous >> 32) + 1) << 32) | index;
  }
  [[nodiscard]] std::byte* slot(std::uint32_t index) const { return base_ + slot_bytes() * index; }
  [[nodiscard]] std::atomic<std::uint32_t>& link(std::uint32_t index) const {
    return reinterpret_cast<Footer*>(slot(index) + footer_at())->next_free;
  }

  std::byte* base_ = nullptr;
  std::size_t bytes_ = 0;
  std::uint32_t capacity_ = 0;
  std::atomic<std::uint32_t> high_water_{1};
  std::atomic<std::uint32_t> live_{0};
  std::atomic<std::uint64_t> free_{0};  // tag << 32 | index of the first free object
};

}  // namespace buoy
