// FrameCache: the single frames that one CPU keeps at hand, so that taking and giving one frame
// seldom meets the zone lock. Sharded by the CPU a thread happens to run on: a thread that moves
// on in between only shares a shard, so a small lock guards each.
//
// A cached frame is charged and belongs to nobody (PageState::kCached). Caches are kept small:
// every cached frame keeps its pageblock from going back to the system.
//
// The lock has the zone lock's rank and is never held together with it: frames pass between the
// cache and the zone through a Batch on the caller's stack.
#pragma once

#include <array>
#include <cstdint>

#include "base/lock.h"
#include "base/units.h"
#include "frames/page.h"

namespace buoy::frames {

// A few frames on their way.
struct FrameBatch {
  static constexpr unsigned kCapacity = 8;  // a refill: enough to halve zone trips eight times
  std::array<Pfn, kCapacity> frames;
  unsigned count = 0;

  [[nodiscard]] bool is_full() const { return count == kCapacity; }
  void push(Pfn f) { frames[count++] = f; }
  [[nodiscard]] Pfn pop() { return frames[--count]; }
};

class alignas(64) FrameCache {
 public:
  [[nodiscard]] Pfn try_pop(MigrateType type) {
    const Guard guard(lock_);
    Stack& s = stacks_[index(type)];
    return s.count == 0 ? Pfn::none() : s.frames[--s.count];
  }
  // Pushes the frame; when the cache is full, moves a batch of its oldest frames out first, into
  // `overflow`, which is empty.
  void push(MigrateType type, Pfn frame, FrameBatch& overflow) {
    const Guard guard(lock_);
    Stack& s = stacks_[index(type)];
    if (s.count == kHigh) {
      while (!overflow.is_full()) overflow.push(s.frames[overflow.count]);
      s.count -= FrameBatch::kCapacity;
      for (unsigned i = 0; i < s.count; ++i) s.frames[i] = s.frames[i + FrameBatch::kCapacity];
    }
    s.frames[s.count++] = frame;
  }
  // Moves up to a batch out; false when nothing was left.
  [[nodiscard]] bool drain(FrameBatch& out) {
    const Guard guard(lock_);
    for (Stack& s : stacks_)
      while (s.count > 0 && !out.is_full()) out.push(s.frames[--s.count]);
    return out.count > 0;
  }

 private:
  static constexpr unsigned kHigh = 2 * FrameBatch::kCapacity;
  struct Stack {
    unsigned count = 0;
    std::array<Pfn, kHigh> frames;
  };
  static unsigned index(MigrateType t) { return t == MigrateType::kMovable ? 1 : 0; }

  Mutex<LockRank::kZone> lock_;
  std::array<Stack, 2> stacks_ BUOY_GUARDED_BY(lock_){};
};

}  // namespace buoy::frames
