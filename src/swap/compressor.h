// Compressor: one page in, fewer bytes out. LZ4, zstd, or none.
//
// A compressor is stateless and shared; what it needs to work is memory that the caller lends for
// the call (see work_area.h). It neither allocates nor touches thread-local storage, so it runs in
// bare threads and in faults.
//
// The source page may change while it is read, because the program still stores to it. The result
// is then of no use, and that is all: no implementation reads or writes outside its buffers.
#pragma once

#include <cstddef>

#include "base/units.h"
#include "swap/swap_stack.h"

namespace buoy::swap {

class Compressor {
 public:
  [[nodiscard]] static const Compressor& of(CompressorKind kind);

  // Memory lent for a call, 64-byte aligned, prepared once by prepare(). 0: none needed.
  [[nodiscard]] virtual std::size_t work_bytes() const = 0;
  // False: the library cannot work in that much memory (a mismatch of versions).
  [[nodiscard]] virtual bool prepare(std::byte* work) const = 0;
  [[nodiscard]] virtual bool needs_work_to_decompress() const = 0;

  // 4096 bytes to at most `capacity` (less than a page) bytes; the size, or 0: does not fit.
  [[nodiscard]] virtual unsigned compress(std::byte* work, const std::byte* page, std::byte* out,
                                          unsigned capacity) const = 0;
  // `size` bytes back to 4096. False: the bytes are not what compress() made. `out` is undefined
  // then, and nothing outside of it is written.
  [[nodiscard]] virtual bool decompress(std::byte* work, const std::byte* data, unsigned size,
                                        std::byte* out) const = 0;

 protected:
  constexpr Compressor() = default;
  ~Compressor() = default;
};

[[nodiscard]] const Compressor& lz4_compressor();
[[nodiscard]] const Compressor& zstd_compressor();

}  // namespace buoy::swap
