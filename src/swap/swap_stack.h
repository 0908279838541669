// SwapStack: the tiers below resident memory, behind one interface.
//
//   tier 1  zram device: compressed objects in the zpool (same-filled pages: no object)
//   tier 2  backing file: compressed objects, checksummed, written in batches   (optional)
//
// A stored page is named by a SwapEntry, which fits into a PTE and stays the same while the page
// changes tiers (the entry indexes a table of 8-byte words; compaction and write-back change the
// word, not the PTE). One owner per entry: the caller orders load and free of the same entry.
//
// No call takes a leaf lock. store() and write_back() may block on memory and on the disk;
// load() may block on the disk if is_slow() said so (or became true meanwhile).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/counters.h"
#include "base/result.h"
#include "base/swap_entry.h"
#include "base/units.h"
#include "frames/budget.h"
#include "frames/place.h"

namespace buoy::frames {
class Arena;
}

namespace buoy::swap {

class DiskLedger;

enum class StoreOutcome : std::uint8_t { kStored, kFull };
enum class LoadOutcome : std::uint8_t { kLoaded, kCorrupt };

// One page of a load of several.
struct PageLoad {
  SwapEntry entry;
  std::byte* out = nullptr;  // 4096 bytes
  LoadOutcome outcome = LoadOutcome::kCorrupt;
};

// Whether the backing file is encrypted, with a key that nobody keeps.
enum class FileEncryption : std::uint8_t { kNone, kChaCha20 };

enum class CompressorKind : std::uint8_t { kLz4, kZstd, kNone };

struct SwapOptions {
  CompressorKind compressor = CompressorKind::kLz4;
  // Null or "none": no file. "auto": an unlinked file in $TMPDIR. Otherwise a path.
  const char* backing_file = nullptr;
  FileEncryption encryption = FileEncryption::kNone;
  // The bound that the file shares with others; null: none. Outlives the stack.
  DiskLedger* disk_ledger = nullptr;
  // The most that compressed pages may take of memory; 0: no such limit.
  ByteSize most_compressed = 0;
};

struct SwapStats {
  std::uint64_t compressed_pages = 0;      // pages in tier 1, same-filled ones included
  ByteSize compressed_bytes = 0;           // stored size in tier 1, headers included
  ByteSize compressed_original_bytes = 0;  // their size before
  ByteSize pool_bytes = 0;                 // frames that tier 1 holds (zram's mem_used_total)
  std::uint64_t same_filled_pages = 0;
  std::uint64_t incompressible_pages = 0;  // stored as they are
  ByteSize backing_file_bytes = 0;         // bytes of the file in use
  ByteSize metadata_bytes = 0;             // tables, buffers; the zpool's included
};

class SwapStack {
 public:
  // Errors: EINVAL; the file's errno. Nothing is kept on failure.
  [[nodiscard]] static Result<SwapStack*> create(const SwapOptions& options, frames::Arena& arena,
                                                 Counters& counters);
  static void destroy(SwapStack* stack);

  // Stores the 4096 bytes. kFull: no tier has room (the arena may not grow, the file is full).
  // The page's bytes may change under our eyes (the caller drops the result then): no overrun.
  [[nodiscard]] StoreOutcome store(const std::byte* page, SwapEntry* entry);
  // The 4096 bytes to `out`; the entry stays. kCorrupt: unreadable, or the checksum is wrong.
  [[nodiscard]] LoadOutcome load(SwapEntry entry, std::byte* out);
  // Several pages, at most kMostLoads, each with its own outcome: what lies together in the file is
  // read together.
  static constexpr unsigned kMostLoads = 32;
  void load_many(PageLoad* loads, unsigned n);
  void free(SwapEntry entry);

  // Would load() wait for the disk?
  [[nodiscard]] bool is_slow(SwapEntry entry) const;
  // Memory that the compressed copy takes, metadata aside; 0 for a same-filled or a backed page.
  [[nodiscard]] ByteSize stored_bytes(SwapEntry entry) const;
  // Is the page in the backing file rather than compressed in memory?
  [[nodiscard]] bool is_backed(SwapEntry entry) const;

  // Moves the oldest compressed pages to the file until about `goal` arena frames became free;
  // frames freed. 0 when there is no file or it takes no more.
  PageCount write_back(PageCount goal);
  // Moves objects together, then the frames that are left, and gives empty pageblocks back; frames
  // freed. Bounded.
  PageCount compact();
  [[nodiscard]] bool has_file() const;
  // Pages that the file can still take, whatever is in them; none without a file. Lock-free.
  [[nodiscard]] PageCount file_room() const;
  // Pages that take no room, being one word over and over. Lock-free.
  [[nodiscard]] std::uint64_t same_filled_pages() const;
  // Frames that compressed pages hold, and the most that they may, without a lock.
  [[nodiscard]] PageCount frames() const;
  [[nodiscard]] PageCount most_frames() const;

  [[nodiscard]] SwapStats stats() const;
  // Disk space that the file of this process holds, in use or kept for use.
  [[nodiscard]] ByteSize backing_file_allocated_bytes() const;
  // That of all files that share a bound with it; and the bound, 0 if there is none.
  [[nodiscard]] ByteSize backing_file_tree_bytes() const;
  [[nodiscard]] ByteSize backing_file_bound() const;
  // Whole-structure check of the accounting equations; aborts on a violation.
  void validate();

  // fork. The child shares the open file with its parent: what is in the file stays readable,
  // the child allocates no slot of it that the parent might reuse (see swap's own notes).
  void before_fork();
  void after_fork_in_parent();
  void after_fork_in_child();

 private:
  struct Tiers;
  template <typename T, typename... Args>
  friend Result<T*> frames::place(Args&&... args);
  template <typename T>
  friend void frames::displace(T* object);

  SwapStack() = default;
  ~SwapStack() = default;

  Tiers* tiers_ = nullptr;
};

}  // namespace buoy::swap
