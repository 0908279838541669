// Pageblock: 512 frames, their buddy lists, and what decides whether the arena allocates here.
//
// The buddy lists live in the block, not in the zone: the zone keeps blocks ordered by how full
// they are and by the largest run they can serve, so that an allocation picks the fullest block
// that serves it and the others empty out, which one global list per order cannot do.
//
//   states   kAbsent -> kArriving -> kPresent -> kLeaving -> kAbsent
//   kArriving, kLeaving: one thread charges or discards it, outside the zone lock; in no list.
//
// A present block whose type is kIsolate is being emptied by one thread: nothing is allocated from
// it until that thread gives it its type back.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/units.h"
#include "frames/page.h"

namespace buoy::frames {

enum class BlockState : std::uint8_t { kAbsent = 0, kArriving, kPresent, kLeaving };

// All fields but the atomic: guard: the zone lock.
struct Pageblock {
  std::array<std::uint16_t, kMaxOrder + 1> free_head{};  // 1 + frame in block; 0: empty list
  std::uint16_t order_mask = 0;                          // bit o: the list of order o has runs
  std::uint16_t free_frames = 0;                         // frames in the lists
  BlockState state = BlockState::kAbsent;
  MigrateType type = MigrateType::kUnmovable;
  std::uint8_t list_bin = 0;  // where the zone has it linked; meaningful while linked
  std::uint8_t list_order = 0;
  bool is_linked = false;
  std::uint8_t skip_hint = 0;  // compaction: tried in vain in this cycle (0: never); passed over
  MigrateType type_before = MigrateType::kUnmovable;  // while the type is kIsolate
  bool was_returned = false;                          // its memory went back to the system once
  // The type is kIsolate: frames that are freed here do not go to a cache. Read without the lock.
  std::atomic<bool> is_isolated{false};
  std::uint32_t prev = 0;  // 1 + block number; 0: none
  std::uint32_t next = 0;

  [[nodiscard]] bool is_whole() const { return free_frames == kPagesPerBlock; }
  [[nodiscard]] unsigned largest_order() const {
    return 31U - static_cast<unsigned>(__builtin_clz(order_mask));
  }
};

}  // namespace buoy::frames
