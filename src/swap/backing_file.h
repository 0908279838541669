// BackingFile: tier 2. Encoded pages in a file, each with a checksum, written in batches.
//
//   write_back:  zpool objects, oldest first -> batch (128 KiB) -> cluster of the file
//                the batch is written while the next is filled (io_uring, else pwrite)
//   an object stays in the pool, readable and free to go, until its bytes are in the file:
//
//     writer                                   owner of the page
//     pin, copy, mark "in write-back", unpin
//     write the batch                          may load (from the pool), may free
//     pin; mark still there? -> the word       a freed handle, or its next use, has not this
//       becomes the file's, object freed         batch's mark: the record is dead before it is born
//
// "Oldest first" is a clock over the handles: a stored page is young until the hand has passed
// once. Pages that did not compress are never young.
//
// Space: see cluster_map.h. Sparse clusters are collected when the file is more than twice as
// large as what lives in it, and when the disk is full.
//
// fork: a child reads its parent's file through the descriptor it inherited, and writes to a file
// of its own. The parent reuses no cluster that a child may still read; it knows that a child is
// gone when a pipe that the child holds is cut (see docs/swap.md for what that costs).
//
// lock_ (kSwapFile) belongs to the one who writes. Loading and freeing take no lock of the file.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/counters.h"
#include "base/lock.h"
#include "base/result.h"
#include "base/units.h"
#include "swap/batch.h"
#include "swap/cluster_map.h"
#include "swap/disk_ledger.h"
#include "swap/file_cipher.h"
#include "swap/file_io.h"
#include "swap/page_codec.h"
#include "swap/record.h"
#include "swap/swap_stack.h"
#include "swap/uring.h"
#include "swap/work_area.h"
#include "swap/zram.h"
#include "zpool/zpool.h"

namespace buoy::swap {

class BackingFile {
 public:
  // What the file works with; all of it outlives the file.
  struct Parts {
    zpool::Zpool& pool;
    Zram& zram;
    const PageCodec& codec;
    const Compressor& compressor;
    Counters& counters;
    DiskLedger* ledger;  // null: the files have no bound
    FileEncryption encryption;
  };

  // `where`: "auto" or a path. EOPNOTSUPP: the file would live in memory; else see open_named.
  [[nodiscard]] static Result<BackingFile*> create(const char* where, const Parts& parts);
  static void destroy(BackingFile* file);

  // Moves the oldest objects here until about `goal` frames' worth of them moved.
  struct WriteBack {
    ByteSize moved = 0;  // bytes of records written
    PageCount freed;     // frames that the pool gave back on the way, without compacting
  };
  WriteBack write_back(PageCount goal) BUOY_EXCLUDES(lock_);
  // Stores a page past the pool, in a write of its own: for when the pool can take nothing at all.
  [[nodiscard]] bool store(const std::byte* page, zpool::Handle* handle) BUOY_EXCLUDES(lock_);
  // A pinned handle whose word is the file's. kCorrupt: unreadable, or not what was written.
  struct Reading {
    zpool::Handle handle;
    std::uint64_t payload = 0;
    std::byte* out = nullptr;
    LoadOutcome* outcome = nullptr;
  };
  // Reads them all, and reorders them: neighbours in the file come with one read.
  void load(Reading* readings, unsigned n);
  // The page of this word is wanted no more.
  void forget(std::uint64_t payload);
  // Gives disk space that nothing uses back to the file system.
  void trim() BUOY_EXCLUDES(lock_);

  [[nodiscard]] std::uint64_t pages() const { return pages_.load(std::memory_order_relaxed); }
  // Of records that live, headers included.
  [[nodiscard]] ByteSize live_bytes() const { return live_bytes_.load(std::memory_order_relaxed); }
  // Disk space held by the file of this process. Lock-free.
  [[nodiscard]] ByteSize allocated_bytes() const { return clusters_.allocated_bytes(); }
  // Of this process's file and all that share its bound, as booked; the bound, or 0 if there is none.
  [[nodiscard]] ByteSize tree_bytes() const;
  [[nodiscard]] ByteSize bound() const;
  // How many pages it can still take, none of which compress, as far as one can tell now: others
  // write to the same disk. Lock-free.
  [[nodiscard]] PageCount room() const;
  [[nodiscard]] ByteSize metadata_bytes() const BUOY_NO_TSA;
  void validate() BUOY_EXCLUDES(lock_);

  // With no other call under way.
  void before_fork() BUOY_NO_TSA;
  void after_fork_in_parent() BUOY_NO_TSA;
  void after_fork_in_child() BUOY_NO_TSA;

 private:
  template <typename T, typename... Args>
  friend Result<T*> frames::place(Args&&... args);
  template <typename T>
  friend void frames::displace(T* object);

  static constexpr unsigned kMaxFiles = 16;       // own and inherited ones
  static constexpr std::uint8_t kForever = 0x80;  // the freeze bit that is never taken back
  static constexpr unsigned kLifeLines = 7;       // children whose end is watched

  explicit BackingFile(const Parts& parts) : parts_(parts) {}
  ~BackingFile() = default;
  [[nodiscard]] Status open(const char* where);
  [[nodiscard]] Status remember_directory(std::string_view directory);
  // What the file that this process writes needs: a share of the bound, and a key. Without, nothing is
  // written.
  void equip();
  [[nodiscard]] Status make_key();

  // Records of one cluster, by offset, that one buffer holds. False: the file cannot be read there.
  [[nodiscard]] bool load_together(const Reading* readings, unsigned n);

  [[nodiscard]] bool may_write_locked() BUOY_REQUIRES(lock_);
  void thaw_locked() BUOY_REQUIRES(lock_);

  // A batch's life: begin (a place in a cluster), fill, start, finish. begin: false if there is no
  // room in the file.
  [[nodiscard]] bool begin_locked(Batch& batch, ClusterMap::Purpose purpose) BUOY_REQUIRES(lock_);
  [[nodiscard]] bool open_cluster_locked(ClusterMap::Purpose purpose) BUOY_REQUIRES(lock_);
  void start_locked(Batch& batch) BUOY_REQUIRES(lock_);
  [[nodiscard]] bool finish_locked(Batch& batch, PageCount* freed) BUOY_REQUIRES(lock_);
  void wait_locked(Batch& batch) BUOY_REQUIRES(lock_);
  PageCount settle_locked(const Batch& batch, const BatchItem& item, bool written)
      BUOY_REQUIRES(lock_);
  PageCount settle_object_locked(const Batch& batch, const BatchItem& item, bool written)
      BUOY_REQUIRES(lock_);
  void settle_moved_locked(const Batch& batch, const BatchItem& item) BUOY_REQUIRES(lock_);
  void collect_old_locked(Batch& batch, std::uint64_t* scans_left) BUOY_REQUIRES(lock_);

  // Moves what lives in the sparsest clusters together, if below `share` percent. Clusters freed.
  unsigned collect_garbage_locked(unsigned share, unsigned most) BUOY_REQUIRES(lock_);
  enum class Emptied : std::uint8_t {
    kEmptied,
    kInUse,       // a reader has a record in it; another time
    kUnreadable,  // something in it does not read back, and stays
    kNoRoom,      // nothing to move it to, or it could not be written
  };
  [[nodiscard]] Emptied empty_cluster_locked(std::uint32_t cluster) BUOY_REQUIRES(lock_);

  void count_in(std::uint32_t record);
  void complain_once(std::atomic<bool>& said, const char* what, int code);
  void complain_of_no_room(int code);

  const Parts parts_;
  ClusterMap clusters_;
  WorkAreas readers_;  // a state and a buffer for each thread that reads
  std::array<OpenFile, kMaxFiles> files_{};
  std::array<FileCipher, kMaxFiles> ciphers_{};  // of the same files
  std::uint8_t own_ = 0;                         // the file that this process writes
  bool empty_at_end_ = false;                    // a named file that stays: emptied when we go
  char directory_[256] = {};                     // where a child opens its own file

  Mutex<LockRank::kSwapFile> lock_;
  std::uint32_t open_ BUOY_GUARDED_BY(lock_) = ClusterMap::kNone;
  std::uint32_t hand_ BUOY_GUARDED_BY(lock_) = 1;  // of the clock: a handle
  bool is_collecting_ BUOY_GUARDED_BY(lock_) = false;
  BatchBuffers buffers_ BUOY_GUARDED_BY(lock_);
  Uring ring_ BUOY_GUARDED_BY(lock_);
  bool tried_ring_ BUOY_GUARDED_BY(lock_) = false;
  std::array<int, kLifeLines> life_lines_ BUOY_GUARDED_BY(lock_){-1, -1, -1, -1, -1, -1, -1};
  LifeLine forking_ BUOY_GUARDED_BY(lock_);  // between before_fork and after_fork

  std::atomic<std::uint64_t> pages_{0};
  std::atomic<std::uint64_t> live_bytes_{0};
  std::atomic<bool> is_broken_{false};  // no more writing; set under the lock
  std::atomic<bool> said_full_{false};
  std::atomic<bool> said_broken_{false};
  std::atomic<bool> said_corrupt_{false};
};

}  // namespace buoy::swap
