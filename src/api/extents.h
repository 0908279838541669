// Extents: runs of pages for allocators, out of regions of a pool; buoy.h's buoy_extents.
//
//   chunk: [ allocated | idle | allocated | idle | never handed out ........ ]
//                                                ^fresh                      ^end
//
// What is freed keeps its address and is lazily freed without a trap (Vm::Until::kReuse): nobody
// stores to it, because nobody owns it. What is handed out again before reclaim came costs no
// fault, no zeroing and no system call but for signal masks. Chunks grow with the whole, so that
// there are never many.
//
// Thread-safe; not async-signal-safe. The lock is held inside the gate only, so a fork child gets
// a whole copy.
#pragma once

#include <array>
#include <atomic>
#include <optional>

#include "api/free_runs.h"
#include "api/pool.h"
#include "base/gate.h"
#include "base/lock.h"
#include "base/signals.h"

namespace buoy {

class Extents {
 public:
  static constexpr std::uint32_t kMostFreeRuns = 1U << 22;
  // `chunk`: address space to map at a time, at least. EINVAL: flags that do not fit. ENOMEM.
  [[nodiscard]] static Result<Extents*> create(Pool& pool, ByteSize chunk, MapFlags flags,
                                               std::uint32_t most_free_runs = kMostFreeRuns);
  // Unmaps everything, what is allocated included.
  static Status destroy(Extents* extents);

  struct Allocated {
    void* address;
    bool is_zeroed;  // nobody ever had it
  };
  // EINVAL: no length, alignment not a power of two. ENOMEM.
  [[nodiscard]] Result<Allocated> allocate(ByteSize length, ByteSize alignment);
  // At that very place. EINVAL: no length, not page-aligned. ENOMEM: not all of it is free, or it
  // cannot be promised.
  [[nodiscard]] Result<Allocated> allocate_at(void* address, ByteSize length);
  // Any part of what is allocated. EINVAL: not page-aligned, not in one chunk, or free already;
  // ENOMEM: too many free runs. It stays allocated then.
  Status free(void* address, ByteSize length);
  // Unmaps the chunks of which nothing is allocated.
  Status trim();
  [[nodiscard]] ByteSize allocated_bytes() const {
    return allocated_.load(std::memory_order_relaxed) * kPageSize;
  }

  Extents(Pool& pool, ByteSize chunk, MapFlags flags)
      : pool_(pool),
        chunk_(PageCount::covering(chunk)),
        // A chunk promises nothing; what is handed out of it does.
        flags_(flags | MapFlags::kOwnersPromise) {}

 private:
  struct Chunk {
    PageRun run;
    Vpn fresh;  // from here on never handed out
    PageCount allocated;
  };
  // Each is a quarter of what there was before, at least: far more than address space has.
  static constexpr std::size_t kMaxChunks = 256;

  // Holds the lock: inside the gate, with signals blocked.
  class BUOY_SCOPED_CAPABILITY Section {
   public:
    explicit Section(Extents& e) BUOY_ACQUIRE(e.lock_)
        : pass_(e.pool_.context().gate), guard_(e.lock_) {}
    ~Section() BUOY_RELEASE() = default;
    Section(const Section&) = delete;
    Section& operator=(const Section&) = delete;

   private:
    SignalBlock signals_;
    GatePass pass_;
    Guard<Mutex<LockRank::kExtents>> guard_;
  };

  struct Taken {
    PageRun run;
    bool is_fresh;
  };
  [[nodiscard]] std::optional<Taken> take(PageCount count, PageCount alignment);
  [[nodiscard]] std::optional<Taken> take_at(PageRun run);
  // What was taken, promised and ready to be stored to.
  [[nodiscard]] Allocated handed_out(const Taken& taken);
  // Counts what was taken out of the chunk, and hands it on.
  std::optional<Taken> counted(std::optional<Taken> taken) BUOY_REQUIRES(lock_);
  [[nodiscard]] std::optional<Taken> take_fresh(PageCount count, PageCount alignment)
      BUOY_REQUIRES(lock_);
  [[nodiscard]] Status add_chunk(PageCount at_least);
  // The chunk that holds the page; null: none.
  [[nodiscard]] Chunk* find(Vpn page) BUOY_REQUIRES(lock_);
  // The chunk out of which all of the run was handed out, now or before; null: none.
  [[nodiscard]] Chunk* find_handed_out(PageRun run) BUOY_REQUIRES(lock_);
  // The first chunk of which nothing is allocated, out of the list; nullopt: none.
  [[nodiscard]] std::optional<Chunk> take_idle_chunk();
  void note_metadata() BUOY_REQUIRES(lock_);

  Pool& pool_;
  const PageCount chunk_;
  const MapFlags flags_;
  Mutex<LockRank::kExtents> lock_;
  FreeRuns free_ BUOY_GUARDED_BY(lock_);
  std::array<Chunk, kMaxChunks> chunks_ BUOY_GUARDED_BY(lock_){};  // by address
  std::size_t n_chunks_ BUOY_GUARDED_BY(lock_) = 0;
  PageCount mapped_ BUOY_GUARDED_BY(lock_);
  ByteSize noted_metadata_ BUOY_GUARDED_BY(lock_) = 0;
  std::atomic<std::uint64_t> allocated_{0};
};

}  // namespace buoy
