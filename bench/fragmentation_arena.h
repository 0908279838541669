// ChurnedArena: an arena of fixed size after hours of use, in seconds.
//
// Two kinds of memory come and go in it: compressed objects (a real zpool) whose sizes drift, and a
// driver's buffers of 4 to 64 KiB. Every epoch drops two fifths of both at random, fills the arena
// up with objects of another size, and drops at random again until the wanted part of it is in use:
// so pageblocks end up sparse unless something is done about it.
// Contents are stamped and checked when a buffer goes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/counters.h"
#include "base/units.h"
#include "frames/arena.h"
#include "frames/budget.h"
#include "histogram.h"
#include "zpool/zpool.h"

namespace buoy::bench {

// What becomes of fragmentation.
enum class Treatment {
  kStays,     // nothing moves
  kMoves,     // everything moves; compaction in the background and on demand
  kDiscards,  // nothing moves; the memory of free frames goes back with madvise(MADV_DONTNEED)
};

// A small, fast generator (splitmix64); the same seed gives the same churn on every side.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
  }
  std::uint64_t below(std::uint64_t n) { return next() % n; }

 private:
  std::uint64_t state_;
};

// A driver with buffers by number. A buffer is held while its user works on it, and moves only
// while it is not. One user thread; moves on any thread.
class BufferDriver final : public frames::MovableOps {
 public:
  BufferDriver(frames::Arena& arena, bool movable);
  ~BufferDriver();
  BufferDriver(const BufferDriver&) = delete;
  BufferDriver& operator=(const BufferDriver&) = delete;

  // False: the arena has no such run.
  [[nodiscard]] bool try_add(Order order);
  void drop(std::size_t index);
  // Checks the stamp of one.
  void use(std::size_t index);
  [[nodiscard]] std::size_t count() const { return live_.size(); }
  [[nodiscard]] std::uint64_t frames() const { return frames_; }
  // A page of the buffer; good while nothing moves.
  [[nodiscard]] const std::byte* place_of(std::size_t index) const;

  [[nodiscard]] bool isolate(Pfn, frames::MigrateMode) override { return true; }
  [[nodiscard]] frames::MigrateOutcome migrate(Pfn from, Pfn to, frames::MigrateMode) override;
  void put_back(Pfn) override {}

 private:
  // The head's number; kHeld: its user or a mover is at it.
  static constexpr std::uint64_t kHeld = std::uint64_t{1} << 63;
  using Slot = std::atomic<std::uint64_t>;
  static constexpr std::size_t kSlots = std::size_t{1} << 18;

  [[nodiscard]] Pfn hold(std::uint32_t slot);
  void let_go(std::uint32_t slot, Pfn head) { slots_[slot].store(head.value()); }
  void check_stamp(std::uint32_t slot, Pfn head) const;

  frames::Arena& arena_;
  const bool movable_;
  frames::OwnerId id_ = 0;
  std::unique_ptr<Slot[]> slots_;
  std::vector<std::uint32_t> live_;  // slots in use
  std::vector<std::uint32_t> free_;
  std::uint64_t frames_ = 0;
};

// Requests for runs of one order.
struct Burst {
  std::uint64_t asked = 0;
  std::uint64_t served = 0;
  double ticks = 0;  // of those that were served, with a store to every page
  Histogram latency;
};

class ChurnedArena {
 public:
  struct Shape {
    Treatment treatment = Treatment::kMoves;
    std::uint32_t blocks = 0;
    std::uint32_t reserve_blocks = 0;
    std::uint64_t seed = 1;
    double driver_part = 0.25;  // of the frames in use
    bool compacts_in_background = true;
  };
  explicit ChurnedArena(const Shape& shape);  // throws Unavailable
  ~ChurnedArena();
  ChurnedArena(const ChurnedArena&) = delete;
  ChurnedArena& operator=(const ChurnedArena&) = delete;

  // Epochs, the last one ending with so much of the arena in use (0 to 1).
  void churn(double use, unsigned epochs);
  // Use rises by so much of the arena above this, or until it is full, and falls back to it.
  void turn_over(double use, double part);
  // Drops so much of the objects and of the buffers.
  void drop_part(double part);
  void fill_to(double use);
  void drop_to(double use);
  // One put, free, look or buffer: what the foreground does, at constant use.
  void step();
  // What happens while nobody asks for anything for a second.
  void idle();
  // Unless the treatment is kMoves, nothing that is there now will move, whoever wants it to.
  void freeze_unless_movable();
  // Objects or single buffers only (driver_part 0, or more), up to this use.
  void fill_singly(double use);

  // Asks for runs that would fill `part` of what is free, at least one; touches and frees them.
  void ask(Order order, double part, Burst* burst);
  struct Claim {
    bool served = false;
    double microseconds = 0;
  };
  [[nodiscard]] Claim ask_contiguous(PageCount count, frames::Area area);

  [[nodiscard]] std::uint64_t total_frames() const { return shape_.blocks * kPagesPerBlock; }
  [[nodiscard]] std::uint64_t used_frames() const;
  [[nodiscard]] double use() const;
  // Frames that are charged (kDiscards: resident) without being in use or in a whole free block.
  [[nodiscard]] std::uint64_t lost_frames();
  // Of the reserve's frames, how many are in use.
  [[nodiscard]] double reserve_use();
  // Bytes of the arena that are resident, and on huge pages.
  struct Residency {
    std::uint64_t resident = 0;
    std::uint64_t huge = 0;
  };
  [[nodiscard]] Residency residency() const;
  // Nanoseconds for one dependent load from a random place in use; nothing may move meanwhile.
  [[nodiscard]] double access_ns();
  // Nanoseconds to pin and copy a random object.
  [[nodiscard]] double read_ns(std::size_t reads);

  [[nodiscard]] frames::Arena& arena() { return *arena_; }
  [[nodiscard]] zpool::Zpool& pool() { return *pool_; }
  [[nodiscard]] BufferDriver& driver() { return *driver_; }
  [[nodiscard]] Counters& counters() { return counters_; }
  void validate();

 private:
  bool add_object();
  void drop_object(std::size_t index);
  bool add_buffer();
  void tend();
  void discard_free();

  const Shape shape_;
  Random random_;
  Budget budget_;
  Counters counters_;
  frames::Arena* arena_ = nullptr;
  zpool::Zpool* pool_ = nullptr;
  std::unique_ptr<BufferDriver> driver_;
  std::vector<zpool::Handle> objects_;
  std::vector<std::byte> source_;  // incompressible bytes to make objects of
  unsigned epoch_ = 0;
  std::uint64_t operations_ = 0;
};

// Throws Unavailable for an unknown name: "stays", "moves", "discards".
[[nodiscard]] Treatment treatment_named(const char* name);

}  // namespace buoy::bench
