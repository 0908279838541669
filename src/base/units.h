// Unit types: quantities that must not be mixed up have types of their own.
//
// Addresses are counted in pages (Vpn), arena frames in frame numbers (Pfn), lengths in pages
// (PageCount) or bytes (ByteSize). Every conversion has a name. Nothing here allocates or locks.
#pragma once

#include <bit>
#include <compare>
#include <cstddef>
#include <cstdint>

namespace buoy {

inline constexpr std::size_t kPageShift = 12;
inline constexpr std::size_t kPageSize = std::size_t{1} << kPageShift;
inline constexpr std::size_t kBlockShift = 21;  // a pageblock, a leaf's span, an x86-64 huge page
inline constexpr std::size_t kBlockSize = std::size_t{1} << kBlockShift;
inline constexpr std::size_t kPagesPerBlock = kBlockSize / kPageSize;  // 512
inline constexpr unsigned kMaxOrder = 9;                               // 2^9 pages: one whole block

// A length in bytes. Only for quantities that users see; inside, lengths are PageCounts.
using ByteSize = std::size_t;

// A number of pages (4 KiB each).
class PageCount {
 public:
  constexpr PageCount() = default;
  constexpr explicit PageCount(std::uint64_t pages) : pages_(pages) {}
  [[nodiscard]] static constexpr PageCount covering(ByteSize bytes) {
    return PageCount((bytes >> kPageShift) + (bytes % kPageSize != 0 ? 1 : 0));
  }
  [[nodiscard]] static constexpr PageCount whole_in(ByteSize bytes) {
    return PageCount(bytes >> kPageShift);
  }
  [[nodiscard]] constexpr std::uint64_t value() const { return pages_; }
  [[nodiscard]] constexpr ByteSize bytes() const { return pages_ << kPageShift; }
  [[nodiscard]] constexpr bool is_zero() const { return pages_ == 0; }
  constexpr auto operator<=>(const PageCount&) const = default;
  constexpr PageCount operator+(PageCount o) const { return PageCount(pages_ + o.pages_); }
  constexpr PageCount operator-(PageCount o) const { return PageCount(pages_ - o.pages_); }
  constexpr PageCount& operator+=(PageCount o) {
    pages_ += o.pages_;
    return *this;
  }
  constexpr PageCount& operator-=(PageCount o) {
    pages_ -= o.pages_;
    return *this;
  }

 private:
  std::uint64_t pages_ = 0;
};

// The size class of a naturally aligned run of pages: 2^order pages, order 0 to kMaxOrder.
class Order {
 public:
  constexpr Order() = default;
  constexpr explicit Order(unsigned order) : order_(static_cast<std::uint8_t>(order)) {}
  [[nodiscard]] constexpr unsigned value() const { return order_; }
  [[nodiscard]] constexpr PageCount pages() const { return PageCount(std::uint64_t{1} << order_); }
  constexpr auto operator<=>(const Order&) const = default;

 private:
  std::uint8_t order_ = 0;
};

// A virtual page number: a page of the application's address space.
class Vpn {
 public:
  constexpr Vpn() = default;
  constexpr explicit Vpn(std::uint64_t number) : number_(number) {}
  [[nodiscard]] static constexpr Vpn of_address(std::uintptr_t a) { return Vpn(a >> kPageShift); }
  [[nodiscard]] static Vpn containing(const void* p) {
    return of_address(reinterpret_cast<std::uintptr_t>(p));
  }
  [[nodiscard]] constexpr std::uint64_t value() const { return number_; }
  [[nodiscard]] constexpr std::uintptr_t address() const { return number_ << kPageShift; }
  [[nodiscard]] std::byte* pointer() const { return reinterpret_cast<std::byte*>(address()); }
  // The block (2 MiB) this page lies in, and the page's place within it.
  [[nodiscard]] constexpr std::uint64_t block() const { return number_ / kPagesPerBlock; }
  [[nodiscard]] constexpr unsigned in_block() const {
    return static_cast<unsigned>(number_ % kPagesPerBlock);
  }
  [[nodiscard]] constexpr Vpn block_start() const { return Vpn(number_ & ~(kPagesPerBlock - 1)); }
  [[nodiscard]] constexpr Vpn aligned_down(Order o) const {
    return Vpn(number_ & ~(o.pages().value() - 1));
  }
  // The first page at or after this one that is a multiple of `alignment` (a power of two). It
  // wraps where numbers end: then the result is below this one.
  [[nodiscard]] constexpr Vpn aligned_up(PageCount alignment) const {
    const std::uint64_t mask = alignment.value() - 1;
    return Vpn((number_ + mask) & ~mask);
  }
  constexpr auto operator<=>(const Vpn&) const = default;
  constexpr Vpn operator+(PageCount n) const { return Vpn(number_ + n.value()); }
  constexpr Vpn operator-(PageCount n) const { return Vpn(number_ - n.value()); }
  constexpr PageCount operator-(Vpn o) const { return PageCount(number_ - o.number_); }
  constexpr Vpn& operator+=(PageCount n) {
    number_ += n.value();
    return *this;
  }
  constexpr Vpn& operator++() {
    ++number_;
    return *this;
  }

 private:
  std::uint64_t number_ = 0;
};

// A frame of the arena, counted from the arena's first frame.
class Pfn {
 public:
  constexpr Pfn() = default;
  constexpr explicit Pfn(std::uint32_t number) : number_(number) {}
  [[nodiscard]] static constexpr Pfn none() { return Pfn(UINT32_MAX); }
  [[nodiscard]] constexpr std::uint32_t value() const { return number_; }
  [[nodiscard]] constexpr bool is_none() const { return number_ == UINT32_MAX; }
  [[nodiscard]] constexpr std::uint32_t block() const {
    return number_ / static_cast<std::uint32_t>(kPagesPerBlock);
  }
  constexpr auto operator<=>(const Pfn&) const = default;
  constexpr Pfn operator+(PageCount n) const {
    return Pfn(number_ + static_cast<std::uint32_t>(n.value()));
  }

 private:
  std::uint32_t number_ = UINT32_MAX;
};

// A run of consecutive virtual pages: [first, first + count).
struct PageRun {
  Vpn first;
  PageCount count;
  [[nodiscard]] constexpr Vpn end() const { return first + count; }
  [[nodiscard]] constexpr bool contains(Vpn v) const { return v >= first && v < end(); }
  constexpr bool operator==(const PageRun&) const = default;
};

// What both runs have; of no pages where they have none.
[[nodiscard]] constexpr PageRun intersection(PageRun a, PageRun b) {
  const Vpn first = a.first < b.first ? b.first : a.first;
  const Vpn end = a.end() < b.end() ? a.end() : b.end();
  return {first, first < end ? end - first : PageCount()};
}

}  // namespace buoy
