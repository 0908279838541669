// SoftPages: the pages of one range of a SoftMmu, compactly.
//
//   root -> Block (512 pages) -> per page: a byte of flags, a word of contents
//
// A page whose 512 words are all equal is kept as that word; any other has a 4 KiB buffer. Blocks
// appear at the first touch and go with the last page, so that a simulated range may be far larger
// than the machine. Not synchronised: SoftMmu's lock guards it. Uses malloc: never in an engine.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/units.h"

namespace buoy::mmu {

class SoftPages {
 public:
  enum Flag : std::uint8_t {
    kPresent = 1,
    kBuffered = 2,    // contents are a pointer to 4 KiB of their own
    kTrapped = 4,     // stores fault
    kShared = 8,      // with a fork relative
    kPinned = 16,     // by the simulated kernel
    kPoisoned = 32,   // not present, touches raise SIGBUS
    kLocked = 64,     // mlocked; of the place, not of the page
    kBorrowed = 128,  // buffered in a staged run, which is not this page's own
  };
  static constexpr std::uint8_t kOfThePlace = kLocked;

  explicit SoftPages(PageCount pages);
  ~SoftPages();
  SoftPages(const SoftPages&) = delete;
  SoftPages& operator=(const SoftPages&) = delete;

  // `i` is the page's number within the range, here and below.
  [[nodiscard]] std::uint8_t flags(std::uint64_t i) const;
  [[nodiscard]] bool has(std::uint64_t i, Flag flag) const { return (flags(i) & flag) != 0; }
  void set(std::uint64_t i, Flag flag);
  void clear(std::uint64_t i, Flag flag);
  [[nodiscard]] PageCount present() const { return present_; }

  // The page becomes present with these contents; it must not be.
  void put_word(std::uint64_t i, std::uint64_t word);
  void put_bytes(std::uint64_t i, const std::byte* bytes);
  // ... as a window into a staged run. Its owner calls own_borrowed() before the run goes.
  void put_borrowed(std::uint64_t i, std::byte* bytes);
  void own_borrowed(std::uint64_t i);
  // The page goes, its flags with it, but for those of the place.
  void remove(std::uint64_t i);
  // The page goes from `from` to `to`, where none is; only its contents and kShared come along.
  static void move(SoftPages& from, std::uint64_t i, SoftPages& to, std::uint64_t j);
  static void copy(const SoftPages& from, std::uint64_t i, SoftPages& to, std::uint64_t j);

  // Of a present page: its contents, wherever they are.
  void read(std::uint64_t i, std::size_t offset, void* out, std::size_t n) const;
  void write(std::uint64_t i, std::size_t offset, const void* in, std::size_t n);
  void write_word(std::uint64_t i, std::uint64_t word);  // the whole page
  // 4 KiB that stay valid until the page goes or is moved.
  [[nodiscard]] std::byte* materialise(std::uint64_t i);
  // Back to a word, if all words are equal.
  void compact(std::uint64_t i);

  // Calls f(i) for every page with any flag.
  template <typename F>
  void for_each(F&& f) const {
    for (std::uint64_t b = 0; b < blocks_; ++b)
      for (std::uint64_t p = 0; root_[b] != nullptr && p < kPagesPerBlock; ++p)
        if (root_[b]->flags[p] != 0) f(b * kPagesPerBlock + p);
  }

 private:
  struct Block {
    std::uint64_t contents[kPagesPerBlock];
    std::uint8_t flags[kPagesPerBlock];
    std::uint32_t used;  // pages with any flag
  };
  Block& block_of(std::uint64_t i);  // made if need be
  void change_flags(std::uint64_t i, std::uint8_t flags);
  [[nodiscard]] std::byte* buffer(std::uint64_t i) const;
  [[nodiscard]] std::uint64_t contents(std::uint64_t i) const;

  Block** root_ = nullptr;  // lazily resident
  std::uint64_t blocks_ = 0;
  PageCount present_;
};

}  // namespace buoy::mmu
