// buoy::memory_resource: a std::pmr resource whose freed memory is lazily freed.
//
// It hands out runs of whole pages from regions of a pool: put a std::pmr pool or monotonic
// resource in front of it for small objects. What is deallocated keeps its address and may be
// discarded by the pool at any time, in any order, without a call from here; what is allocated
// again before that costs no fault and no zeroing (buoy_extents).
//
//   std::pmr::synchronized_pool_resource objects(&resource);
//   std::pmr::vector<int> v(&objects);
//
// Thread-safe. allocate() throws std::bad_alloc, deallocate() nothing; neither touches the memory
// it manages. The pool must outlive the resource. All memory goes back with the resource.
#ifndef BUOY_MEMORY_RESOURCE_HPP
#define BUOY_MEMORY_RESOURCE_HPP

#include <cstddef>
#include <memory_resource>
#include <new>

#include "buoy/buoy.h"

namespace buoy {

class memory_resource final : public std::pmr::memory_resource {
 public:
  // `chunk_bytes`: how much address space to map at a time, at least. Costs nothing until used.
  // std::bad_alloc: no memory, or no pool.
  explicit memory_resource(buoy_pool* pool, std::size_t chunk_bytes = std::size_t{64} << 20) {
    if (buoy_extents_create(pool, chunk_bytes, 0, &extents_) != 0) throw std::bad_alloc();
  }
  ~memory_resource() override { buoy_extents_destroy(extents_); }
  memory_resource(const memory_resource&) = delete;
  memory_resource& operator=(const memory_resource&) = delete;

  // Bytes handed out, in whole pages.
  [[nodiscard]] std::size_t allocated_bytes() const noexcept {
    return buoy_extents_allocated(extents_);
  }

 private:
  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    void* const p = buoy_extents_alloc(extents_, bytes == 0 ? 1 : bytes, alignment, nullptr);
    if (p == nullptr) throw std::bad_alloc();
    return p;
  }
  void do_deallocate(void* p, std::size_t bytes, std::size_t) noexcept override {
    (void)buoy_extents_free(extents_, p, bytes == 0 ? 1 : bytes);
  }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  buoy_extents* extents_ = nullptr;
};

}  // namespace buoy

#endif  // BUOY_MEMORY_RESOURCE_HPP
