// The file that `buoy run --trace` writes and buoy-sim reads: what a process did to its managed pages.
//
//   [ header 64 ] [ record 16 ] [ record 16 ] ...   ( [ header 64 ] [ record 16 ] ... after an exec )
//
// Little endian, as the machine is. Records of different CPUs are interleaved by the batch: the
// sequence number has the order. A header where a record could begin starts a new address space (its
// first eight bytes are no record's: no kind is that high). Documented in docs/simulator.md; a
// change of meaning takes a new version.
#pragma once

#include <cstdint>
#include <cstring>

namespace buoy::trace {

inline constexpr char kMagic[8] = {'B', 'U', 'O', 'Y', '-', 'T', 'R', 'C'};
inline constexpr std::uint32_t kVersion = 1;

struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t record_bytes;  // sizeof(Record)
  std::uint32_t page_bytes;    // 4096
  std::uint32_t flags;
  std::uint64_t pid;
  std::uint64_t budget_bytes;  // 0: recorded without one
  std::uint64_t run;           // which run of `buoy run`: the pid of its first process
  std::uint64_t reserved[2];
};
static_assert(sizeof(Header) == 64);

enum Flag : std::uint32_t {
  kFaultsOnly = 1,  // accesses to pages that were resident are not there
};

enum class Kind : std::uint8_t {
  kLoad = 0,      // an access; of a recorded one: that faulted
  kStore = 1,     //
  kDiscard = 2,   // MADV_DONTNEED and the like: contents gone
  kFree = 3,      // MADV_FREE
  kCold = 4,      // MADV_COLD
  kPageOut = 5,   // MADV_PAGEOUT
  kWillNeed = 6,  // MADV_WILLNEED, MADV_POPULATE_*
  kMap = 7,       // zeros from now on
  kUnmap = 8,     //
  kMoveFrom = 9,  // mremap: contents have left from here
  kMoveTo = 10,   //   and are here now
  kLost = 11,     // `count` records before this one could not be written
  kCount
};

class Record {
 public:
  static constexpr std::uint64_t kMostPages = (std::uint64_t{1} << 24) - 1;
  static constexpr std::uint64_t kPageLimit = std::uint64_t{1} << 40;

  Record() = default;
  // `page` < kPageLimit, 1 <= count <= kMostPages.
  Record(Kind kind, std::uint64_t page, std::uint64_t count, std::uint64_t sequence)
      : where_(page | static_cast<std::uint64_t>(kind) << 40), when_(sequence << 24 | count) {}
  [[nodiscard]] Kind kind() const { return static_cast<Kind>(where_ >> 40 & 0xffU); }
  [[nodiscard]] std::uint64_t page() const { return where_ & (kPageLimit - 1); }
  [[nodiscard]] std::uint64_t count() const { return when_ & kMostPages; }
  // Starts again at 0 after 2^40.
  [[nodiscard]] std::uint64_t sequence() const { return when_ >> 24; }
  [[nodiscard]] bool is_known() const { return where_ >> 40 < static_cast<unsigned>(Kind::kCount); }

 private:
  std::uint64_t where_ = 0;  // page: 40, kind: 8, zero: 16
  std::uint64_t when_ = 0;   // count: 24, sequence: 40
};
static_assert(sizeof(Record) == 16);

inline Header make_header(std::uint32_t flags, std::uint64_t pid, std::uint64_t budget_bytes) {
  Header h{};
  std::memcpy(h.magic, kMagic, sizeof kMagic);
  h.version = kVersion;
  h.record_bytes = sizeof(Record);
  h.page_bytes = 4096;
  h.flags = flags;
  h.pid = pid;
  h.budget_bytes = budget_bytes;
  return h;
}

}  // namespace buoy::trace
