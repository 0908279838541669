// What comes back from a disk, whatever it is: a record passes only whole, and a decoder stays within
// its page.
//
//   input: | form | compressor | length 2 | handle 4 | seed 8 | bytes... |
//   form even: the bytes lie in the file as they are; odd: they are a record's data, with a checksum
//   that holds (an enemy's, or a bug's before the write), so that the decoder sees them.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "swap/page_codec.h"
#include "swap/record.h"
#include "swap/work_area.h"

namespace buoy::swap {
namespace {

struct Case {
  bool has_checksum = false;
  CompressorKind compressor = CompressorKind::kLz4;
  unsigned length = 0;
  std::uint32_t handle = 0;
  std::uint64_t seed = 0;
};

// The parameters in front, as far as there are any; advances `data`.
Case take_case(const std::uint8_t*& data, std::size_t& size) {
  const auto take = [&](auto& value) {
    const std::size_t n = std::min(sizeof value, size);
    std::memcpy(&value, data, n);
    data += n;
    size -= n;
  };
  std::uint8_t form = 0;
  std::uint8_t compressor = 0;
  std::uint16_t length = 0;
  Case c;
  take(form);
  take(compressor);
  take(length);
  take(c.handle);
  take(c.seed);
  c.has_checksum = (form & 1) != 0;
  c.compressor = (compressor & 1) != 0 ? CompressorKind::kZstd : CompressorKind::kLz4;
  c.length = length & 0x1fffU;  // what a place can name
  return c;
}

// A codec with its work areas, made once.
class Decoder {
 public:
  explicit Decoder(CompressorKind kind) : compressor_(Compressor::of(kind)), codec_(compressor_) {
    BUOY_CHECK(areas_.create(compressor_, 1).ok());
  }
  void decode(const std::byte* data, unsigned length) {
    const WorkAreas::Lease area(areas_);
    // Exactly a page on the heap: the sanitizer sees the first byte behind it.
    const auto page = std::make_unique<std::byte[]>(kPageSize);
    static_cast<void>(codec_.decode(area->state, data, length, page.get()));
  }
  // A page goes through unharmed.
  void round_trip(const std::byte* page) {
    const WorkAreas::Lease area(areas_);
    const EncodedPage encoded = codec_.encode(*area, page);
    const auto back = std::make_unique<std::byte[]>(kPageSize);
    BUOY_CHECK(codec_.decode(area->state, encoded.data, encoded.length, back.get()));
    BUOY_CHECK(std::memcmp(back.get(), page, kPageSize) == 0);
  }

 private:
  const Compressor& compressor_;
  PageCodec codec_;
  WorkAreas areas_;
};

void try_case(const Case& c, const std::byte* bytes, std::size_t size) {
  static Decoder lz4(CompressorKind::kLz4);
  static Decoder zstd(CompressorKind::kZstd);
  Decoder& decoder = c.compressor == CompressorKind::kZstd ? zstd : lz4;

  // The reader has `length` bytes behind a header, by the place it was given.
  std::vector<std::byte> record(sizeof(RecordHeader) + c.length);
  if (c.has_checksum) {
    std::memcpy(record.data() + sizeof(RecordHeader), bytes, std::min<std::size_t>(size, c.length));
    RecordHeader header;
    header.handle = c.handle;
    header.length = static_cast<std::uint16_t>(c.length);
    std::memcpy(record.data(), &header, sizeof header);
    header.checksum = record_checksum(record.data(), c.length, c.seed);
    std::memcpy(record.data(), &header, sizeof header);
  } else {
    std::memcpy(record.data(), bytes, std::min(size, record.size()));
  }
  const std::byte* const data = verified_data(record.data(), c.handle, c.length, c.seed);
  if (data != nullptr) decoder.decode(data, c.length);
  BUOY_CHECK(!c.has_checksum || data != nullptr);

  if (c.has_checksum) {  // one bit, anywhere
    const std::size_t bit = c.seed % (record.size() * 8);
    record[bit / 8] ^= std::byte{1} << (bit % 8);
    BUOY_CHECK(verified_data(record.data(), c.handle, c.length, c.seed) == nullptr);
  }
  std::vector<std::byte> page(kPageSize);
  for (std::size_t i = 0; size != 0 && i < kPageSize; ++i) page[i] = bytes[i % size];
  decoder.round_trip(page.data());
}

}  // namespace
}  // namespace buoy::swap

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const buoy::swap::Case c = buoy::swap::take_case(data, size);
  buoy::swap::try_case(c, reinterpret_cast<const std::byte*>(data), size);  // NOLINT
  return 0;
}
