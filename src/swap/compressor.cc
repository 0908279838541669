#include "swap/compressor.h"

namespace buoy::swap {
namespace {

// Every page is incompressible; the tiers store it as it is.
class NoCompressor final : public Compressor {
 public:
  constexpr NoCompressor() = default;
  std::size_t work_bytes() const override { return 0; }
  bool prepare(std::byte*) const override { return true; }
  bool needs_work_to_decompress() const override { return false; }
  unsigned compress(std::byte*, const std::byte*, std::byte*, unsigned) const override { return 0; }
  bool decompress(std::byte*, const std::byte*, unsigned, std::byte*) const override {
    return false;
  }
};

constexpr NoCompressor kNone;

}  // namespace

const Compressor& Compressor::of(CompressorKind kind) {
  switch (kind) {
    case CompressorKind::kLz4:
      return lz4_compressor();
    case CompressorKind::kZstd:
      return zstd_compressor();
    case CompressorKind::kNone:
      break;
  }
  return kNone;
}

}  // namespace buoy::swap
