// An adapter: the interface of Chromium's discardable memory over volatile memory.
//
// Chromium allocates discardable memory locked; Unlock() lets the system have it, Lock() says
// whether it was kept, and memory that was lost must be allocated anew. The declarations below
// follow base/memory/discardable_memory.h and discardable_memory_allocator.h in shape, so that a
// program written against them runs with this allocator in the place of theirs.
#include <atomic>
#include <buoy/pool.hpp>
#include <cassert>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

namespace base {

class DiscardableMemory {
 public:
  virtual ~DiscardableMemory() = default;
  // False: the contents are lost, and the object is good for nothing but its end.
  [[nodiscard]] virtual bool Lock() = 0;
  virtual void Unlock() = 0;
  // Only while locked.
  [[nodiscard]] virtual void* data() const = 0;
  virtual void DiscardForTesting() = 0;

  template <typename T>
  T* data_as() const {
    return static_cast<T*>(data());
  }
};

class DiscardableMemoryAllocator {
 public:
  virtual ~DiscardableMemoryAllocator() = default;
  // Born locked.
  virtual std::unique_ptr<DiscardableMemory> AllocateLockedDiscardableMemory(std::size_t size) = 0;
  // Live memory of this allocator, locked and unlocked.
  [[nodiscard]] virtual std::size_t GetBytesAllocated() const = 0;
  // All unlocked memory goes now.
  virtual void ReleaseFreeMemory() = 0;
};

}  // namespace base

namespace {

class VolatileDiscardableMemory final : public base::DiscardableMemory {
 public:
  VolatileDiscardableMemory(const buoy::Pool& pool, std::size_t bytes,
                            std::atomic<std::size_t>& allocated)
      : region_(pool, bytes), allocated_(allocated) {
    allocated_ += region_.size();
  }
  ~VolatileDiscardableMemory() override { allocated_ -= region_.size(); }

  bool Lock() override {
    assert(!is_locked_);
    is_locked_ = region_.mark_nonvolatile() == buoy::Kept::kYes && !is_discarded_;
    return is_locked_;
  }
  void Unlock() override {
    assert(is_locked_);
    region_.mark_volatile();
    is_locked_ = false;
  }
  void* data() const override {
    assert(is_locked_);
    return region_.data();
  }
  // By the user's hand: what Lock() then finds are zeros, so it must not find anything.
  void DiscardForTesting() override {
    region_.advise(BUOY_DONTNEED);
    is_discarded_ = true;
  }

 private:
  buoy::Region region_;
  std::atomic<std::size_t>& allocated_;
  bool is_locked_ = true;
  bool is_discarded_ = false;
};

class VolatileDiscardableMemoryAllocator final : public base::DiscardableMemoryAllocator {
 public:
  explicit VolatileDiscardableMemoryAllocator(std::size_t budget) : pool_(budget) {}

  std::unique_ptr<base::DiscardableMemory> AllocateLockedDiscardableMemory(
      std::size_t size) override {
    constexpr std::size_t kPage = 4096;
    return std::make_unique<VolatileDiscardableMemory>(pool_, (size + kPage - 1) / kPage * kPage,
                                                       allocated_);
  }
  std::size_t GetBytesAllocated() const override { return allocated_; }
  // Volatile memory goes before anything else is reclaimed, so a step that purges none is the end.
  void ReleaseFreeMemory() override {
    for (std::uint64_t before = 0, now = pool_.stat("pgpurged") + 1; now != before;) {
      before = std::exchange(now, 0);
      pool_.reclaim(std::size_t{1} << 20);
      now = pool_.stat("pgpurged") + 1;
    }
  }

 private:
  buoy::Pool pool_;
  std::atomic<std::size_t> allocated_{0};
};

}  // namespace

int main() {
  constexpr std::size_t kTile = 256 * 256 * 4;  // a raster tile of a browser
  constexpr unsigned kTiles = 400;              // 100 MiB in a budget of 32
  VolatileDiscardableMemoryAllocator allocator(std::size_t{32} << 20);

  std::vector<std::unique_ptr<base::DiscardableMemory>> tiles(kTiles);
  const auto raster = [&](unsigned i) {
    tiles[i] = allocator.AllocateLockedDiscardableMemory(kTile);
    std::memset(tiles[i]->data(), static_cast<int>(i), kTile);
  };
  for (unsigned i = 0; i < kTiles; ++i) {
    raster(i);
    tiles[i]->Unlock();
  }
  unsigned kept = 0;
  unsigned wrong = 0;
  // Scrolling back up: the tiles drawn last are still there.
  for (unsigned i = kTiles; i-- > 0;) {
    if (tiles[i]->Lock())
      ++kept;
    else
      raster(i);
    const auto* pixels = tiles[i]->data_as<unsigned char>();
    if (pixels[0] != (i & 0xff) || pixels[kTile - 1] != (i & 0xff)) ++wrong;
    tiles[i]->Unlock();
  }
  allocator.ReleaseFreeMemory();
  if (tiles[0]->Lock()) ++wrong;
  std::printf("%u tiles, %zu MiB in 32 MiB: %u kept, %u drawn again, %u wrong\n", kTiles,
              allocator.GetBytesAllocated() >> 20, kept, kTiles - kept, wrong);
  return wrong == 0 && kept != 0 ? 0 : 1;
}
