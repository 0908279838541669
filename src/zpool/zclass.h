// Zclass: one size class at work: its zspages by fullness, its lock, its counts.
//
// New objects go to the fullest zspage that has a slot; compaction takes from the emptiest. The
// lock is held for a few dozen instructions by put and free, and for the copy of one zspage's
// objects at most by compaction.
#pragma once

#include <array>
#include <cstdint>

#include "base/lock.h"
#include "base/slab.h"
#include "base/units.h"
#include "frames/arena.h"
#include "zpool/handle.h"
#include "zpool/zspage.h"

namespace buoy::zpool {

// What the classes of a pool share. Lives in the pool.
struct ZpoolParts {
  frames::Arena& arena;
  HandleTable handles;
  Slab<Zspage> zspages;

  [[nodiscard]] std::byte* slot_start(const Zspage& z, unsigned slot) const {
    const unsigned offset = slot * z.size_class().slot_bytes;
    return arena.pointer(z.frames[offset >> kPageShift]) + (offset & (kPageSize - 1));
  }
};

struct ZclassCounts {
  std::uint64_t objects = 0;
  std::uint64_t zspages = 0;
  std::uint64_t object_bytes = 0;  // lengths as given, headers not included
};

class alignas(64) Zclass {
 public:
  // The pool sets the index once, before use.
  void set_index(unsigned index) { index_ = static_cast<std::uint8_t>(index); }
  [[nodiscard]] const SizeClass& size() const { return kSizeClasses.at(index_); }

  // Takes a slot of a zspage that has one and makes the pinned handle's word name it. False: all
  // zspages are full.
  [[nodiscard]] bool try_take_slot(ZpoolParts& parts, Handle handle, unsigned length,
                                   HandleWord* word) BUOY_EXCLUDES(lock_);
  // Adds an empty zspage (descriptor and frames are there) and takes its first slot.
  void take_slot_of_new(ZpoolParts& parts, std::uint32_t zspage, Handle handle, unsigned length,
                        HandleWord* word) BUOY_EXCLUDES(lock_);
  // Gives a pinned object's slot back. Returns the zspage if that emptied it: it is in no list
  // then, and the caller frees it. Else 0.
  [[nodiscard]] std::uint32_t give_slot(ZpoolParts& parts, HandleWord word) BUOY_EXCLUDES(lock_);
  // Moves the objects of the emptiest zspage into fuller ones, if the free slots elsewhere can
  // take them all. Returns the zspage if that emptied it (as give_slot), else 0: nothing to gain,
  // or an object was pinned; *go_on says whether another call may gain more.
  [[nodiscard]] std::uint32_t compact_step(ZpoolParts& parts, bool* go_on) BUOY_EXCLUDES(lock_);

  // Moves frame number `f` of the zspage from `old_frame` to `fresh`. False: the zspage is not in
  // use yet or any more, or an object that touches the frame is pinned (never waits). Copies 4 KiB
  // under the lock.
  [[nodiscard]] bool migrate_frame(ZpoolParts& parts, std::uint32_t zspage, unsigned f,
                                   Pfn old_frame, Pfn fresh) BUOY_EXCLUDES(lock_);

  [[nodiscard]] ZclassCounts counts() const BUOY_EXCLUDES(lock_);
  void validate(ZpoolParts& parts) BUOY_EXCLUDES(lock_);

 private:
  [[nodiscard]] HandleWord take_slot_locked(ZpoolParts& parts, std::uint32_t index, Handle handle,
                                            unsigned length, unsigned marks) BUOY_REQUIRES(lock_);
  void give_slot_locked(ZpoolParts& parts, std::uint32_t index, unsigned slot) BUOY_REQUIRES(lock_);
  void set_group_locked(ZpoolParts& parts, std::uint32_t index) BUOY_REQUIRES(lock_);
  void unlink_locked(ZpoolParts& parts, std::uint32_t index) BUOY_REQUIRES(lock_);
  // The fullest zspage with a free slot, and not `but`, which must be its group's first or 0.
  [[nodiscard]] std::uint32_t fullest_locked(ZpoolParts& parts, std::uint32_t but) const
      BUOY_REQUIRES(lock_);
  [[nodiscard]] std::uint32_t emptiest_locked() const BUOY_REQUIRES(lock_);
  [[nodiscard]] bool move_object_locked(ZpoolParts& parts, std::uint32_t from, unsigned slot)
      BUOY_REQUIRES(lock_);

  mutable Mutex<LockRank::kZclass> lock_;
  std::uint8_t index_ = 0;
  std::array<std::uint32_t, kGroups> groups_ BUOY_GUARDED_BY(lock_){};  // first zspage; 0: none
  ZclassCounts counts_ BUOY_GUARDED_BY(lock_);
};

// Copies an object in or out of a zspage, over frame borders. The handle must be pinned.
void copy_in(const ZpoolParts& parts, HandleWord word, const std::byte* data);
void copy_out(const ZpoolParts& parts, HandleWord word, std::byte* out);
// The object's bytes in place, or null when they lie in frames that are not neighbours.
[[nodiscard]] inline const std::byte* in_place(const ZpoolParts& parts, HandleWord word) {
  const Zspage& z = parts.zspages.at(word.zspage());
  const SizeClass& c = z.size_class();
  if (c.is_whole_frame()) return parts.arena.pointer(z.frames[0]);
  const unsigned start = word.object() * c.slot_bytes + kHeaderBytes;
  const unsigned first = start >> kPageShift;
  const unsigned last = (start + word.length() - 1) >> kPageShift;
  // A slot is shorter than a frame: it touches two frames at most.
  if (first != last && z.frames[last].value() != z.frames[first].value() + 1) return nullptr;
  return parts.arena.pointer(z.frames[first]) + (start & (kPageSize - 1));
}

}  // namespace buoy::zpool
