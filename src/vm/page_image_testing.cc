#include "vm/page_image_testing.h"

#include <cstring>

#include "base/mix_testing.h"

namespace buoy {

namespace {
constexpr std::size_t kWords = PageImage::kPartBytes / sizeof(std::uint64_t);
}  // namespace

std::uint32_t PageImage::seed_of(std::uint32_t number, Texture texture) {
  // Never 0, whatever the number.
  return (number % 0x3fffffffU + 1) * 4 + static_cast<std::uint32_t>(texture);
}

PageImage PageImage::filled(std::uint32_t seed) {
  PageImage image;
  image.seeds_.fill(seed);
  return image;
}

void PageImage::write_part(std::uint32_t seed, std::byte* out) {
  std::array<std::uint64_t, kWords> words{};
  const std::uint64_t stamp = mix(seed);
  if (seed != 0) {
    for (std::size_t i = 0; i < kWords; ++i) {
      switch (static_cast<Texture>(seed % 4)) {
        case Texture::kUniform:
          words[i] = stamp;
          break;
        case Texture::kCompressible:
          words[i] = i % 2 == 0 ? stamp : mix(stamp + i);
          break;
        case Texture::kIncompressible:
          words[i] = mix(stamp + i);
          break;
      }
    }
  }
  std::memcpy(out, words.data(), kPartBytes);
}

PageImage::Bytes PageImage::bytes() const {
  Bytes bytes;
  for (unsigned part = 0; part < kParts; ++part)
    write_part(seeds_[part], bytes.data() + part * kPartBytes);
  return bytes;
}

bool PageImage::matches(const Bytes& bytes) const { return this->bytes() == bytes; }

std::string PageImage::name() const {
  std::string text;
  for (const std::uint32_t seed : seeds_) text += std::to_string(seed) + " ";
  text.pop_back();
  return text;
}

}  // namespace buoy
