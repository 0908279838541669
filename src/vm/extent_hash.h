// ExtentHash: first page -> extent index, read by anyone at any time, changed under one lock.
//
// Only an accelerator: it may forget (a reader that races with a change, no memory to grow) and its
// answer may be stale; readers check it against the extent itself and have a slower way besides.
// Open addressing with linear probing and backward-shift deletion. Tables are replaced as they
// fill; old ones are kept until the end (together less than the present one), because somebody may
// still read them. Never uses malloc.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "base/sys.h"
#include "base/units.h"

namespace buoy {

class ExtentHash {
 public:
  ExtentHash() = default;
  ExtentHash(const ExtentHash&) = delete;
  ExtentHash& operator=(const ExtentHash&) = delete;
  ~ExtentHash() {
    for (Table* t = table_.load(std::memory_order_relaxed); t != nullptr;) {
      Table* const older = t->older;
      sys::unmap(t, t->bytes());
      t = older;
    }
  }

  [[nodiscard]] Status create() { return grow(kFirstSlots) ? Status() : Status(Error{ENOMEM}); }

  // The extent that was entered under this page, or one that was, or 0.
  [[nodiscard]] std::uint32_t find(Vpn first) const {
    const Table& t = *table_.load(std::memory_order_acquire);
    const std::uint32_t key = tag_of(first);
    std::uint32_t at = t.home(first);
    for (std::uint32_t probes = 0; probes <= t.mask; ++probes, at = (at + 1) & t.mask) {
      const std::uint64_t slot = t.slots()[at].load(std::memory_order_acquire);
      if (slot == 0) return 0;
      if (static_cast<std::uint32_t>(slot >> 32) == key) return static_cast<std::uint32_t>(slot);
    }
    return 0;
  }

  // ---- Under the owner's lock. `first_of(index)` tells the page under which an extent stands. ---

  template <typename FirstOf>
  void insert(Vpn first, std::uint32_t index, FirstOf first_of) {
    Table* t = table_.load(std::memory_order_relaxed);
    if (2 * (size_ + 1) > t->mask + 1 && grow(2 * (t->mask + 1))) {
      Table* const old = t;
      t = table_.load(std::memory_order_relaxed);
      for (std::uint32_t i = 0; i <= old->mask; ++i) {
        const std::uint64_t slot = old->slots()[i].load(std::memory_order_relaxed);
        if (slot != 0) place(*t, first_of(static_cast<std::uint32_t>(slot)), slot);
      }
    }
    if (size_ + 1 > t->mask) return;  // full, and no memory: it will not be found here
    place(*t, first, std::uint64_t{tag_of(first)} << 32 | index);
    ++size_;
  }

  template <typename FirstOf>
  void erase(Vpn first, std::uint32_t index, FirstOf first_of) {
    Table& t = *table_.load(std::memory_order_relaxed);
    std::uint32_t hole = t.home(first);
    for (;; hole = (hole + 1) & t.mask) {
      const std::uint64_t slot = t.slots()[hole].load(std::memory_order_relaxed);
      if (slot == 0) return;
      if (static_cast<std::uint32_t>(slot) == index) break;
    }
    // What was pushed behind the hole by it moves up.
    for (std::uint32_t at = (hole + 1) & t.mask;; at = (at + 1) & t.mask) {
      const std::uint64_t slot = t.slots()[at].load(std::memory_order_relaxed);
      if (slot == 0) break;
      const std::uint32_t home = t.home(first_of(static_cast<std::uint32_t>(slot)));
      if (((at - home) & t.mask) < ((at - hole) & t.mask)) continue;
      t.slots()[hole].store(slot, std::memory_order_release);
      hole = at;
    }
    t.slots()[hole].store(0, std::memory_order_release);
    --size_;
  }

  [[nodiscard]] std::uint32_t size() const { return size_; }
  [[nodiscard]] ByteSize touched_bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::uint32_t kFirstSlots = 1024;
  struct Table {
    Table* older;
    std::uint32_t mask;
    std::uint32_t shift;  // of the product's high bits
    [[nodiscard]] std::atomic<std::uint64_t>* slots() const {
      return reinterpret_cast<std::atomic<std::uint64_t>*>(const_cast<Table*>(this) + 1);
    }
    [[nodiscard]] std::uint32_t home(Vpn first) const {
      return static_cast<std::uint32_t>(scatter(first) >> shift) & mask;
    }
    [[nodiscard]] ByteSize bytes() const {
      const ByteSize exact = sizeof(Table) + (ByteSize{mask} + 1) * sizeof(std::uint64_t);
      return PageCount::covering(exact).bytes();
    }
  };

  static std::uint64_t scatter(Vpn first) { return first.value() * 0x9e3779b97f4a7c15ULL; }
  // Tells most strangers apart without a look at their extents.
  static std::uint32_t tag_of(Vpn first) { return static_cast<std::uint32_t>(scatter(first)) | 1U; }

  bool grow(std::uint32_t slots) {
    Table shape{table_.load(std::memory_order_relaxed), slots - 1, 64};
    for (std::uint32_t s = slots; s > 1; s /= 2) --shape.shift;
    auto memory = sys::reserve(shape.bytes(), kPageSize, PROT_READ | PROT_WRITE);
    if (!memory) return false;
    auto* fresh = reinterpret_cast<Table*>(*memory);
    *fresh = shape;
    bytes_.fetch_add(shape.bytes(), std::memory_order_relaxed);
    // Readers find nothing in it for a moment.
    table_.store(fresh, std::memory_order_release);
    return true;
  }
  static void place(Table& t, Vpn first, std::uint64_t slot) {
    std::uint32_t at = t.home(first);
    while (t.slots()[at].load(std::memory_order_relaxed) != 0) at = (at + 1) & t.mask;
    t.slots()[at].store(slot, std::memory_order_release);
  }

  std::atomic<Table*> table_{nullptr};
  std::uint32_t size_ = 0;
  std::atomic<ByteSize> bytes_{0};
};

}  // namespace buoy
