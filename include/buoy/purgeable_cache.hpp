// buoy::purgeable_cache<Key, Value>: a concurrent map of things that can be built again.
//
// Keys live on the heap, values in volatile memory of a pool: as many as the budget has room for at
// the moment. Purged first are those that were asked for once only, then the others, the least
// recently used first: a segmented LRU (Karedla, Love, Wherry, "Caching strategies to improve disk
// system performance", 1994), whose segments are two priorities of volatile memory. The cache never
// has to be given a size: it grows until it finds values purged, and while it does, new values mostly
// take the memory of the oldest, which costs neither a purge nor faults.
//
//   buoy::purgeable_cache<std::string, std::vector<Pixel>> images(pool);
//   auto image = images.get(path, [&](const std::string& p) { return decode(p); });
//   draw(image.view());                       // a std::span<const Pixel>, safe while `image` lives
//
// get() runs the loader when the value is not there, one flight at a time for a key: others who
// want it wait. What the loader throws goes to its caller, and leaves the key unknown; the others
// try themselves. A loader must not get() the key that it loads. One that takes a second argument
// builds the value in its place, without a copy:
//
//   images.get(path, [&](const std::string& p, auto& place) {
//     decode_into(p, place.template allocate<Pixel>(width * height));      // a std::span<Pixel>
//   });
//
// Value is a trivially copyable type (its view is a const reference), a std::vector of one, or a
// std::basic_string; specialize purgeable_traits for others. Values take whole pages: it is for
// things of a few KiB and more; empty ones are allowed. Hash and Equal must not throw. Thread-safe;
// handles must not outlive the cache.
#ifndef BUOY_PURGEABLE_CACHE_HPP
#define BUOY_PURGEABLE_CACHE_HPP

#include <array>
#include <atomic>
#include <bit>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <vector>

#include "buoy/pool.hpp"

namespace buoy {
inline namespace v1 {

// How a value is laid into memory, and seen there.
template <typename Value>
struct purgeable_traits {
  static_assert(std::is_trivially_copyable_v<Value>, "specialize buoy::purgeable_traits");
  using view = const Value&;
  static std::size_t bytes(const Value&) { return sizeof(Value); }
  static void store(const Value& value, std::byte* to) { std::memcpy(to, &value, sizeof value); }
  static view load(const std::byte* from, std::size_t) {
    return *reinterpret_cast<const Value*>(from);
  }
};
template <typename T, typename Allocator>
struct purgeable_traits<std::vector<T, Allocator>> {
  static_assert(std::is_trivially_copyable_v<T>);
  using view = std::span<const T>;
  static std::size_t bytes(const std::vector<T, Allocator>& v) { return v.size() * sizeof(T); }
  static void store(const std::vector<T, Allocator>& v, std::byte* to) {
    if (!v.empty()) std::memcpy(to, v.data(), bytes(v));
  }
  static view load(const std::byte* from, std::size_t bytes) {
    return {reinterpret_cast<const T*>(from), bytes / sizeof(T)};
  }
};
template <typename Char, typename Traits, typename Allocator>
struct purgeable_traits<std::basic_string<Char, Traits, Allocator>> {
  using value = std::basic_string<Char, Traits, Allocator>;
  using view = std::basic_string_view<Char, Traits>;
  static std::size_t bytes(const value& v) { return v.size() * sizeof(Char); }
  static void store(const value& v, std::byte* to) {
    if (!v.empty()) std::memcpy(to, v.data(), bytes(v));
  }
  static view load(const std::byte* from, std::size_t bytes) {
    return {reinterpret_cast<const Char*>(from), bytes / sizeof(Char)};
  }
};

namespace detail {

// Runs of pages out of a few large mappings, in size classes a quarter of a power of two apart. A
// run that was freed keeps its address, for the next of its class. Not synchronised.
class page_runs {
 public:
  struct run {
    std::byte* at = nullptr;
    std::size_t pages = 0;
    [[nodiscard]] std::size_t bytes() const { return pages * kPage; }
  };
  static constexpr std::size_t kPage = 4096;

  page_runs(const Pool& pool, unsigned flags) : pool_(pool), flags_(flags) {}

  // Its contents are anything. Throws std::bad_alloc; nothing is changed then.
  run allocate(std::size_t bytes) {
    if (bytes > kMostBytes) throw std::bad_alloc();
    const std::size_t index = class_of(pages_for(bytes));
    const std::size_t pages = pages_of(index);
    if (index >= classes_.size()) classes_.resize(index + 1);
    size_class& c = classes_[index];
    if (!c.free.empty()) {
      std::byte* const at = c.free.back();
      c.free.pop_back();
      return {at, pages};
    }
    // Room for all that there are, so that free() never fails.
    if (c.free.capacity() == c.made) c.free.reserve(2 * c.made + 8);
    if (chunks_.empty() || chunks_.back().size() - used_ < pages * kPage) {
      const std::size_t chunk = pages * kPage > kChunk ? pages * kPage : kChunk;
      try {
        chunks_.emplace_back(pool_, chunk, flags_);
      } catch (const std::system_error&) {
        throw std::bad_alloc();
      }
      used_ = 0;
    }
    std::byte* const at = chunks_.back().data() + used_;
    used_ += pages * kPage;
    ++c.made;
    return {at, pages};
  }
  void free(run r) noexcept { classes_[class_of(r.pages)].free.push_back(r.at); }
  // Would allocate() give a run of the size of this one?
  static bool is_for(run r, std::size_t bytes) {
    return r.at != nullptr && bytes <= kMostBytes &&
           pages_of(class_of(pages_for(bytes))) == r.pages;
  }

 private:
  // Address space mapped at a time; it costs nothing until used.
  static constexpr std::size_t kChunk = std::size_t{64} << 20;
  // More than any address space has, and far from overflowing.
  static constexpr std::size_t kMostBytes = std::size_t{1} << 50;

  struct size_class {
    std::vector<std::byte*> free;
    std::size_t made = 0;  // runs of this class, free or not
  };

  static std::size_t pages_for(std::size_t bytes) {
    return bytes == 0 ? 1 : (bytes + kPage - 1) / kPage;
  }

  // Pages 1 to 4 have a class each, then four classes for each doubling.
  static std::size_t class_of(std::size_t pages) {
    if (pages <= 4) return pages - 1;
    const auto shift = static_cast<unsigned>(std::bit_width(pages - 1)) - 3;
    return 4 * shift + ((pages - 1) >> shift);
  }
  static std::size_t pages_of(std::size_t index) {
    if (index < 4) return index + 1;
    const std::size_t shift = index / 4 - 1;
    return (index % 4 + 5) << shift;
  }

  const Pool& pool_;
  unsigned flags_;
  std::vector<Region> chunks_;
  std::size_t used_ = 0;
  std::vector<size_class> classes_;
};

}  // namespace detail

struct purgeable_cache_stats {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;     // never there, or lost
  std::uint64_t lost = 0;       // misses and sweeps that found a value purged
  std::uint64_t reused = 0;     // values that gave their memory to a new one
  std::size_t entries = 0;      // known keys; some may have lost their value unnoticed
  std::size_t value_bytes = 0;  // their values' sizes
};

template <typename Key, typename Value, typename Hash = std::hash<Key>,
          typename Equal = std::equal_to<Key>>
class purgeable_cache {
  using traits = purgeable_traits<Value>;
  struct shard;
  struct entry;

 public:
  struct options {
    // Of the volatile memory: 0 is purged first. Values that were asked for again have the next one;
    // above 3 there is none, and values are purged in the order of their last use alone.
    int priority = 0;
    unsigned flags = 0;  // of the regions: BUOY_VOLATILE_MAY_COMPRESS
  };

  // Throws std::invalid_argument for a priority that there is not, and for BUOY_DROPPABLE: what is
  // dropped is not told.
  explicit purgeable_cache(const Pool& pool, options o = options()) {
    if (o.priority < 0 || o.priority > kHighestPriority || (o.flags & BUOY_DROPPABLE) != 0)
      throw std::invalid_argument("buoy::purgeable_cache::options");
    for (auto& s : shards_) s = std::make_unique<shard>(pool, o);
  }
  purgeable_cache(const purgeable_cache&) = delete;
  purgeable_cache& operator=(const purgeable_cache&) = delete;

  // A value that stays as long as the handle lives.
  class handle {
   public:
    handle(handle&& other) noexcept
        : cache_(other.cache_),
          shard_(other.shard_),
          entry_(std::exchange(other.entry_, nullptr)) {}
    handle& operator=(handle&& other) noexcept {
      std::swap(cache_, other.cache_);
      std::swap(shard_, other.shard_);
      std::swap(entry_, other.entry_);
      return *this;
    }
    ~handle() {
      if (entry_ != nullptr) cache_->release(*shard_, *entry_);
    }
    [[nodiscard]] typename traits::view view() const {
      return traits::load(entry_->run.at, entry_->bytes);
    }

   private:
    friend purgeable_cache;
    handle(purgeable_cache& cache, shard& s, entry& e) : cache_(&cache), shard_(&s), entry_(&e) {}
    purgeable_cache* cache_;
    shard* shard_;
    entry* entry_;
  };

  // Where a loader builds a value in place.
  class place {
   public:
    // Room for so many; their contents are anything. Call it once; not calling it makes an empty
    // value. Throws std::bad_alloc.
    template <typename T>
    [[nodiscard]] std::span<T> allocate(std::size_t count) {
      static_assert(std::is_trivially_copyable_v<T>);
      if (count > SIZE_MAX / sizeof(T)) throw std::bad_array_new_length();
      return {reinterpret_cast<T*>(allocate_bytes(count * sizeof(T))), count};
    }

   private:
    friend purgeable_cache;
    place(purgeable_cache& cache, shard& s, entry& e) : cache_(cache), shard_(s), entry_(e) {}
    std::byte* allocate_bytes(std::size_t bytes) {
      {
        const std::lock_guard lock(shard_.mutex);
        cache_.make_room(shard_, entry_, bytes);
      }
      is_used_ = true;
      // Faults would fill what is free beside it as well, which nobody wants.
      const std::size_t pages = (bytes + detail::page_runs::kPage - 1) / detail::page_runs::kPage;
      if (pages != 0 &&
          buoy_advise(entry_.run.at, pages * detail::page_runs::kPage, BUOY_POPULATE) != 0)
        throw std::bad_alloc();
      return entry_.run.at;
    }
    bool is_used_ = false;
    purgeable_cache& cache_;
    shard& shard_;
    entry& entry_;
  };

  // The value, made by `loader(key)` or `loader(key, place)` if it is not there. Throws what the
  // loader throws, and std::bad_alloc.
  template <typename Loader>
  [[nodiscard]] handle get(const Key& key, Loader&& loader) {
    shard& s = shard_of(key);
    std::unique_lock lock(s.mutex);
    entry* e = nullptr;
    for (;;) {
      e = &s.find_or_make(key);
      if (!e->is_loading) break;
      s.loaded.wait(lock);
    }
    if (try_hold(s, *e)) {
      ++s.hits;
      return handle(*this, s, *e);
    }
    ++s.misses;
    // Nobody else touches an entry that is being loaded.
    e->is_loading = true;
    if (s.may_reuse == 0) s.drop_oldest_if_lost();
    lock.unlock();
    try {
      place p(*this, s, *e);
      if constexpr (std::is_invocable_v<Loader&, const Key&, place&>) {
        loader(key, p);
        if (!p.is_used_) (void)p.allocate_bytes(0);
      } else {
        const Value value = loader(key);
        traits::store(value, p.allocate_bytes(traits::bytes(value)));
      }
    } catch (...) {
      lock.lock();
      s.forget_held(*e);
      s.loaded.notify_all();
      throw;
    }
    lock.lock();
    e->is_loading = false;
    e->is_filled = true;
    e->handles = 1;
    s.value_bytes += e->bytes;
    s.loaded.notify_all();
    return handle(*this, s, *e);
  }
  // The value if it is there and whole.
  [[nodiscard]] std::optional<handle> find(const Key& key) {
    shard& s = shard_of(key);
    const std::lock_guard lock(s.mutex);
    const auto it = s.entries.find(key);
    if (it == s.entries.end() || it->second.is_loading || !try_hold(s, it->second)) {
      ++s.misses;
      return std::nullopt;
    }
    ++s.hits;
    return handle(*this, s, it->second);
  }
  // Forgets the key, unless it is held or being loaded; whether it did.
  bool erase(const Key& key) {
    shard& s = shard_of(key);
    const std::lock_guard lock(s.mutex);
    const auto it = s.entries.find(key);
    if (it == s.entries.end() || it->second.is_loading || it->second.handles != 0) return false;
    s.forget(it->second);
    return true;
  }

  [[nodiscard]] purgeable_cache_stats stats() const {
    purgeable_cache_stats sum;
    for (const auto& s : shards_) {
      const std::lock_guard lock(s->mutex);
      sum.hits += s->hits;
      sum.misses += s->misses;
      sum.lost += s->lost;
      sum.reused += s->reused;
      sum.entries += s->entries.size();
      sum.value_bytes += s->value_bytes;
    }
    return sum;
  }

 private:
  static constexpr std::size_t kShards = 16;
  // Enough that purging is rare, few enough that the cache grows soon when memory is there again.
  static constexpr unsigned kReusesPerLoss = 64;
  static constexpr int kHighestPriority = 3;
  // One of so many parts of a shard's bytes stays for values that were asked for once.
  static constexpr std::size_t kParts = 8;

  struct entry {
    detail::page_runs::run run;
    std::size_t bytes = 0;
    unsigned handles = 0;
    bool is_loading = false;
    bool is_filled = false;  // as far as is known: its memory may have been purged since
    bool is_protected = false;
    const Key* key = nullptr;
    typename std::list<entry*>::iterator age;  // in the list that is_protected says
  };

  struct alignas(64) shard {
    shard(const Pool& pool, const options& o) : how(o), runs(pool, o.flags) {}

    entry& find_or_make(const Key& key) {
      if (const auto it = entries.find(key); it != entries.end()) return it->second;
      // Linked in only when nothing can fail any more.
      std::list<entry*> link(1);
      const auto it = entries.try_emplace(key).first;
      it->second.key = &it->first;
      link.front() = &it->second;
      probationary.splice(probationary.begin(), link);
      it->second.age = probationary.begin();
      return it->second;
    }
    // Asked for again. What must leave the protected segment for it has another stay on probation.
    void protect(entry& e) {
      if (how.priority == kHighestPriority) return put_on_probation(e);
      protected_ones.splice(protected_ones.begin(), list_of(e), e.age);
      if (!std::exchange(e.is_protected, true)) protected_bytes += e.bytes;
      while (protected_bytes > value_bytes / kParts * (kParts - 1)) {
        entry& oldest = *protected_ones.back();
        put_on_probation(oldest);
        if (oldest.handles == 0) mark(oldest);
      }
    }
    void put_on_probation(entry& e) noexcept {
      probationary.splice(probationary.begin(), list_of(e), e.age);
      if (std::exchange(e.is_protected, false)) protected_bytes -= e.bytes;
    }
    // May be purged from now on.
    void mark(const entry& e) noexcept {
      (void)buoy_mark_volatile(e.run.at, e.run.bytes(), how.priority + (e.is_protected ? 1 : 0));
    }
    [[nodiscard]] std::list<entry*>& list_of(const entry& e) {
      return e.is_protected ? protected_ones : probationary;
    }
    // What is purged before the others, if that was not held lately; nullptr if there is nothing.
    [[nodiscard]] entry* oldest() {
      std::list<entry*>& from = probationary.empty() ? protected_ones : probationary;
      return from.empty() ? nullptr : from.back();
    }
    void note_lost(entry& e) {
      put_on_probation(e);
      e.is_filled = false;
      value_bytes -= e.bytes;
      ++lost;
      may_reuse = kReusesPerLoss;
    }
    // Memory for a value of so many bytes, taken from the oldest that is not lost; none if there
    // were no losses lately, or the oldest is held, of another size or compressed.
    detail::page_runs::run try_reuse_oldest(std::size_t bytes) {
      for (int i = 0; i < 4 && may_reuse != 0 && oldest() != nullptr; ++i) {
        entry& e = *oldest();
        if (e.is_loading || e.handles != 0 || !e.is_filled) return {};
        if (!detail::page_runs::is_for(e.run, bytes) || is_compressed(e)) {
          drop_oldest_if_lost();
          return {};
        }
        int purged = 0;
        if (buoy_mark_nonvolatile(e.run.at, e.run.bytes(), &purged) < 0) return {};
        if (purged != 0) {
          note_lost(e);
          forget_held(e);
          continue;
        }
        const auto run = std::exchange(e.run, {});
        forget(e);
        ++reused;
        --may_reuse;
        return run;
      }
      return {};
    }
    [[nodiscard]] bool is_compressed(const entry& e) const {
      if ((how.flags & BUOY_VOLATILE_MAY_COMPRESS) == 0) return false;
      unsigned char state = 0;
      if (buoy_residency(e.run.at, detail::page_runs::kPage, &state) != 0) return true;
      return (state & ~BUOY_PAGE_VOLATILE) > BUOY_PAGE_STANDBY;
    }
    // As free memory it may be purged, whatever it was before.
    void free_held(detail::page_runs::run run) noexcept {
      if (run.at == nullptr) return;
      (void)buoy_mark_volatile(run.at, run.bytes(), 0);
      runs.free(run);
    }
    void forget_held(entry& e) noexcept {
      free_held(std::exchange(e.run, {}));
      forget(e);
    }
    void forget(entry& e) noexcept {
      put_on_probation(e);
      if (e.is_filled) value_bytes -= e.bytes;
      // What is free stays as volatile as it was.
      if (e.run.at != nullptr) runs.free(e.run);
      probationary.erase(e.age);
      entries.erase(entries.find(*e.key));
    }
    // Values are purged in the order of the lists, so the lost ones are the oldest: each miss clears away up to two of them. Not needed where the oldest is reused, which tells as well.
    void drop_oldest_if_lost() {
      for (int i = 0; i < 2 && oldest() != nullptr; ++i) {
        entry& e = *oldest();
        if (e.is_loading || e.handles != 0 || !e.is_filled) return;
        unsigned char state = 0;
        if (buoy_residency(e.run.at, detail::page_runs::kPage, &state) != 0) return;
        if ((state & ~BUOY_PAGE_VOLATILE) != BUOY_PAGE_PURGED) return;
        note_lost(e);
        forget(e);
      }
    }

    const options how;
    mutable std::mutex mutex;
    std::condition_variable loaded;
    std::unordered_map<Key, entry, Hash, Equal> entries;
    // Last used first. Not protected is also what is being loaded or was lost.
    std::list<entry*> probationary;
    std::list<entry*> protected_ones;
    detail::page_runs runs;
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;
    std::uint64_t lost = 0;
    std::uint64_t reused = 0;
    unsigned may_reuse = 0;  // so many more, before new memory is tried again
    std::size_t value_bytes = 0;
    std::size_t protected_bytes = 0;  // of value_bytes
  };

  shard& shard_of(const Key& key) {
    // The map inside uses the low bits.
    const std::size_t h = Hash{}(key)*std::size_t{0x9e3779b97f4a7c15U};
    return *shards_[h >> (sizeof h * 8 - 4)];
  }

  // Another handle on what is there; false if there is nothing.
  bool try_hold(shard& s, entry& e) {
    if (!e.is_filled) return false;
    if (e.handles == 0) {
      int purged = 0;
      if (buoy_mark_nonvolatile(e.run.at, e.run.bytes(), &purged) < 0)
        detail::throw_errno("buoy_mark_nonvolatile");
      if (purged != 0) {
        s.note_lost(e);
        return false;
      }
    }
    ++e.handles;
    s.protect(e);
    return true;
  }
  // A run that nobody may purge, for a value of so many bytes.
  void make_room(shard& s, entry& e, std::size_t bytes) {
    if (const auto reused = s.try_reuse_oldest(bytes); reused.at != nullptr) {
      s.free_held(std::exchange(e.run, reused));
    } else if (!detail::page_runs::is_for(e.run, bytes)) {
      s.free_held(std::exchange(e.run, {}));
      e.run = s.runs.allocate(bytes);
    }
    if (buoy_mark_nonvolatile(e.run.at, e.run.bytes(), nullptr) < 0)
      detail::throw_errno("buoy_mark_nonvolatile");
    e.bytes = bytes;
    s.put_on_probation(e);
  }
  void release(shard& s, entry& e) {
    const std::lock_guard lock(s.mutex);
    if (--e.handles == 0) s.mark(e);
  }

  std::array<std::unique_ptr<shard>, kShards> shards_;
};

}  // namespace v1
}  // namespace buoy

#endif  // BUOY_PURGEABLE_CACHE_HPP
