// Scratch buffers for decompression: a fault borrows one, never the thread's (small) stack.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "base/slab.h"
#include "base/units.h"

namespace buoy {

class ScratchPool {
 public:
  static constexpr unsigned kPages = 32;  // the largest swap-in window

  [[nodiscard]] Status create() {
    return buffers_.create(sys::most_needed(4096, std::uint64_t{16} << 20, 16));
  }
  [[nodiscard]] ByteSize touched_bytes() const { return buffers_.touched_bytes(); }

  // A borrowed buffer of kPages pages, returned at the end of the scope.
  class Borrowed {
   public:
    explicit Borrowed(ScratchPool& pool) : pool_(pool) {
      // As many faults at once as there are buffers: wait for one, they are short.
      while ((index_ = pool.buffers_.try_allocate()) == 0) __builtin_ia32_pause();
    }
    ~Borrowed() { pool_.buffers_.release(index_); }
    Borrowed(const Borrowed&) = delete;
    Borrowed& operator=(const Borrowed&) = delete;
    [[nodiscard]] std::byte* page(unsigned k) const {
      return pool_.buffers_.at(index_).bytes + std::size_t{k} * kPageSize;
    }

   private:
    ScratchPool& pool_;
    std::uint32_t index_ = 0;
  };

 private:
  struct alignas(64) Buffer {
    Buffer() {}  // NOLINT(modernize-use-equals-default): leaves the bytes untouched
    std::byte bytes[kPages * kPageSize];
  };
  Slab<Buffer> buffers_;
};

}  // namespace buoy
