// zstd with static contexts: no malloc. Frames carry neither magic number nor sizes: the tiers
// know both. The page is copied first: unlike LZ4's, this encoder reads its source more than once.
#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include <cstring>

#include "swap/compressor.h"

namespace buoy::swap {
namespace {

constexpr int kLevel = 1;

// Within the lent memory: | copy of the page | Contexts | compression context | decompression |
struct Contexts {
  ZSTD_CCtx* compression;
  ZSTD_DCtx* decompression;
};
constexpr std::size_t kHeaderBytes = kPageSize + 64;

std::size_t rounded(std::size_t bytes) { return (bytes + 63) & ~std::size_t{63}; }
std::size_t compression_bytes() {
  return rounded(ZSTD_estimateCCtxSize_usingCParams(ZSTD_getCParams(kLevel, kPageSize, 0)));
}
Contexts& contexts(std::byte* work) { return *reinterpret_cast<Contexts*>(work + kPageSize); }

class ZstdCompressor final : public Compressor {
 public:
  constexpr ZstdCompressor() = default;
  std::size_t work_bytes() const override {
    return kHeaderBytes + compression_bytes() + rounded(ZSTD_estimateDCtxSize());
  }
  bool prepare(std::byte* work) const override {
    Contexts& c = contexts(work);
    std::byte* at = work + kHeaderBytes;
    c.compression = ZSTD_initStaticCCtx(at, compression_bytes());
    at += compression_bytes();
    c.decompression = ZSTD_initStaticDCtx(at, rounded(ZSTD_estimateDCtxSize()));
    if (c.compression == nullptr || c.decompression == nullptr) return false;
    const ZSTD_compressionParameters params = ZSTD_getCParams(kLevel, kPageSize, 0);
    bool ok = true;
    const auto set = [&](ZSTD_cParameter p, int value) {
      ok = ok && ZSTD_isError(ZSTD_CCtx_setParameter(c.compression, p, value)) == 0;
    };
    set(ZSTD_c_format, ZSTD_f_zstd1_magicless);
    set(ZSTD_c_contentSizeFlag, 0);
    set(ZSTD_c_checksumFlag, 0);
    set(ZSTD_c_windowLog, static_cast<int>(params.windowLog));
    set(ZSTD_c_hashLog, static_cast<int>(params.hashLog));
    set(ZSTD_c_chainLog, static_cast<int>(params.chainLog));
    set(ZSTD_c_searchLog, static_cast<int>(params.searchLog));
    set(ZSTD_c_minMatch, static_cast<int>(params.minMatch));
    set(ZSTD_c_targetLength, static_cast<int>(params.targetLength));
    set(ZSTD_c_strategy, static_cast<int>(params.strategy));
    return ok && ZSTD_isError(ZSTD_DCtx_setParameter(c.decompression, ZSTD_d_format,
                                                     ZSTD_f_zstd1_magicless)) == 0;
  }
  bool needs_work_to_decompress() const override { return true; }
  unsigned compress(std::byte* work, const std::byte* page, std::byte* out,
                    unsigned capacity) const override {
    std::memcpy(work, page, kPageSize);
    const std::size_t size =
        ZSTD_compress2(contexts(work).compression, out, capacity, work, kPageSize);
    return ZSTD_isError(size) != 0 ? 0 : static_cast<unsigned>(size);
  }
  bool decompress(std::byte* work, const std::byte* data, unsigned size,
                  std::byte* out) const override {
    return ZSTD_decompressDCtx(contexts(work).decompression, out, kPageSize, data, size) ==
           kPageSize;
  }
};

constexpr ZstdCompressor kZstd;

}  // namespace

const Compressor& zstd_compressor() { return kZstd; }

}  // namespace buoy::swap
