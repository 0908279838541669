// ExtentMap<V>: disjoint page ranges with a value each, sorted; neighbours of equal value merge.
//
//   [0x10..0x20: rw] [0x20..0x24: r] ......gap...... [0x80..0x90: rw]
//
// A sorted array in its own mapping: look-ups are binary searches, changes move the tail
// (a few thousand extents of 24 bytes: microseconds). Never uses malloc.
// Changes, and reading in general, are the owner's to synchronise. One question may be asked at any
// time without a lock: the prefixes, covered or not. For its sake an array that was outgrown is
// emptied but not unmapped (a reader then sees zeros, and asks again); what that leaves behind is
// address space, less than the present array's.
#pragma once

#include <sys/mman.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/check.h"
#include "base/result.h"
#include "base/sys.h"
#include "base/units.h"

namespace buoy {

template <typename V>
class ExtentMap {
  static_assert(std::is_trivially_copyable_v<V>);

 public:
  struct Extent {
    Vpn first;
    Vpn end;
    V value;
  };

  ExtentMap() = default;
  ExtentMap(const ExtentMap&) = delete;
  ExtentMap& operator=(const ExtentMap&) = delete;
  ~ExtentMap() {
    if (data_ != nullptr) sys::unmap(data_, capacity_ * sizeof(Extent));
    for (const Outgrown& o : outgrown_)
      if (o.data != nullptr) sys::unmap(o.data, o.capacity * sizeof(Extent));
  }

  // Nothing has a value afterwards; the memory goes back to the system, the room stays.
  void clear() {
    const Change change(*this);
    if (data_ != nullptr) (void)sys::advise(data_, capacity_ * sizeof(Extent), MADV_DONTNEED);
    size_ = 0;
  }

  // Makes sure that the next two changes cannot fail for want of memory (a change adds at most
  // two extents). Do this first, then commit.
  [[nodiscard]] Status prepare(std::size_t changes = 1) {
    if (size_ + 2 * changes <= capacity_) return {};
    std::size_t wanted = capacity_ == 0 ? kPageSize / sizeof(Extent) : capacity_ * 2;
    while (wanted < size_ + 2 * changes) wanted *= 2;
    auto memory = sys::reserve(wanted * sizeof(Extent), kPageSize, PROT_READ | PROT_WRITE);
    if (!memory) return memory.error();
    auto* fresh = reinterpret_cast<Extent*>(*memory);
    const Change change(*this);
    if (data_ != nullptr) {
      std::memcpy(static_cast<void*>(fresh), data_, size_ * sizeof(Extent));
      (void)sys::advise(data_, capacity_ * sizeof(Extent), MADV_DONTNEED);
      outgrown_[n_outgrown_++] = {data_, capacity_};
    }
    data_ = fresh;
    capacity_ = wanted;
    return {};
  }

  // Gives [run) this value, whatever was there. Needs prepare().
  void assign(PageRun run, V value) {
    const Change change(*this);
    erase_in_change(run);
    std::size_t at = lower(run.first);
    if (at > 0 && data_[at - 1].end == run.first && data_[at - 1].value == value) {
      --at;
      data_[at].end = run.end();
    } else {
      open_gap(at);
      data_[at] = {run.first, run.end(), value};
    }
    if (at + 1 < size_ && data_[at + 1].first == data_[at].end && data_[at + 1].value == value) {
      data_[at].end = data_[at + 1].end;
      close_gap(at + 1);
    }
  }

  // Nothing has a value in [run) afterwards. Needs prepare() (it may cut an extent in two).
  void erase(PageRun run) {
    const Change change(*this);
    erase_in_change(run);
  }

  // The extent holding `v`, or null.
  [[nodiscard]] const Extent* find(Vpn v) const {
    const std::size_t i = covering_or_after(v);
    return i < size_ && data_[i].first <= v ? &data_[i] : nullptr;
  }
  // How many pages from run.first on have a value without a gap (at most run.count).
  [[nodiscard]] PageCount covered_prefix(PageRun run) const {
    return covered_prefix(data_, size_, run);
  }
  [[nodiscard]] bool covers(PageRun run) const { return covered_prefix(run) == run.count; }
  // How many pages from run.first on have no value (at most run.count).
  [[nodiscard]] PageCount gap_prefix(PageRun run) const { return gap_prefix(data_, size_, run); }
  // The two while others may change the map: true at some moment of the call.
  [[nodiscard]] PageCount covered_prefix_unlocked(PageRun run) const {
    return ask_unlocked(
        [run](const Extent* data, std::size_t size) { return covered_prefix(data, size, run); });
  }
  [[nodiscard]] PageCount gap_prefix_unlocked(PageRun run) const {
    return ask_unlocked(
        [run](const Extent* data, std::size_t size) { return gap_prefix(data, size, run); });
  }

  // As covered_prefix_unlocked(), of values that pass the test.
  template <typename Test>
  [[nodiscard]] PageCount covered_prefix_unlocked(PageRun run, Test test) const {
    return ask_unlocked([run, test](const Extent* data, std::size_t size) {
      Vpn at = run.first;
      for (std::size_t i = covering_or_after(data, size, at);
           i < size && at < run.end() && data[i].first <= at && test(data[i].value); ++i)
        at = data[i].end;
      return (at < run.end() ? at : run.end()) - run.first;
    });
  }

  // Calls body(PageRun, value) for every extent's part inside [run), in address order.
  template <typename Body>
  void for_each_in(PageRun run, Body body) const {
    for (std::size_t i = covering_or_after(run.first); i < size_ && data_[i].first < run.end();
         ++i) {
      const Vpn first = data_[i].first < run.first ? run.first : data_[i].first;
      const Vpn end = data_[i].end > run.end() ? run.end() : data_[i].end;
      body(PageRun{first, end - first}, data_[i].value);
    }
  }
  // The first gap of at least `n` pages inside `within`, its start a multiple of `align` pages.
  [[nodiscard]] bool find_gap(PageRun within, PageCount n, PageCount align, Vpn* at) const {
    const auto up = [align](Vpn v) {
      return Vpn((v.value() + align.value() - 1) / align.value() * align.value());
    };
    Vpn candidate = up(within.first);
    for (std::size_t i = covering_or_after(within.first); i < size_; ++i) {
      if (candidate + n <= data_[i].first) break;
      if (data_[i].end > candidate) candidate = up(data_[i].end);
    }
    if (candidate + n > within.end()) return false;
    *at = candidate;
    return true;
  }

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] const Extent& operator[](std::size_t i) const { return data_[i]; }
  [[nodiscard]] ByteSize touched_bytes() const { return capacity_ * sizeof(Extent); }

 private:
  // Tells readers without a lock that the map is in the middle of a change.
  class Change {
   public:
    explicit Change(ExtentMap& map) : map_(map) {
      map_.changes_.fetch_add(1, std::memory_order_acq_rel);
    }
    ~Change() { map_.changes_.fetch_add(1, std::memory_order_release); }
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;

   private:
    ExtentMap& map_;
  };

  void erase_in_change(PageRun run) {
    if (run.count.is_zero()) return;
    std::size_t i = covering_or_after(run.first);
    if (i < size_ && data_[i].first < run.first && data_[i].end > run.end()) {
      open_gap(i);
      data_[i] = {data_[i + 1].first, run.first, data_[i + 1].value};
      data_[i + 1].first = run.end();
      return;
    }
    if (i < size_ && data_[i].first < run.first) data_[i++].end = run.first;
    std::size_t gone = i;
    while (gone < size_ && data_[gone].end <= run.end()) ++gone;
    if (gone < size_ && data_[gone].first < run.end()) data_[gone].first = run.end();
    if (gone > i) {
      std::memmove(static_cast<void*>(data_ + i), data_ + gone, (size_ - gone) * sizeof(Extent));
      size_ -= gone - i;
    }
  }

  [[nodiscard]] bool has_changed_since(std::uint32_t before) const {
    std::atomic_thread_fence(std::memory_order_acquire);
    return changes_.load(std::memory_order_relaxed) != before;
  }
  template <typename Question>
  [[nodiscard]] PageCount ask_unlocked(Question question) const {
    for (;;) {
      const std::uint32_t before = changes_.load(std::memory_order_acquire);
      const Extent* const data = data_;
      const std::size_t size = size_;
      // An array and its own size, or the search could leave it.
      if ((before & 1U) == 0 && !has_changed_since(before)) {
        const PageCount answer = question(data, size);
        if (!has_changed_since(before)) return answer;
      }
      __builtin_ia32_pause();
    }
  }
  [[nodiscard]] static PageCount gap_prefix(const Extent* data, std::size_t size, PageRun run) {
    const std::size_t i = covering_or_after(data, size, run.first);
    if (i == size || data[i].first >= run.end()) return run.count;
    return data[i].first > run.first ? data[i].first - run.first : PageCount();
  }
  [[nodiscard]] static PageCount covered_prefix(const Extent* data, std::size_t size, PageRun run) {
    Vpn at = run.first;
    for (std::size_t i = covering_or_after(data, size, at);
         i < size && at < run.end() && data[i].first <= at; ++i)
      at = data[i].end;
    return (at < run.end() ? at : run.end()) - run.first;
  }
  // Index of the first extent that ends behind `v`.
  [[nodiscard]] std::size_t covering_or_after(Vpn v) const {
    return covering_or_after(data_, size_, v);
  }
  [[nodiscard]] static std::size_t covering_or_after(const Extent* data, std::size_t size, Vpn v) {
    std::size_t low = 0;
    std::size_t high = size;
    while (low < high) {
      const std::size_t mid = (low + high) / 2;
      if (data[mid].end <= v)
        low = mid + 1;
      else
        high = mid;
    }
    return low;
  }
  // Index of the first extent that starts at `v` or behind it.
  [[nodiscard]] std::size_t lower(Vpn v) const {
    std::size_t i = covering_or_after(v);
    while (i < size_ && data_[i].first < v) ++i;
    return i;
  }
  void open_gap(std::size_t at) {
    BUOY_CHECK(size_ < capacity_);
    std::memmove(static_cast<void*>(data_ + at + 1), data_ + at, (size_ - at) * sizeof(Extent));
    ++size_;
  }
  void close_gap(std::size_t at) {
    std::memmove(static_cast<void*>(data_ + at), data_ + at + 1, (size_ - at - 1) * sizeof(Extent));
    --size_;
  }

  Extent* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
  struct Outgrown {
    Extent* data = nullptr;
    std::size_t capacity = 0;
  };
  std::array<Outgrown, 32> outgrown_{};  // each at least twice as large as the one before
  std::size_t n_outgrown_ = 0;
  std::atomic<std::uint32_t> changes_{0};  // odd: in the middle of one
};

}  // namespace buoy
