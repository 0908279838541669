// Trace: what a program did to its pages, in the order in which it did it, held in memory.
//
// Pages are numbered from 0 without large gaps: whoever makes a trace of far-apart addresses closes the
// gaps by whole blocks of 512 pages (TraceBuilder), which keeps neighbours neighbours, also across
// the blocks that the engine works by.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace buoy::sim {

using Page = std::uint32_t;
inline constexpr Page kNoPage = ~Page{0};

enum class Act : std::uint8_t {
  kLoad,
  kStore,
  kDiscard,   // contents are forgotten: MADV_DONTNEED, munmap, a new mapping
  kFree,      // contents may be forgotten until the next store: MADV_FREE
  kCold,      // MADV_COLD
  kPageOut,   // MADV_PAGEOUT
  kWillNeed,  // MADV_WILLNEED
};

// Eight bytes; traces have tens of millions.
class Event {
 public:
  static constexpr std::uint32_t kMostPages = (1U << 24) - 1;

  Event(Act act, Page page, std::uint32_t count = 1)
      : page_(page), bits_(count << 8 | static_cast<std::uint32_t>(act)) {}
  [[nodiscard]] Act act() const { return static_cast<Act>(bits_ & 0xffU); }
  [[nodiscard]] Page page() const { return page_; }
  [[nodiscard]] std::uint32_t count() const { return bits_ >> 8; }  // pages; of an access: 1
  [[nodiscard]] bool is_access() const { return act() <= Act::kStore; }
  [[nodiscard]] bool forgets() const { return act() == Act::kDiscard || act() == Act::kFree; }

 private:
  Page page_;
  std::uint32_t bits_;
};
static_assert(sizeof(Event) == 8);

struct Trace {
  std::vector<Event> events;
  Page pages = 0;                  // page numbers are below this
  std::uint64_t accesses = 0;      // events that are accesses
  std::uint64_t footprint = 0;     // different pages accessed
  std::uint64_t uncounted = 0;     // of the accesses, the first so many only fill memory
  std::uint64_t lost_records = 0;  // what the recorder says it had to drop

  // Counts accesses, footprint and pages anew, after `events` changed.
  void recount();
};

// Makes a trace of page numbers that may be anything below 2^63.
class TraceBuilder {
 public:
  void access(std::uint64_t page, bool is_store) {
    add(is_store ? Act::kStore : Act::kLoad, page, 1);
  }
  // Of an advice the parts that lie in blocks that are ever accessed are kept.
  void add(Act act, std::uint64_t page, std::uint64_t count) { raw_.push_back({page, count, act}); }
  void note_lost(std::uint64_t records) { lost_ += records; }
  [[nodiscard]] bool is_empty() const { return raw_.empty(); }
  [[nodiscard]] Trace finish() &&;

 private:
  struct Raw {
    std::uint64_t page;
    std::uint64_t count;
    Act act;
  };
  using Ranks = std::unordered_map<std::uint64_t, std::uint32_t>;
  [[nodiscard]] Ranks rank_blocks() const;
  void emit(const Raw& raw, const Ranks& ranks, Trace& trace) const;

  std::vector<Raw> raw_;
  std::uint64_t lost_ = 0;
};

}  // namespace buoy::sim
