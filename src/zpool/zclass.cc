#include "zpool/zclass.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace buoy::zpool {
namespace {

std::uint32_t read_header(const ZpoolParts& parts, const Zspage& z, unsigned slot) {
  if (z.size_class().is_whole_frame()) return z.whole_frame_handle;
  std::uint32_t header = 0;
  std::memcpy(&header, parts.slot_start(z, slot), sizeof header);
  return header;
}

void write_header(const ZpoolParts& parts, Zspage& z, unsigned slot, std::uint32_t header) {
  if (z.size_class().is_whole_frame())
    z.whole_frame_handle = header;
  else
    std::memcpy(parts.slot_start(z, slot), &header, sizeof header);
}

constexpr std::uint32_t taken_header(Handle h) { return h.index() << 1 | 1U; }
constexpr std::uint32_t free_header(unsigned next_plus_1) { return next_plus_1 << 1; }
constexpr bool is_taken(std::uint32_t header) { return (header & 1U) != 0; }

// Calls copy(bytes in the zspage, offset in the object, length) for each contiguous piece.
template <typename Copy>
void for_each_piece(const ZpoolParts& parts, HandleWord word, Copy copy) {
  const Zspage& z = parts.zspages.at(word.zspage());
  const SizeClass& c = z.size_class();
  unsigned at = word.object() * c.slot_bytes + (c.is_whole_frame() ? 0 : kHeaderBytes);
  for (unsigned done = 0; done < word.length();) {
    const auto in_frame = static_cast<unsigned>(at & (kPageSize - 1));
    const unsigned rest = word.length() - done;
    const auto room = static_cast<unsigned>(kPageSize) - in_frame;
    const unsigned piece = rest < room ? rest : room;
    copy(parts.arena.pointer(z.frames[at >> kPageShift]) + in_frame, done, piece);
    at += piece;
    done += piece;
  }
}

}  // namespace

void copy_in(const ZpoolParts& parts, HandleWord word, const std::byte* data) {
  for_each_piece(parts, word, [data](std::byte* place, unsigned done, unsigned n) {
    std::memcpy(place, data + done, n);
  });
}

void copy_out(const ZpoolParts& parts, HandleWord word, std::byte* out) {
  for_each_piece(parts, word, [out](const std::byte* place, unsigned done, unsigned n) {
    std::memcpy(out + done, place, n);
  });
}

// ---------------------------------------------------------------- fullness groups

void Zclass::unlink_locked(ZpoolParts& parts, std::uint32_t index) {
  Zspage& z = parts.zspages.at(index);
  if (z.group == kGroupNone) return;
  if (z.prev != 0)
    parts.zspages.at(z.prev).next = z.next;
  else
    groups_[z.group] = z.next;
  if (z.next != 0) parts.zspages.at(z.next).prev = z.prev;
  z.group = kGroupNone;
}

void Zclass::set_group_locked(ZpoolParts& parts, std::uint32_t index) {
  Zspage& z = parts.zspages.at(index);
  const unsigned group = Zspage::group_of(z.in_use, size().objects);
  if (group == z.group) return;
  unlink_locked(parts, index);
  if (group == kGroupNone) return;
  z.group = static_cast<std::uint8_t>(group);
  z.prev = 0;
  z.next = groups_[group];
  if (z.next != 0) parts.zspages.at(z.next).prev = index;
  groups_[group] = index;
}

std::uint32_t Zclass::fullest_locked(ZpoolParts& parts, std::uint32_t but) const {
  for (unsigned g = kGroupFull; g-- > kGroupNone + 1;) {
    std::uint32_t index = groups_[g];
    if (index != 0 && index == but) index = parts.zspages.at(index).next;
    if (index != 0) return index;
  }
  return 0;
}

std::uint32_t Zclass::emptiest_locked() const {
  for (unsigned g = kGroupNone + 1; g < kGroupFull; ++g)
    if (groups_[g] != 0) return groups_[g];
  return 0;
}

// ---------------------------------------------------------------- slots

HandleWord Zclass::take_slot_locked(ZpoolParts& parts, std::uint32_t index, Handle handle,
                                    unsigned length, unsigned marks) {
  Zspage& z = parts.zspages.at(index);
  unsigned slot = 0;
  if (z.first_free != 0) {
    slot = z.first_free - 1U;
    z.first_free = static_cast<std::uint16_t>(read_header(parts, z, slot) >> 1);
  } else {
    slot = z.untouched++;
  }
  BUOY_DCHECK(slot < size().objects);
  write_header(parts, z, slot, taken_header(handle));
  ++z.in_use;
  set_group_locked(parts, index);
  ++counts_.objects;
  counts_.object_bytes += length;
  const HandleWord word = HandleWord::native(index, slot, length, marks);
  parts.handles.store_pinned(handle, word);
  return word;
}

void Zclass::give_slot_locked(ZpoolParts& parts, std::uint32_t index, unsigned slot) {
  Zspage& z = parts.zspages.at(index);
  BUOY_CHECK(is_taken(read_header(parts, z, slot)) && z.in_use > 0);
  write_header(parts, z, slot, free_header(z.first_free));
  z.first_free = static_cast<std::uint16_t>(slot + 1);
  --z.in_use;
  --counts_.objects;
  set_group_locked(parts, index);
}

bool Zclass::try_take_slot(ZpoolParts& parts, Handle handle, unsigned length, HandleWord* word) {
  const Guard guard(lock_);
  const std::uint32_t index = fullest_locked(parts, 0);
  if (index == 0) return false;
  *word = take_slot_locked(parts, index, handle, length, 0);
  return true;
}

void Zclass::take_slot_of_new(ZpoolParts& parts, std::uint32_t zspage, Handle handle,
                              unsigned length, HandleWord* word) {
  const Guard guard(lock_);
  ++counts_.zspages;
  *word = take_slot_locked(parts, zspage, handle, length, 0);
}

std::uint32_t Zclass::give_slot(ZpoolParts& parts, HandleWord word) {
  const Guard guard(lock_);
  give_slot_locked(parts, word.zspage(), word.object());
  counts_.object_bytes -= word.length();
  if (parts.zspages.at(word.zspage()).in_use != 0) return 0;
  --counts_.zspages;
  return word.zspage();
}

// ---------------------------------------------------------------- compaction

// Moves one object to the fullest other zspage. False: its handle is pinned, it stays.
bool Zclass::move_object_locked(ZpoolParts& parts, std::uint32_t from, unsigned slot) {
  Zspage& source = parts.zspages.at(from);
  const Handle handle(read_header(parts, source, slot) >> 1);
  HandleWord old_word;
  // Never waits: the pin's holder may be waiting for this class's lock.
  if (!parts.handles.try_pin(handle, &old_word)) return false;
  const std::uint32_t to = fullest_locked(parts, from);
  const HandleWord word = take_slot_locked(parts, to, handle, old_word.length(), old_word.marks());
  for_each_piece(parts, old_word, [&](const std::byte* place, unsigned done, unsigned n) {
    // The other side may be cut elsewhere; copy this piece through its own pieces.
    for_each_piece(parts, word, [&](std::byte* target, unsigned start, unsigned length) {
      const unsigned low = done > start ? done : start;
      const unsigned high = done + n < start + length ? done + n : start + length;
      if (low < high) std::memcpy(target + (low - start), place + (low - done), high - low);
    });
  });
  give_slot_locked(parts, from, slot);
  counts_.object_bytes -= old_word.length();
  parts.handles.unpin(handle, word);
  return true;
}

std::uint32_t Zclass::compact_step(ZpoolParts& parts, bool* go_on) {
  *go_on = false;
  if (size().objects == 1) return 0;
  const Guard guard(lock_);
  const std::uint32_t from = emptiest_locked();
  if (from == 0) return 0;
  Zspage& source = parts.zspages.at(from);
  const std::uint64_t free_slots = counts_.zspages * size().objects - counts_.objects;
  const std::uint64_t free_here = std::uint64_t{size().objects} - source.in_use;
  if (free_slots - free_here < source.in_use) return 0;
  for (unsigned slot = 0; slot < source.untouched && source.in_use != 0; ++slot) {
    if (!is_taken(read_header(parts, source, slot))) continue;
    if (!move_object_locked(parts, from, slot)) return 0;
  }
  *go_on = true;
  --counts_.zspages;
  return from;
}

// ---------------------------------------------------------------- migration

bool Zclass::migrate_frame(ZpoolParts& parts, std::uint32_t zspage, unsigned f, Pfn old_frame,
                           Pfn fresh) {
  const Guard guard(lock_);
  Zspage& z = parts.zspages.at(zspage);
  if (z.class_index != index_ || z.group == kGroupNone || f >= size().frames ||
      z.frames[f] != old_frame)
    return false;
  // Readers pin their object, not the zspage: with every object pinned that touches the frame,
  // nobody looks at it. What is pinned already cannot be waited for here.
  const unsigned bytes = size().slot_bytes;
  const auto page = static_cast<unsigned>(kPageSize);
  const unsigned first = f * page / bytes;
  const unsigned end = std::min<unsigned>((f * page + page + bytes - 1) / bytes, z.untouched);
  unsigned pinned_end = first;
  bool all = true;
  for (; pinned_end < end; ++pinned_end) {
    const std::uint32_t header = read_header(parts, z, pinned_end);
    HandleWord word;
    if (is_taken(header) && !parts.handles.try_pin(Handle(header >> 1), &word)) {
      all = false;
      break;
    }
  }
  if (all) {
    std::memcpy(parts.arena.pointer(fresh), parts.arena.pointer(old_frame), kPageSize);
    z.frames[f] = fresh;
  }
  for (unsigned slot = first; slot < pinned_end; ++slot) {
    const std::uint32_t header = read_header(parts, z, slot);
    if (!is_taken(header)) continue;
    const Handle handle(header >> 1);
    parts.handles.unpin(handle, parts.handles.load(handle));
  }
  return all;
}

// ---------------------------------------------------------------- looking at it

ZclassCounts Zclass::counts() const {
  const Guard guard(lock_);
  return counts_;
}

void Zclass::validate(ZpoolParts& parts) {
  const Guard guard(lock_);
  ZclassCounts seen;
  for (unsigned g = kGroupNone + 1; g < kGroups; ++g) {
    std::uint32_t prev = 0;
    for (std::uint32_t i = groups_[g]; i != 0; i = parts.zspages.at(i).next) {
      const Zspage& z = parts.zspages.at(i);
      BUOY_CHECK(z.prev == prev && z.group == g && z.class_index == index_);
      BUOY_CHECK(g == Zspage::group_of(z.in_use, size().objects));
      unsigned taken = 0;
      for (unsigned slot = 0; slot < z.untouched; ++slot) {
        const std::uint32_t header = read_header(parts, z, slot);
        if (!is_taken(header)) continue;
        ++taken;
        const HandleWord w = parts.handles.load(Handle(header >> 1));
        BUOY_CHECK(w.kind() == HandleWord::Kind::kNative && w.zspage() == i && w.object() == slot);
        BUOY_CHECK(kSizeClasses.index_for(w.length()) == index_);
        seen.object_bytes += w.length();
      }
      unsigned free = size().objects - z.untouched;
      for (unsigned slot = z.first_free; slot != 0; slot = read_header(parts, z, slot - 1) >> 1)
        ++free;
      BUOY_CHECK(taken == z.in_use && taken + free == size().objects);
      for (unsigned f = 0; f < size().frames; ++f) {
        const frames::Page& page = parts.arena.page(z.frames[f]);
        BUOY_CHECK(page.load().owner() == frames::FrameOwner::kZpool);
        BUOY_CHECK(page.load().has(frames::PageFlag::kMovable) &&
                   !page.load().has(frames::PageFlag::kIsolated));
        BUOY_CHECK(page.owner_word.load(std::memory_order_relaxed) == (std::uint64_t{i} << 3 | f));
      }
      seen.objects += taken;
      ++seen.zspages;
      prev = i;
    }
  }
  BUOY_CHECK(seen.objects == counts_.objects && seen.zspages == counts_.zspages &&
             seen.object_bytes == counts_.object_bytes);
}

}  // namespace buoy::zpool
