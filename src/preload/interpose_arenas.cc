// jemalloc's arenas get their memory from Extents: what they let go of is lazily freed without a
// system call, and comes back without a fault, which in thread delivery means without waking a
// handler. What was allocated before this is set up stays with jemalloc's own hooks' kind of memory
// (mmap, which is ours too) and is purged by MADV_DONTNEED.
//
// Each arena has Extents of its own: where jemalloc retains address space (opt.retain), it takes
// for granted that memory side by side, but for where a mapping begins, is of one arena, and would
// join one arena's extent with another's.
//
// jemalloc calls these with none of the locks that its allocations take, but they may run at any
// point of a malloc: nothing here allocates.
#include <jemalloc/jemalloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "api/extents.h"
#include "base/sys.h"
#include "preload/environment.h"
#include "preload/foreign_memory.h"
#include "preload/jemalloc.h"
#include "preload/memory_locks.h"
#include "preload/runtime.h"
#include "preload/settings.h"
#include "preload/static_data.h"

namespace buoy::preload {
namespace {

// What an arena asks the pool for at a time: 16 MiB, or less where address space is limited.
constexpr std::uint32_t kChunkBlocks = 8;
ByteSize chunk() { return sys::most_needed(kChunkBlocks, 256 * kBlockSize, 1) * kBlockSize; }
// Zeroing more than this costs more than to fault in what is used of it.
constexpr ByteSize kMostToZero = ByteSize{1} << 20;

// More arenas than that get jemalloc's own hooks.
constexpr unsigned kMostArenas = 64;

struct ArenaMemory {
  extent_hooks_t hooks;  // first: jemalloc hands back a pointer to it
  Extents* extents;
};
constinit ArenaMemory memory[kMostArenas]{};

Extents& extents_of(extent_hooks_t* hooks) {
  return *reinterpret_cast<ArenaMemory*>(hooks)->extents;
}

// jemalloc asks for memory that need not be committed when it wants to keep some for later.
// Refused, it asks for exactly what it needs.
void* allocate(extent_hooks_t* hooks, void* wanted, size_t size, size_t alignment, bool* zero,
               bool* commit, unsigned /*arena*/) {
  if (!*commit) return nullptr;
  Extents& extents = extents_of(hooks);
  const auto got =
      wanted != nullptr ? extents.allocate_at(wanted, size) : extents.allocate(size, alignment);
  if (!got) return nullptr;
  if (!memory_locks::lock_new(got->address, size, PROT_READ | PROT_WRITE)) {
    (void)extents.free(got->address, size);
    return nullptr;
  }
  bool is_zero = got->is_zeroed;
  if (*zero && !is_zero) {
    if (size <= kMostToZero || !pool().madvise(got->address, size, MADV_DONTNEED).ok())
      std::memset(got->address, 0, size);
    is_zero = true;
  }
  *zero = is_zero;
  return got->address;
}

// False: done. What is not of the extents stays with jemalloc.
bool deallocate(extent_hooks_t* hooks, void* at, size_t size, bool /*committed*/,
                unsigned /*arena*/) {
  return !extents_of(hooks).free(at, size).ok();
}

void destroy(extent_hooks_t* hooks, void* at, size_t size, bool committed, unsigned arena) {
  if (deallocate(hooks, at, size, committed, arena)) (void)pool().unmap(at, size);
}

bool purge(extent_hooks_t* /*hooks*/, void* at, size_t /*size*/, size_t offset, size_t length,
           unsigned /*arena*/) {
  return !pool().madvise(static_cast<std::byte*>(at) + offset, length, MADV_DONTNEED).ok();
}

bool split(extent_hooks_t* /*hooks*/, void* /*at*/, size_t /*size*/, size_t /*a*/, size_t /*b*/,
           bool /*committed*/, unsigned /*arena*/) {
  return false;
}

bool merge(extent_hooks_t* /*hooks*/, void* /*a*/, size_t /*size_a*/, void* /*b*/,
           size_t /*size_b*/, bool /*committed*/, unsigned /*arena*/) {
  return false;
}

constexpr extent_hooks_t kHooks{.alloc = allocate,
                                .dalloc = deallocate,
                                .destroy = destroy,
                                .commit = nullptr,
                                .decommit = nullptr,
                                .purge_lazy = nullptr,
                                .purge_forced = purge,
                                .split = split,
                                .merge = merge};

// Every arena that malloc uses by itself; those that a program makes get jemalloc's own hooks, or
// its own. Did all of them get extents?
bool give_arenas_their_memory() {
  const char* const lazy = initial_environment(environment::kLazyFree);
  if (lazy != nullptr && std::strcmp(lazy, "0") == 0) return false;
  unsigned arenas = 0;
  size_t size = sizeof arenas;
  if (buoy_je_mallctl("opt.narenas", &arenas, &size, nullptr, 0) != 0) return false;
  size_t mib[3];
  size_t parts = 3;
  if (buoy_je_mallctlnametomib("arena.0.extent_hooks", mib, &parts) != 0) return false;
  for (unsigned i = 0; i < std::min(arenas, kMostArenas); ++i) {
    const Result<Extents*> made = Extents::create(pool(), chunk(), MapFlags::kNone);
    if (!made) return false;
    memory[i] = {kHooks, *made};
    mib[1] = i;
    extent_hooks_t* ours = &memory[i].hooks;
    // mallctl copies the pointer itself.  NOLINTNEXTLINE(bugprone-sizeof-expression)
    if (buoy_je_mallctlbymib(mib, parts, nullptr, nullptr, &ours, sizeof ours) != 0) return false;
  }
  return arenas <= kMostArenas;
}

}  // namespace

constinit std::atomic<bool> arenas_are_set_up{false};

namespace {

// The arenas took 2 MiB of tables each as they were made.
void settle_tables() {
  Commitment& commitment = pool().vm().commitment();
  if (!commitment.is_kept()) return;
  ByteSize bytes = 0;
  for (const ArenaMemory& m : memory)
    if (m.extents != nullptr) bytes += m.extents->allocated_bytes();
  commitment.settle_tables(PageCount::covering(bytes));
}

// An arena without extents maps small pieces, which are not the pool's.
__attribute__((constructor)) void set_up_arenas() {
  if (!give_arenas_their_memory()) foreign::can_tell.store(false, std::memory_order_relaxed);
  settle_tables();
  take_over_static_data();
  arenas_are_set_up.store(true, std::memory_order_relaxed);
}

}  // namespace
}  // namespace buoy::preload
