// Handles: names of objects that stay the same while the objects move. And their words.
//
//   63      58 57      52 51                26 25       15 14        3  2..1    0
//   |  spare  |  marks   |      zspage        | object   | length - 1 | kind | pinned |   kNative
//   |                     payload (61 bits)                           | kind | pinned |   kForeign
//   |          next free handle                                       | kind | pinned |   kFree
//
// Whoever sets `pinned` owns the word, and with it the object's place: a reader for as long as it
// reads, a mover for as long as it copies. Nobody who holds a class lock waits for a pin, so a
// pin may be held while taking class locks. A foreign word is the handle's owner's: the object
// left the pool (it is in the backing file, or is nothing but a pattern).
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/result.h"
#include "base/sys.h"
#include "base/units.h"
#include "frames/place.h"

namespace buoy::zpool {

// Never 0 when it names something.
class Handle {
 public:
  // 2^27 handles name half a TiB of pages; the bits fit an object's header beside its tag.
  static constexpr std::uint32_t kMaxCount = std::uint32_t{1} << 27;

  constexpr Handle() = default;
  constexpr explicit Handle(std::uint32_t index) : index_(index) {}
  [[nodiscard]] constexpr std::uint32_t index() const { return index_; }
  [[nodiscard]] constexpr bool is_none() const { return index_ == 0; }
  constexpr bool operator==(const Handle&) const = default;

 private:
  std::uint32_t index_ = 0;
};

class HandleWord {
 public:
  enum class Kind : std::uint8_t { kFree = 0, kNative = 1, kForeign = 2 };
  static constexpr std::uint64_t kPinned = 1;
  static constexpr unsigned kPayloadBits = 61;

  constexpr HandleWord() = default;
  constexpr explicit HandleWord(std::uint64_t bits) : bits_(bits) {}
  static constexpr HandleWord native(std::uint32_t zspage, unsigned object, unsigned length,
                                     unsigned marks) {
    return HandleWord(std::uint64_t{marks} << 52 | std::uint64_t{zspage} << 26 |
                      std::uint64_t{object} << 15 | std::uint64_t{length - 1} << 3 |
                      std::uint64_t{1} << 1);
  }
  static constexpr HandleWord foreign(std::uint64_t payload) {
    return HandleWord(payload << 3 | std::uint64_t{2} << 1);
  }
  static constexpr HandleWord free(std::uint32_t next) {
    return HandleWord(std::uint64_t{next} << 3);
  }

  [[nodiscard]] constexpr std::uint64_t bits() const { return bits_; }
  [[nodiscard]] constexpr Kind kind() const { return static_cast<Kind>(bits_ >> 1 & 3U); }
  [[nodiscard]] constexpr bool is_pinned() const { return (bits_ & kPinned) != 0; }
  [[nodiscard]] constexpr std::uint64_t payload() const { return bits_ >> 3; }
  [[nodiscard]] constexpr std::uint32_t zspage() const {
    return static_cast<std::uint32_t>(bits_ >> 26) & ((1U << 26) - 1);
  }
  [[nodiscard]] constexpr unsigned object() const {
    return static_cast<unsigned>(bits_ >> 15) & 0x7ffU;
  }
  [[nodiscard]] constexpr unsigned length() const {
    return (static_cast<unsigned>(bits_ >> 3) & 0xfffU) + 1;
  }
  // Six bits for the handle's owner; they survive moves. Native words only.
  [[nodiscard]] constexpr unsigned marks() const {
    return static_cast<unsigned>(bits_ >> 52) & 0x3fU;
  }
  [[nodiscard]] constexpr HandleWord with_marks(unsigned marks) const {
    return HandleWord((bits_ & ~(std::uint64_t{0x3f} << 52)) | std::uint64_t{marks & 0x3fU} << 52);
  }

 private:
  std::uint64_t bits_ = 0;
};

// The table of words: reserved, touched as handles are first given out, recycled, never unmapped.
// Lock-free. A free word links to the next free one; the head's tag guards against ABA.
class HandleTable {
 public:
  [[nodiscard]] Status create(std::uint32_t capacity) { return words_.create(capacity); }

  // A handle whose word is pinned and foreign with payload 0; none when the table is full.
  [[nodiscard]] Handle try_allocate() {
    live_.fetch_add(1, std::memory_order_relaxed);
    std::uint64_t head = free_.load(std::memory_order_acquire);
    while (static_cast<std::uint32_t>(head) != 0) {
      const auto index = static_cast<std::uint32_t>(head);
      const HandleWord w(words_[index].load(std::memory_order_relaxed));
      const auto next = static_cast<std::uint32_t>(w.payload());
      if (free_.compare_exchange_weak(head, tagged(next, head), std::memory_order_acquire))
        return claim(index);
    }
    std::uint32_t fresh = high_water_.load(std::memory_order_relaxed);
    do {
      if (fresh >= words_.count()) {
        live_.fetch_sub(1, std::memory_order_relaxed);
        return {};
      }
    } while (!high_water_.compare_exchange_weak(fresh, fresh + 1, std::memory_order_acq_rel));
    return claim(fresh);
  }
  // The word must be pinned by the caller.
  void release(Handle h) {
    BUOY_CHECK(load(h).is_pinned());
    live_.fetch_sub(1, std::memory_order_relaxed);
    std::uint64_t head = free_.load(std::memory_order_relaxed);
    do {
      words_[h.index()].store(HandleWord::free(static_cast<std::uint32_t>(head)).bits(),
                              std::memory_order_relaxed);
    } while (!free_.compare_exchange_weak(head, tagged(h.index(), head), std::memory_order_release,
                                          std::memory_order_relaxed));
  }

  [[nodiscard]] HandleWord load(Handle h) const {
    return HandleWord(words_[h.index()].load(std::memory_order_acquire));
  }
  // Pins and returns the word as it is (pin bit set). False: free, or somebody else has it.
  [[nodiscard]] bool try_pin(Handle h, HandleWord* word) {
    std::uint64_t bits = words_[h.index()].load(std::memory_order_relaxed);
    if (HandleWord(bits).kind() == HandleWord::Kind::kFree || HandleWord(bits).is_pinned())
      return false;
    if (!words_[h.index()].compare_exchange_strong(bits, bits | HandleWord::kPinned,
                                                   std::memory_order_acquire))
      return false;
    *word = HandleWord(bits | HandleWord::kPinned);
    return true;
  }
  // Waits for whoever has it: a mover's copy of one object, or a reader of the same handle.
  [[nodiscard]] HandleWord pin(Handle h) {
    HandleWord word;
    for (unsigned spins = 0; !try_pin(h, &word); ++spins) {
      BUOY_CHECK(load(h).kind() != HandleWord::Kind::kFree && "a handle is used after its release");
      if (spins < 100)
        __builtin_ia32_pause();
      else
        sys::yield();
    }
    return word;
  }
  // Writes the pinned word anew, still pinned.
  void store_pinned(Handle h, HandleWord w) {
    words_[h.index()].store(w.bits() | HandleWord::kPinned, std::memory_order_release);
  }
  void unpin(Handle h, HandleWord w) {
    words_[h.index()].store(w.bits() & ~HandleWord::kPinned, std::memory_order_release);
  }

  // Every handle ever given is below this.
  [[nodiscard]] std::uint32_t high_water() const {
    return high_water_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint32_t live() const { return live_.load(std::memory_order_relaxed); }
  [[nodiscard]] ByteSize touched_bytes() const {
    return PageCount::covering(std::size_t{high_water()} * sizeof(std::uint64_t)).bytes();
  }

 private:
  static constexpr std::uint64_t tagged(std::uint32_t index, std::uint64_t previous) {
    return (((previous >> 32) + 1) << 32) | index;
  }
  Handle claim(std::uint32_t index) {
    words_[index].store(HandleWord::foreign(0).bits() | HandleWord::kPinned,
                        std::memory_order_relaxed);
    return Handle(index);
  }

  frames::ReservedArray<std::atomic<std::uint64_t>> words_;
  std::atomic<std::uint32_t> high_water_{1};
  std::atomic<std::uint32_t> live_{0};
  std::atomic<std::uint64_t> free_{0};  // tag << 32 | first free index
};

}  // namespace buoy::zpool
