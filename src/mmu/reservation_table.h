// ReservationTable: the reservations of one Mmu, and which of the kernel's page tables they made.
//
// Fork walks it, a foreign fault asks it for owners, pagetable_bytes() reads it. Lock-free: entries
// are type-stable, and the caller keeps fork apart from reserve and release (its gate).
//
// The kernel needs one 4 KiB page table for each block (2 MiB) and one for each GiB that was ever
// populated, and frees them at unmap only (newer kernels may sooner: the count is an upper bound).
// A bit stands for each such table, separately for address and shadow.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/slab.h"
#include "base/sys.h"
#include "base/units.h"
#include "mmu/mmu.h"

namespace buoy::mmu {

// Which of a reservation's two ranges.
enum class Side : std::uint8_t { kAddress, kShadow };

class ReservationTable {
 public:
  static constexpr std::uint32_t kCapacity = 1U << 16;  // the kernel has no more mappings for us

  [[nodiscard]] Status create() {
    return slab_.create(sys::most_needed(kCapacity, kBlockSize, 64));
  }
  void destroy();

  // Enters a reservation and gives it its id. ENOMEM.
  [[nodiscard]] Status add(Reservation& r);
  // Its numbers are forgotten; the ranges are the caller's to unmap.
  void remove(const Reservation& r);

  // Pages of the run were populated on this side: their page tables exist now.
  void note_populated(const Reservation& r, PageRun run, Side side);
  [[nodiscard]] ByteSize pagetable_bytes() const {
    return tables_.load(std::memory_order_relaxed) * kPageSize;
  }
  [[nodiscard]] ByteSize metadata_bytes() const;
  // True if the page lies in the address range of a reservation. A walk over all of them.
  [[nodiscard]] bool owns(Vpn vpn) const;

  // Sticky facts: some access other than read-write was ever permitted; a fork was ever made;
  // some page was ever both writable and executable.
  enum Fact : std::uint8_t { kSpecialAccess = 1, kForked = 2, kExecutableStores = 4 };
  void note(const Reservation& r, Fact fact) {
    slab_.at(r.id).facts.fetch_or(fact, std::memory_order_relaxed);
  }
  [[nodiscard]] bool is_forked(const Reservation& r) const {
    return (slab_.at(r.id).facts.load(std::memory_order_relaxed) & kForked) != 0;
  }
  [[nodiscard]] bool has_executable_stores(const Reservation& r) const {
    return (slab_.at(r.id).facts.load(std::memory_order_relaxed) & kExecutableStores) != 0;
  }
  [[nodiscard]] bool has_no_facts(const Reservation& r) const {
    return slab_.at(r.id).facts.load(std::memory_order_relaxed) == 0;
  }

  // Calls f(const Reservation&) for each.
  template <typename F>
  void for_each(F&& f) const {
    for (std::uint32_t i = 1; i < slab_.high_water(); ++i) {
      const Entry& e = slab_.at(i);
      if (e.is_live.load(std::memory_order_acquire)) f(e.reservation);
    }
  }

 private:
  using Word = std::atomic<std::uint64_t>;
  struct Entry {
    std::atomic<bool> is_live{false};
    std::atomic<std::uint8_t> facts{0};
    std::atomic<std::uint64_t> tables{0};  // bits set in `bits`
    Reservation reservation;
    Word* bits = nullptr;  // see Layout; points at `inline_bits` where that is enough
    std::size_t bit_words = 0;
    Word inline_bits[4]{};
  };
  // Places in an entry's bits: a half for each side, blocks first, then gibibytes.
  struct Layout {
    explicit Layout(const Reservation& r);
    std::uint64_t blocks;
    std::uint64_t gibs;  // that one side can touch
    [[nodiscard]] std::uint64_t half() const { return blocks + gibs; }
    [[nodiscard]] std::size_t words() const { return (2 * half() + 63) / 64; }
  };
  void set_bit(Entry& e, std::uint64_t bit);

  Slab<Entry> slab_;
  std::atomic<std::uint64_t> tables_{0};
  std::atomic<std::uint64_t> bitmap_bytes_{0};
};

}  // namespace buoy::mmu
