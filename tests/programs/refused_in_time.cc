// A program that checks what malloc, mmap and their kin answer, and goes on when they say no: it asks
// until it is refused, stores to all that it got (nothing of which compresses), reads it back, gives a
// half of it back, and can go on with that. Under `buoy run --on-exhausted enomem` it ends well in any
// budget; natively with an argument, which stands for where memory ends there (MiB).
//
// What it prints is the same however much it got.
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

void fill(void* memory, std::size_t bytes, std::uint64_t owner) {
  auto* words = static_cast<std::uint64_t*>(memory);
  for (std::size_t i = 0; i < bytes / 8; ++i) words[i] = mix(owner * 1000003 + i);
}
void verify(const void* memory, std::size_t bytes, std::uint64_t owner) {
  const auto* words = static_cast<const std::uint64_t*>(memory);
  for (std::size_t i = 0; i < bytes / 8; ++i) CHECK(words[i] == mix(owner * 1000003 + i));
}

// The ways to ask. Null with errno ENOMEM, or memory.
enum Way { kMalloc, kCalloc, kRealloc, kMemalign, kNew, kMmap, kProtect, kMremap, kWays };
constexpr const char* kNames[] = {"malloc", "calloc", "realloc",  "posix_memalign",
                                  "new",    "mmap",   "mprotect", "mremap"};

void* map(std::size_t bytes, int prot) {
  void* p = mmap(nullptr, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? nullptr : p;
}

void* ask(Way way, std::size_t bytes) {
  errno = 0;
  void* p = nullptr;
  switch (way) {
    case kMalloc:
      return std::malloc(bytes);
    case kCalloc:
      return std::calloc(bytes / 16, 16);
    case kRealloc: {
      void* small = std::malloc(100);
      p = small == nullptr ? nullptr : std::realloc(small, bytes);
      if (p == nullptr) {
        const int why = errno;
        std::free(small);
        errno = why;
      }
      return p;
    }
    case kMemalign:
      errno = posix_memalign(&p, 4096, bytes);
      return errno == 0 ? p : nullptr;
    case kNew:
      p = operator new(bytes, std::nothrow);
      if (p == nullptr) errno = ENOMEM;  // it has no other way to say so
      return p;
    case kMmap:
      return map(bytes, PROT_READ | PROT_WRITE);
    case kProtect: {
      p = map(bytes, PROT_NONE);  // promises nothing
      CHECK(p != nullptr);
      if (mprotect(p, bytes, PROT_READ | PROT_WRITE) == 0) return p;
      const int why = errno;
      CHECK(munmap(p, bytes) == 0);
      errno = why;
      return nullptr;
    }
    case kMremap: {
      p = map(64 << 10, PROT_READ | PROT_WRITE);
      if (p == nullptr) return nullptr;
      void* larger = mremap(p, 64 << 10, bytes, MREMAP_MAYMOVE);
      if (larger != MAP_FAILED) return larger;
      const int why = errno;
      CHECK(munmap(p, 64 << 10) == 0);
      errno = why;
      return nullptr;
    }
    default:
      return nullptr;
  }
}

void give_back(Way way, void* p, std::size_t bytes) {
  if (way == kNew)
    operator delete(p);
  else if (way >= kMmap)
    CHECK(munmap(p, bytes) == 0);
  else
    std::free(p);
}

constexpr std::size_t kMost = 4096;  // blocks
struct Block {
  void* memory;
  std::size_t bytes;
  std::uint64_t owner;
};

// Stores to a block at once, or to all of them after the last was had.
enum class Touch { kAtOnce, kLater };

void until_refused(Way way, Touch touch, std::size_t native_limit) {
  static Block blocks[kMost];
  std::size_t n = 0;
  std::size_t total = 0;
  for (std::uint64_t owner = 1;; ++owner) {
    const std::size_t bytes = (64 << 10) + mix(owner) % (2 * kMiB) / 4096 * 4096;
    if (native_limit != 0 && total + bytes > native_limit) break;
    CHECK(n < kMost);
    void* p = ask(way, bytes);
    if (p == nullptr) {
      CHECK(errno == ENOMEM);
      break;
    }
    if (touch == Touch::kAtOnce) fill(p, bytes, owner);
    blocks[n++] = {p, bytes, owner};
    total += bytes;
  }
  CHECK(total > 4 * kMiB);  // a reserve is no reason to give nothing
  if (touch == Touch::kLater)
    for (std::size_t i = 0; i < n; ++i) fill(blocks[i].memory, blocks[i].bytes, blocks[i].owner);
  // Refused, it can still say so.
  for (int i = 0; i < 100; ++i) {
    char* word = static_cast<char*>(std::malloc(100));
    CHECK(word != nullptr);
    std::memset(word, i, 100);
    std::free(word);
  }
  for (std::size_t i = 0; i < n; ++i) verify(blocks[i].memory, blocks[i].bytes, blocks[i].owner);
  std::size_t freed = 0;
  for (std::size_t i = 0; i < n; i += 2) {
    give_back(way, blocks[i].memory, blocks[i].bytes);
    freed += blocks[i].bytes;
  }
  malloc_trim(0);
  void* again = ask(way, freed / 2);
  CHECK(again != nullptr);
  fill(again, freed / 2, 77);
  for (std::size_t i = 1; i < n; i += 2) verify(blocks[i].memory, blocks[i].bytes, blocks[i].owner);
  verify(again, freed / 2, 77);
  give_back(way, again, freed / 2);
  for (std::size_t i = 1; i < n; i += 2) give_back(way, blocks[i].memory, blocks[i].bytes);
  malloc_trim(0);
  std::printf("%s, %s: refused in time, and went on\n", kNames[way],
              touch == Touch::kAtOnce ? "stored to at once" : "stored to later");
}

// What promises nothing is never refused: address space, and what was given back.
void what_costs_nothing() {
  constexpr std::size_t kHuge = std::size_t{64} << 30;
  void* reserved = map(kHuge, PROT_NONE);
  CHECK(reserved != nullptr);
  char* part = static_cast<char*>(reserved) + kHuge / 2;
  CHECK(mprotect(part, kMiB, PROT_READ | PROT_WRITE) == 0);
  fill(part, kMiB, 5);
  verify(part, kMiB, 5);
  CHECK(munmap(reserved, kHuge) == 0);
  for (int i = 0; i < 200; ++i) {
    void* p = map(2 * kMiB, PROT_READ | PROT_WRITE);
    CHECK(p != nullptr);
    // The same place anew promises nothing more.
    CHECK(mmap(p, 2 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
               0) == p);
    CHECK(mprotect(p, 2 * kMiB, PROT_NONE) == 0);
    CHECK(mprotect(p, 2 * kMiB, PROT_READ | PROT_WRITE) == 0);
    CHECK(munmap(p, 2 * kMiB) == 0);
  }
  for (int i = 0; i < 200; ++i) {
    void* p = std::malloc(3 * kMiB);
    CHECK(p != nullptr);
    std::free(p);
  }
  std::printf("what costs nothing is not refused\n");
}

// Threads that ask at once: what all of them were given can be stored to.
void by_threads(std::size_t native_limit) {
  constexpr int kThreads = 4;
  std::vector<std::thread> threads;
  // Had before the first thread asks for all that there is.
  std::vector<Block> blocks_of[kThreads];
  for (auto& blocks : blocks_of) blocks.reserve(kMost);
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([t, native_limit, &mine = blocks_of[t]] {
      constexpr std::size_t kBytes = 200 << 10;
      while (mine.size() < kMost) {
        if (native_limit != 0 && mine.size() * kBytes > native_limit / kThreads) break;
        void* p = ask(kMalloc, kBytes);
        if (p == nullptr) break;
        const std::uint64_t owner = mine.size() * 10 + static_cast<std::uint64_t>(t);
        fill(p, kBytes, owner);
        mine.push_back({p, kBytes, owner});
      }
      for (const Block& b : mine) {
        verify(b.memory, b.bytes, b.owner);
        std::free(b.memory);
      }
    });
  for (std::thread& t : threads) t.join();
  std::printf("threads: refused in time\n");
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t native_limit = argument(argc, argv, 1, 0) * kMiB;
  what_costs_nothing();
  for (int way = 0; way < kWays; ++way)
    for (const Touch touch : {Touch::kAtOnce, Touch::kLater})
      until_refused(static_cast<Way>(way), touch, native_limit);
  by_threads(native_limit);
  return 0;
}
