#include "mmu/reservation_table.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/sys.h"

namespace buoy::mmu {

namespace {
constexpr std::uint64_t kBlocksPerGib = 512;

constexpr std::size_t bitmap_bytes(std::size_t words) {
  return PageCount::covering(words * sizeof(std::uint64_t)).bytes();
}
}  // namespace

ReservationTable::Layout::Layout(const Reservation& r)
    : blocks(r.pages.value() / kPagesPerBlock),
      gibs((blocks + kBlocksPerGib - 1) / kBlocksPerGib + 1) {}

void ReservationTable::destroy() {
  for (std::uint32_t i = 1; i < slab_.high_water(); ++i) {
    Entry& e = slab_.at(i);
    if (e.is_live.load(std::memory_order_relaxed)) remove(e.reservation);
  }
  slab_.destroy();
}

Status ReservationTable::add(Reservation& r) {
  const std::size_t words = Layout(r).words();
  constexpr std::size_t kInline = sizeof(Entry::inline_bits) / sizeof(Word);
  Word* bits = nullptr;
  if (words > kInline) {
    auto memory = sys::reserve(bitmap_bytes(words), kPageSize, PROT_READ | PROT_WRITE);
    if (!memory) return memory.error();
    bits = reinterpret_cast<Word*>(*memory);  // zeros are valid words
    bitmap_bytes_.fetch_add(bitmap_bytes(words), std::memory_order_relaxed);
  }
  const std::uint32_t id = slab_.try_allocate();
  if (id == 0) {
    if (bits != nullptr) sys::unmap(bits, bitmap_bytes(words));
    return Error{ENOMEM};
  }
  r.id = id;
  Entry& e = slab_.at(id);
  for (Word& w : e.inline_bits) w.store(0, std::memory_order_relaxed);
  e.bits = bits != nullptr ? bits : e.inline_bits;
  e.bit_words = words;
  e.facts.store(0, std::memory_order_relaxed);
  e.tables.store(0, std::memory_order_relaxed);
  e.reservation = r;
  e.is_live.store(true, std::memory_order_release);
  return {};
}

void ReservationTable::remove(const Reservation& r) {
  Entry& e = slab_.at(r.id);
  e.is_live.store(false, std::memory_order_release);
  tables_.fetch_sub(e.tables.load(std::memory_order_relaxed), std::memory_order_relaxed);
  if (e.bits != e.inline_bits) {
    sys::unmap(e.bits, bitmap_bytes(e.bit_words));
    bitmap_bytes_.fetch_sub(bitmap_bytes(e.bit_words), std::memory_order_relaxed);
  }
  e.bits = nullptr;
  slab_.release(r.id);
}

void ReservationTable::set_bit(Entry& e, std::uint64_t bit) {
  Word& word = e.bits[bit / 64];
  const std::uint64_t mask = std::uint64_t{1} << (bit % 64);
  if ((word.load(std::memory_order_relaxed) & mask) != 0) return;
  if ((word.fetch_or(mask, std::memory_order_relaxed) & mask) != 0) return;
  e.tables.fetch_add(1, std::memory_order_relaxed);
  tables_.fetch_add(1, std::memory_order_relaxed);
}

void ReservationTable::note_populated(const Reservation& r, PageRun run, Side side) {
  if (run.count.is_zero()) return;
  Entry& e = slab_.at(r.id);
  const Layout layout(r);
  const std::uint64_t half = side == Side::kShadow ? layout.half() : 0;
  const Vpn origin = side == Side::kShadow ? r.shadow : r.base;
  const std::uint64_t first = run.first.block() - r.base.block();
  const std::uint64_t last = (run.end() - PageCount(1)).block() - r.base.block();
  for (std::uint64_t b = first; b <= last; ++b) {
    set_bit(e, half + b);
    const std::uint64_t gib = (origin.block() + b) / kBlocksPerGib - origin.block() / kBlocksPerGib;
    set_bit(e, half + layout.blocks + gib);
  }
}

ByteSize ReservationTable::metadata_bytes() const {
  return slab_.touched_bytes() + bitmap_bytes_.load(std::memory_order_relaxed);
}

bool ReservationTable::owns(Vpn vpn) const {
  bool found = false;
  for_each([&](const Reservation& r) { found = found || r.contains(vpn); });
  return found;
}

}  // namespace buoy::mmu
