// Batch: records on their way to the file, side by side in a buffer that is written in one go.
//
//   buffer: |rec|rec|rec|....|0 pad|      starts and ends at a 4 KiB border of its cluster
//   items:  what each record is of, so that its owner can be told when it is written
//
// Guard: the backing file's lock. Two are in use in turn: one is filled while one is written. A
// third moves records together, which may become necessary in between.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "base/units.h"
#include "frames/place.h"
#include "swap/record.h"
#include "swap/zram.h"
#include "zpool/handle.h"

namespace buoy::swap {

inline constexpr std::uint32_t kBatchBytes = 128U << 10;  // two a cluster
inline constexpr unsigned kBatchItems = 1024;

struct BatchItem {
  zpool::Handle handle;
  std::uint32_t offset = 0;      // in the batch
  std::uint64_t moved_from = 0;  // the file word's payload it replaces; 0: a pool object
  std::uint16_t length = 0;
};

struct Batch {
  enum class State : std::uint8_t { kIdle, kFilling, kWriting, kWritten, kFailed };

  std::byte* buffer = nullptr;
  BatchItem* items = nullptr;
  std::uint32_t capacity = 0;  // of this use
  std::uint32_t bytes = 0;
  std::uint32_t count = 0;
  std::uint32_t cluster = 0;
  std::uint32_t offset = 0;  // in the cluster
  std::uint64_t seed = 0;    // of its records' checksums
  unsigned mark = 0;         // that its objects carry in the pool
  State state = State::kIdle;
  int error = 0;  // kFailed

  [[nodiscard]] bool has_room(unsigned length) const {
    return count < kBatchItems && bytes + record_bytes(length) <= capacity;
  }
  // Appends a record; `copy` puts the `length` data bytes where it is told. Needs has_room().
  template <typename Copy>
  void add(zpool::Handle handle, unsigned length, std::uint64_t moved_from, Copy copy) {
    std::byte* const record = buffer + bytes;
    RecordHeader header;
    header.handle = handle.index();
    header.length = static_cast<std::uint16_t>(length);
    std::memcpy(record, &header, sizeof header);
    copy(record + sizeof header);
    const std::uint64_t checksum = record_checksum(record, length, seed);
    std::memcpy(record, &checksum, sizeof checksum);
    items[count++] = {handle, bytes, moved_from, static_cast<std::uint16_t>(length)};
    bytes += record_bytes(length);
  }
  [[nodiscard]] RecordPlace place_of(const BatchItem& item) const {
    return {cluster, offset + item.offset, item.length};
  }
  // Zeros up to the border; the bytes to write.
  [[nodiscard]] std::uint32_t pad() const {
    const auto end = static_cast<std::uint32_t>(PageCount::covering(bytes).bytes());
    std::memset(buffer + bytes, 0, end - bytes);
    return end;
  }
};

// The memory of three batches, of a cluster read back for collection, and of an encoder's work.
// Address space until first used.
class BatchBuffers {
 public:
  [[nodiscard]] Status create(std::size_t work_bytes) {
    const std::size_t total = kBatches * kBatchBytes + kClusterBytes + kPageSize + work_bytes;
    if (const Status s = bytes_.create(total); !s) return s;
    if (const Status s = items_.create(std::size_t{kBatches} * kBatchItems); !s) return s;
    for (unsigned i = 0; i < kBatches; ++i) {
      batches_[i].buffer = &bytes_[i * kBatchBytes];
      batches_[i].items = &items_[i * kBatchItems];
      // Collection moves no objects.
      batches_[i].mark = i < 2 ? kMarkWriteBack[i] : 0;
    }
    return {};
  }
  [[nodiscard]] Batch& in_turn(unsigned turn) { return batches_[turn % 2]; }
  [[nodiscard]] Batch& for_collection() { return batches_[2]; }
  // A number that goes through the ring and back.
  [[nodiscard]] std::uint64_t tag_of(const Batch& b) const {
    return static_cast<std::uint64_t>(&b - batches_.data());
  }
  [[nodiscard]] Batch& tagged(std::uint64_t tag) { return batches_[tag % kBatches]; }
  [[nodiscard]] std::byte* cluster_buffer() { return &bytes_[kBatches * kBatchBytes]; }
  [[nodiscard]] std::byte* page_buffer() { return cluster_buffer() + kClusterBytes; }
  [[nodiscard]] std::byte* work() { return page_buffer() + kPageSize; }
  // The most that can be resident.
  [[nodiscard]] ByteSize bytes() const {
    return bytes_.count() + items_.count() * sizeof(BatchItem);
  }

 private:
  static constexpr unsigned kBatches = 3;

  frames::ReservedArray<std::byte> bytes_;
  frames::ReservedArray<BatchItem> items_;
  std::array<Batch, kBatches> batches_{};
};

}  // namespace buoy::swap
