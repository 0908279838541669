// A jemalloc arena whose memory is Buoy's: what the program frees is lazily freed, costs nothing to
// use again, and goes by itself when the pool needs room.
//
//   jemalloc_arena        prints what the pool holds after each step
#include <buoy/buoy.h>
#include <buoy/jemalloc_hooks.h>
#include <jemalloc/jemalloc.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kBudget = 64 * kMiB;
constexpr std::size_t kBlock = 8 * kMiB;
constexpr int kBlocks = 4;

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

void show(buoy_pool* pool, const char* when) {
  std::uint64_t resident = 0;
  std::uint64_t lazyfree = 0;
  buoy_pool_stat(pool, "resident_bytes", &resident);
  buoy_pool_stat(pool, "lazyfree_bytes", &lazyfree);
  std::printf("%-34s resident %3llu MiB, of which lazily freed %3llu MiB\n", when,
              static_cast<unsigned long long>(resident / kMiB),
              static_cast<unsigned long long>(lazyfree / kMiB));
}

// Purged as soon as freed: lazily, so that it costs next to nothing.
unsigned make_arena(extent_hooks_t* hooks) {
  unsigned arena = 0;
  std::size_t size = sizeof arena;
  // mallctl copies the pointer itself.  NOLINTNEXTLINE(bugprone-sizeof-expression)
  if (mallctl("arenas.create", &arena, &size, &hooks, sizeof hooks) != 0) fail("arenas.create");
  char name[64];
  ssize_t at_once = 0;
  std::snprintf(name, sizeof name, "arena.%u.dirty_decay_ms", arena);
  if (mallctl(name, nullptr, nullptr, &at_once, sizeof at_once) != 0) fail(name);
  return arena;
}

}  // namespace

int main() {
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = kBudget;
  buoy_pool* pool = nullptr;
  if (buoy_pool_create(&options, &pool) != 0) fail("buoy_pool_create");

  buoy_extent_hooks hooks;
  if (buoy_extent_hooks_init(&hooks, pool, 0) != 0) fail("buoy_extent_hooks_init");
  const unsigned arena = make_arena(&hooks.hooks);
  const int flags = MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE;

  void* blocks[kBlocks];
  for (void*& block : blocks) {
    block = mallocx(kBlock, flags);
    if (block == nullptr) fail("mallocx");
    std::memset(block, 1, kBlock);
  }
  show(pool, "allocated and written");
  for (void* block : blocks) dallocx(block, flags);
  show(pool, "freed");
  void* again = mallocx(kBlock, flags);
  if (again == nullptr) fail("mallocx");
  std::memset(again, 2, kBlock);
  show(pool, "one of them used again");
  buoy_pool_reclaim(pool, kBudget);
  show(pool, "memory was wanted");

  dallocx(again, flags);
  if (buoy_arena_destroy(&hooks, arena) != 0) fail("buoy_arena_destroy");
  buoy_extent_hooks_destroy(&hooks);
  if (buoy_pool_destroy(pool) != 0) fail("buoy_pool_destroy");
  return 0;
}
