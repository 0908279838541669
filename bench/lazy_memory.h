// Memory whose pages can be lazily freed: a region of Buoy's, or plain anonymous memory on the
// kernel's pages of one size. The operations of `lazyfree` (lazyfree_ops.h) know nothing of either.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "page_data.h"

namespace buoy::bench {

// kBuoyUntilReuse: small pages of an owner who says when it stores again.
enum class Backing { kBuoySmall, kBuoyHuge, kBuoyUntilReuse, kKernel4K, kKernel64K, kKernel2M };

inline constexpr Backing kBackings[] = {Backing::kBuoySmall,      Backing::kBuoyHuge,
                                        Backing::kBuoyUntilReuse, Backing::kKernel4K,
                                        Backing::kKernel64K,      Backing::kKernel2M};

// "small", "huge", "until-reuse", "4K", "64K", "2M": as cases name them.
[[nodiscard]] std::string_view name_of(Backing backing);
[[nodiscard]] std::optional<Backing> backing_named(std::string_view name);
[[nodiscard]] constexpr bool is_buoy(Backing backing) { return backing < Backing::kKernel4K; }

inline constexpr std::size_t kFolioPages = 512;  // the 2 MiB that both sides can treat as one

// A run of pages of a LazyMemory.
struct Span {
  std::size_t first;
  std::size_t pages;
};

class LazyMemory {
 public:
  // Populated, every page stored to. `pages` is a multiple of kFolioPages. Throws Unavailable, also
  // if the kernel gives pages of another size than was asked for.
  [[nodiscard]] static std::unique_ptr<LazyMemory> make(Backing backing, std::size_t pages);
  virtual ~LazyMemory() = default;
  LazyMemory(const LazyMemory&) = delete;
  LazyMemory& operator=(const LazyMemory&) = delete;

  [[nodiscard]] std::size_t pages() const { return pages_; }
  // One store of eight bytes: the honest cost of the trap, with no copying around it.
  void store(std::size_t page) {
    static_cast<volatile std::uint64_t*>(words_)[page * kPageWords] = page + 1;
  }
  void store_everywhere() {
    for (std::size_t page = 0; page < pages_; ++page) store(page);
  }
  // What store() put there, or zero: the page was discarded.
  [[nodiscard]] std::uint64_t load(std::size_t page) const {
    return static_cast<const volatile std::uint64_t*>(words_)[page * kPageWords];
  }

  virtual void mark(Span span) = 0;             // BUOY_FREE (_UNTIL_REUSE), MADV_FREE
  virtual void before_stores(Span /*span*/) {}  // BUOY_REUSE, after BUOY_FREE_UNTIL_REUSE
  virtual void discard(Span span) = 0;          // BUOY_DONTNEED, MADV_DONTNEED
  virtual void reclaim_range(Span span) = 0;    // BUOY_PAGEOUT, MADV_PAGEOUT
  // Reclaim as it comes of itself, of so many lazily freed pages: buoy_pool_reclaim; the kernel
  // has no such call and takes the whole memory by MADV_PAGEOUT.
  virtual void reclaim(std::size_t pages) = 0;
  // Marks another page, behind all others in age: what reclaim(1) takes when it skips them. The
  // kernel's MADV_PAGEOUT names what it visits, and needs none.
  virtual void mark_one_more() {}
  [[nodiscard]] virtual bool can_mark_one_more() const { return false; }

 protected:
  explicit LazyMemory(std::size_t pages) : pages_(pages) {}
  void set_words(void* memory) { words_ = static_cast<std::uint64_t*>(memory); }
  [[nodiscard]] void* at(std::size_t page) const { return words_ + page * kPageWords; }

 private:
  std::uint64_t* words_ = nullptr;
  std::size_t pages_;
};

// Lets madvise(MADV_HUGEPAGE) give 64 KiB pages, until this process ends. Throws Unavailable.
void allow_64k_pages();

}  // namespace buoy::bench
