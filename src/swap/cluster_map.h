// ClusterMap: which parts of the backing file are in use. A cluster is 256 KiB of it, filled from
// its start to its end, and reused only when every record in it is gone.
//
//   kHole     no disk space                 -> kReady   (space allocated)
//   kReady    disk space, no records        -> kOpen, kHole
//   kOpen     being filled; one at most     -> kSealed
//   kSealed   full; records come to an end  -> kReady   (when the last is gone, and no fork child
//                                                        needs the bytes any more)
//
// Cluster numbers are places in this table and stay valid over forks: a child keeps its parent's
// clusters, read-only, and adds clusters of a file of its own. Hence `file` and `number`.
//
// Guard: the backing file's lock, but for `live` and `live_bytes`, which readers' frees drop
// without it, and the fields that a reader needs (file, number, generation), which hold still
// while a record is live.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "base/units.h"
#include "frames/place.h"
#include "swap/file_io.h"

namespace buoy::swap {

// 256 KiB: long enough that a disk writes at full speed, short enough that half-empty ones are
// cheap to collect. Also bounds a place's bits.
inline constexpr ByteSize kClusterBytes = ByteSize{256} << 10;

enum class ClusterState : std::uint8_t { kHole = 0, kReady, kOpen, kSealed };

struct Cluster {
  std::atomic<std::uint32_t> live{0};        // records; one more while open, and for each use
  std::atomic<std::uint32_t> live_bytes{0};  // of records
  std::uint32_t number = 0;                  // in its file, in clusters
  std::uint32_t generation = 0;              // goes into every record's checksum
  std::uint32_t filled = 0;                  // bytes from the start
  std::uint8_t file = 0;
  ClusterState state = ClusterState::kHole;
  std::uint8_t frozen = 0;     // a bit for each fork whose child may still read it
  std::uint8_t uses = 0;       // writes to it under way, and its collection
  bool is_unreadable = false;  // not collected: something in it does not read back
};

class ClusterMap {
 public:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  enum class Purpose : std::uint8_t {
    kNewRecords,
    kCollection,  // moving records together: may use the last ready cluster
  };

  [[nodiscard]] Status create();

  // An open cluster of `file` (index `file_index`), empty. kNone when the disk, or a limit on it,
  // has no more; *why says which.
  [[nodiscard]] std::uint32_t take(const OpenFile& file, std::uint8_t file_index, Purpose purpose,
                                   Status* why);
  // An open cluster takes no more records.
  void seal(std::uint32_t cluster);

  void add_record(std::uint32_t cluster, std::uint32_t bytes) {
    Cluster& c = at(cluster);
    c.live_bytes.fetch_add(bytes, std::memory_order_relaxed);
    c.live.fetch_add(1, std::memory_order_relaxed);
  }
  // A cluster that is being written to or emptied is neither reused nor collected meanwhile.
  void begin_use(std::uint32_t cluster) {
    ++at(cluster).uses;
    at(cluster).live.fetch_add(1, std::memory_order_relaxed);
  }
  void end_use(std::uint32_t cluster) {
    --at(cluster).uses;
    drop(cluster);
  }
  // Lock-free.
  void drop_record(std::uint32_t cluster, std::uint32_t bytes) {
    at(cluster).live_bytes.fetch_sub(bytes, std::memory_order_relaxed);
    drop(cluster);
  }

  // The sealed cluster of `file_index` with the least in it, if that is less than `share` percent
  // of a cluster and moving it would free space; else kNone.
  [[nodiscard]] std::uint32_t find_sparse(std::uint8_t file_index, unsigned share) const;
  // Gives the disk space of ready clusters beyond `keep` back.
  void release_ready(const OpenFile& file, std::uint8_t file_index, std::uint32_t keep);

  // Every cluster with records gets this bit; none of them is reused until thaw().
  void freeze(std::uint8_t bit);
  void thaw(std::uint8_t bit);

  [[nodiscard]] Cluster& at(std::uint32_t cluster) const { return clusters_[cluster]; }
  [[nodiscard]] std::uint64_t offset_of(std::uint32_t cluster) const {
    return std::uint64_t{at(cluster).number} * kClusterBytes;
  }
  [[nodiscard]] std::uint32_t span() const { return span_; }
  // Disk space held: everything but holes and other processes' clusters. These two may be asked
  // without the lock.
  [[nodiscard]] ByteSize allocated_bytes() const {
    return std::uint64_t{held_.load(std::memory_order_relaxed)} * kClusterBytes;
  }
  // From the file's start to the end of its last cluster, holes included.
  [[nodiscard]] ByteSize file_bytes() const {
    return std::uint64_t{next_number_.load(std::memory_order_relaxed)} * kClusterBytes;
  }
  [[nodiscard]] ByteSize metadata_bytes() const {
    return PageCount::covering(span_ * sizeof(Cluster)).bytes();
  }
  // A fork child begins a file of its own: numbers start anew.
  void start_new_file() {
    next_number_.store(1, std::memory_order_relaxed);
    held_.store(0, std::memory_order_relaxed);
    ready_ = 0;
  }

 private:
  static constexpr std::uint32_t kMaxClusters = 1U << 24;  // 4 TiB

  void drop(std::uint32_t cluster) {
    if (at(cluster).live.fetch_sub(1, std::memory_order_acq_rel) == 1)
      maybe_empty_.fetch_add(1, std::memory_order_release);
  }
  // Sealed clusters whose last record is gone become ready.
  void gather_empty(std::uint8_t file_index);
  [[nodiscard]] Status grow(const OpenFile& file, std::uint8_t file_index);

  frames::ReservedArray<Cluster> clusters_;
  std::uint32_t span_ = 0;
  std::atomic<std::uint32_t> next_number_{1};  // the file's first cluster holds its signature
  std::atomic<std::uint32_t> held_{0};         // clusters of the current file with disk space
  std::uint32_t ready_ = 0;                    // clusters in kReady of the current file
  std::atomic<std::uint32_t> maybe_empty_{0};  // went empty since the last look
};

}  // namespace buoy::swap
