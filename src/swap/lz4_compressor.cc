// LZ4 with a state that is lent, not made: LZ4_compress_default would put 16 KiB on the stack of
// whoever faults. Safe on a changing source: positions and lengths are decided before bytes are
// copied, and the output's end is checked.
#define LZ4_STATIC_LINKING_ONLY
#include <lz4.h>

#include "swap/compressor.h"

namespace buoy::swap {
namespace {

class Lz4Compressor final : public Compressor {
 public:
  constexpr Lz4Compressor() = default;
  std::size_t work_bytes() const override { return sizeof(LZ4_stream_t); }
  bool prepare(std::byte* work) const override {
    return LZ4_initStream(work, sizeof(LZ4_stream_t)) != nullptr;
  }
  bool needs_work_to_decompress() const override { return false; }
  unsigned compress(std::byte* work, const std::byte* page, std::byte* out,
                    unsigned capacity) const override {
    const int size = LZ4_compress_fast_extState_fastReset(
        work, reinterpret_cast<const char*>(page), reinterpret_cast<char*>(out),
        static_cast<int>(kPageSize), static_cast<int>(capacity), kAcceleration);
    return size > 0 ? static_cast<unsigned>(size) : 0;
  }
  bool decompress(std::byte*, const std::byte* data, unsigned size, std::byte* out) const override {
    return LZ4_decompress_safe(reinterpret_cast<const char*>(data), reinterpret_cast<char*>(out),
                               static_cast<int>(size),
                               static_cast<int>(kPageSize)) == static_cast<int>(kPageSize);
  }

 private:
  static constexpr int kAcceleration = 1;  // as the kernel's zram: the best ratio LZ4 has
};

constexpr Lz4Compressor kLz4;

}  // namespace

const Compressor& lz4_compressor() { return kLz4; }

}  // namespace buoy::swap
