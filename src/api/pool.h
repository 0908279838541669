// Pool: one budget and everything under it, put together on real memory. What the C API, the C++
// layer and the preload library stand on.
//
// A wall: the C API and what stands in for the kernel's calls reach no further than this for what
// they do to pages. The range operations follow the kernel's semantics (partial effects, ENOMEM at
// holes); ranges are byte addresses, page-aligned, lengths rounded up. What goes wrong is a Status or a
// Result, with an errno inside; c_api.cc makes errno of it, and the preload library (kernel_result.h)
// what a system call returns. Thread-safe. Nothing here allocates from malloc; everything may be called
// before libc is set up.
#pragma once

#include <atomic>

#include "base/result.h"
#include "frames/arena.h"
#include "mmu/uffd_mmu.h"
#include "swap/swap_stack.h"
#include "vm/vm.h"

namespace buoy {

// kAuto is signal delivery. kThread serves faults of system calls, too, or fails for want of the right;
// kThreadWhateverRights serves them where it may.
enum class Faults : std::uint8_t { kAuto, kSignal, kThread, kThreadWhateverRights };
using MapFlags = RegionFlags;

struct PoolOptions {
  ByteSize budget = 0;
  const char* backing_file = nullptr;
  swap::DiskLedger* disk_ledger = nullptr;  // see swap::SwapOptions; outlives the pool
  ByteSize most_compressed = 0;
  swap::FileEncryption encryption = swap::FileEncryption::kNone;  // of the backing file
  swap::CompressorKind compressor = swap::CompressorKind::kLz4;
  Faults faults = Faults::kAuto;
  OnExhausted on_exhausted = OnExhausted::kSigbus;
  // True for the library, whose users pin what devices write to; false for unmodified programs.
  bool pins_are_known = true;
  // For contiguous memory. At most half of the budget.
  ByteSize contiguous_reserve = 0;
  Reclaimer::Heartbeat heartbeat = nullptr;
  Reclaimer::MoreRoom more_room = nullptr;
};

class Pool {
 public:
  // EINVAL: budget below the minimum, reserve too large; otherwise the errno of what is missing.
  [[nodiscard]] static Result<Pool*> create(const PoolOptions& options);
  // EBUSY while anything is mapped, contiguous or owned by a MovableOwner.
  [[nodiscard]] static Status destroy(Pool* pool);

  [[nodiscard]] Vm& vm() { return vm_; }
  [[nodiscard]] Context& context() { return context_; }
  [[nodiscard]] frames::Arena& arena() { return *arena_; }

  // ---- Mappings -------------------------------------------------------------------------------
  Result<void*> map(ByteSize length, MapFlags flags, mmu::Access access, void* hint);
  // At this place, which must be free. EEXIST.
  Result<void*> map_at(void* address, ByteSize length, MapFlags flags, mmu::Access access);
  [[nodiscard]] bool manages(const void* address) const {
    return vm_.manages(Vpn::containing(address));
  }
  // The same, of what was carved out as well; quick.
  [[nodiscard]] bool holds(const void* address) const {
    return vm_.holds(Vpn::containing(address));
  }
  // See Vm::first_stretch(). Lock-free.
  [[nodiscard]] Vm::Stretch first_stretch(const void* address, ByteSize length) const {
    return vm_.first_stretch({Vpn::containing(address), PageCount::covering(length)});
  }
  // Is any of it the engine's own, which the program must not make resident? Lock-free.
  [[nodiscard]] bool is_own(const void* address, ByteSize length) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(address);
    return sys::is_reserved(begin, begin + length) ||
           mmu_->is_engines({Vpn::containing(address), PageCount::covering(length)});
  }
  [[nodiscard]] bool has_mlocked(void* address, ByteSize length) {
    return vm_.has_mlocked({Vpn::containing(address), PageCount::covering(length)});
  }
  Status unmap(void* address, ByteSize length);
  Status map_over(void* address, ByteSize length, mmu::Access access);
  Status carve_out(void* address, ByteSize length);
  // See Vm::take_over() and Vm::remap_leaving(); a null target: anywhere.
  Status take_over(void* address, ByteSize length);
  Result<void*> remap_leaving(void* address, ByteSize length, void* target);
  enum class Move : std::uint8_t { kNever, kIfNeeded };
  Result<void*> remap(void* address, ByteSize old_length, ByteSize new_length, Move move);
  // The same to that place, whose pages go.
  Result<void*> remap_onto(void* address, ByteSize old_length, ByteSize new_length, void* target);
  Status protect(void* address, ByteSize length, mmu::Access access);
  // See Vm::seal(). Bytes from the address on that are not sealed, or that a seal lets go.
  Status seal(void* address, ByteSize length);
  [[nodiscard]] ByteSize unsealed_prefix(const void* address, ByteSize length) const {
    return vm_.unsealed_prefix({Vpn::containing(address), PageCount::covering(length)}).bytes();
  }
  [[nodiscard]] ByteSize discardable_prefix(const void* address, ByteSize length) const {
    return vm_.discardable_prefix({Vpn::containing(address), PageCount::covering(length)}).bytes();
  }
  [[nodiscard]] bool has_mappings() { return vm_.has_mappings(); }
  [[nodiscard]] bool is_mapped(void* address, ByteSize length);

  // ---- Pages, as the kernel's calls have them (pool_pages.cc) -----------------------------------
  // One of the kernel's MADV_*. Advice that means nothing here is accepted.
  Status madvise(void* address, ByteSize length, int advice);
  enum class Lock : std::uint8_t { kNow, kOnFault };
  Status lock(void* address, ByteSize length, Lock when);
  Status unlock(void* address, ByteSize length);
  // See Vm::lock_all().
  Status lock_all(Lock when);
  void unlock_all() { vm_.unlock_all(); }
  // Zeros where nothing is yet, as far as the budget has room.
  void prefill(void* address, ByteSize length);
  // As mincore(2): bit 0 of each byte, 1 if resident.
  Status residency(void* address, ByteSize length, unsigned char* vec);

  // ---- Pages, as buoy.h has them (pool_pages.cc) ------------------------------------------------
  enum class Advice : std::uint8_t {
    kFree,
    kFreeUntilReuse,
    kReuse,
    kDontNeed,
    kCold,
    kPageOut,
    kWillNeed,
    kPopulate,
  };
  // EINVAL, and nothing is done: what would go, or leave, is locked in memory.
  Status advise(void* address, ByteSize length, Advice advice);
  Status pin(void* address, ByteSize length, PinFor purpose);
  Status unpin(void* address, ByteSize length, Dirtied dirtied);
  static constexpr unsigned kVolatilePriorities = VolatileMap::kPriorities;
  Vm::Marked mark_volatile(void* address, ByteSize length, unsigned priority);
  Vm::Unmarked mark_nonvolatile(void* address, ByteSize length);
  // A byte a page: BUOY_PAGE_*.
  Status page_states(void* address, ByteSize length, unsigned char* values);
  // A descriptor that tells of pressure and purges; the pool's.
  Result<int> eventfd() { return context_.notifier.descriptor(); }

  // ---- The arena (pool_arena.cc) ----------------------------------------------------------------
  // Who was in the way of a contiguous allocation; buoy.h's cma_blocked_by.
  enum class BlockedBy : std::uint8_t {
    kNobody = 0,
    kBudget = 1,
    kCompressed = 2,
    kContiguous = 3,
    kDriver = 4,
    kPlace = 5,
  };
  void compact();
  // EINVAL: zero, more than the budget. ENOMEM.
  Result<void*> allocate_contiguous(ByteSize length, frames::Area area);
  // EINVAL: not the start of such memory.
  Status free_contiguous(void* address);
  // A run for a movable owner, not movable yet. ENOMEM.
  Result<Pfn> allocate_movable(Order order);
  // Movable owners and extents: as long as there are any, the pool cannot go.
  void count_owner(int by) { owners_.fetch_add(by, std::memory_order_relaxed); }
  // Metadata of what stands on the pool, gained or given up.
  void count_metadata(std::ptrdiff_t bytes) {
    users_metadata_.fetch_add(bytes, std::memory_order_relaxed);
  }
  // The arena's frame at a page-aligned address; none() if it has none there that was ever taken.
  [[nodiscard]] Pfn frame_at(const void* address) const;

  // ---- The whole ------------------------------------------------------------------------------
  Status resize(ByteSize budget);
  // More by so many bytes, and nothing else: from inside the gate.
  void grow(ByteSize bytes) { vm_.grow(PageCount::whole_in(bytes)); }
  ByteSize reclaim(ByteSize bytes);
  // A counter or gauge by its name. False: no such name. Async-signal-safe.
  [[nodiscard]] bool stat(std::string_view name, std::uint64_t* value) const;
  // The names of stat(), from 0 on; null past the last.
  [[nodiscard]] static const char* stat_name(std::size_t index);
  // How many there are, gauges first. The order is fixed within a build.
  static constexpr std::size_t kGaugeCount = 27;
  [[nodiscard]] static constexpr std::size_t stat_count() { return kGaugeCount + kEventCount; }
  // An event counter, which only grows, rather than a gauge?
  [[nodiscard]] static constexpr bool is_counter(std::size_t i) { return i >= kGaugeCount; }
  // All of them, one flat JSON object on one line.
  void write_stats(int fd) const;
  void validate();

  // ---- Fork: no operation is half done between before and after -------------------------------
  // Refused where the child could not set up its memory: nothing is closed then, and whoever cannot
  // stop the fork (an atfork handler) calls the others all the same.
  Status before_fork();
  void wait_for_handlers() { vm_.wait_for_handlers(); }
  void after_fork_in_parent();
  Status after_fork_in_child();

  explicit Pool(const PoolOptions& options)
      : options_(options), vm_(context_, options.on_exhausted) {}

 private:
  [[nodiscard]] Status open();
  void close();
  [[nodiscard]] ByteSize metadata_bytes() const;
  // Private memory of the process that is neither in the budget nor metadata; 0 where /proc is not there.
  [[nodiscard]] ByteSize outside_bytes() const;
  // Empties what blocks of the arena can be emptied; pages given back.
  PageCount give_back_whole_blocks();
  frames::ContiguousResult allocate_run(PageCount count, frames::Area area);
  void note_blocked(const frames::ContiguousResult& result);

  PoolOptions options_;
  Status fork_status_;  // of the last before_fork()
  Context context_;
  Vm vm_;
  mmu::UffdMmu* mmu_ = nullptr;
  frames::Arena* arena_ = nullptr;
  swap::SwapStack* swap_ = nullptr;
  std::atomic<int> owners_{0};
  std::atomic<std::ptrdiff_t> users_metadata_{0};
  // Of the last contiguous allocation that was refused.
  std::atomic<BlockedBy> blocked_by_{BlockedBy::kNobody};
  std::atomic<std::uintptr_t> blocked_at_{0};
};

}  // namespace buoy
