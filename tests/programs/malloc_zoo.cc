// malloc_zoo [MIB]: the whole malloc family, before main as well, and the interface that jemalloc
// adds, where it is there.
#include <dlfcn.h>
#include <malloc.h>
#include <unistd.h>

#include <new>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

// Before main, and before the constructors of libraries that were linked later.
__attribute__((constructor(101))) void allocate_early() {
  void* block = std::malloc(3 << 20);
  std::memset(block, 'e', 3 << 20);
  std::free(block);
}
const std::string early_string(500000, 's');

bool is_aligned(const void* p, std::size_t to) {
  return reinterpret_cast<std::uintptr_t>(p) % to == 0;
}

volatile std::size_t half = SIZE_MAX / 2;  // volatile: the compiler knows what it would overflow

void family() {
  auto* zeros = static_cast<char*>(std::calloc(1000, 1000));
  for (std::size_t i = 0; i < 1000000; i += 100) CHECK(zeros[i] == 0);
  std::memset(zeros, 1, 1000000);
  std::free(zeros);
  CHECK(std::calloc(half, 4) == nullptr && errno == ENOMEM);
  auto* grown = static_cast<char*>(std::malloc(100));
  std::memset(grown, 'g', 100);
  for (std::size_t size = 1000; size < 20000000; size *= 3) {
    grown = static_cast<char*>(std::realloc(grown, size));
    CHECK(grown != nullptr && grown[99] == 'g' && malloc_usable_size(grown) >= size);
  }
  grown = static_cast<char*>(reallocarray(grown, 1000, 10));
  CHECK(grown[99] == 'g');
  CHECK(reallocarray(grown, half, 4) == nullptr && errno == ENOMEM);
  std::free(grown);
  void* p = nullptr;
  CHECK(posix_memalign(&p, 1 << 21, 100) == 0 && is_aligned(p, 1 << 21));
  std::free(p);
  CHECK(posix_memalign(&p, 3, 100) == EINVAL);
  p = std::aligned_alloc(4096, 8192);
  CHECK(is_aligned(p, 4096));
  std::free(p);
  p = memalign(512, 100);
  CHECK(is_aligned(p, 512));
  std::free(p);
  p = valloc(100);
  CHECK(is_aligned(p, 4096));
  std::free(p);
  p = pvalloc(5000);
  CHECK(is_aligned(p, 4096) && malloc_usable_size(p) >= 8192);
  std::free(p);
  std::free(nullptr);
  CHECK(malloc_trim(0) >= 0);
  char* printed = nullptr;
  CHECK(asprintf(&printed, "%0100000d", 7) == 100000);
  std::free(printed);
  p = strdup("text");
  std::free(p);
}

void operators() {
  struct alignas(256) Wide {
    char bytes[256];
  };
  auto* wide = new Wide[1000];
  CHECK(is_aligned(wide, 256));
  delete[] wide;
  bool thrown = false;
  try {
    ::operator delete(::operator new(half));
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
  CHECK(::operator new(half, std::nothrow) == nullptr);
  static int handled = 0;
  std::set_new_handler([] {
    if (++handled == 2) std::set_new_handler(nullptr);
  });
  CHECK(::operator new(half, std::nothrow) == nullptr);
  CHECK(handled == 2);
}

void jemalloc_interface() {
  auto* mallocx = reinterpret_cast<void* (*)(std::size_t, int)>(dlsym(RTLD_DEFAULT, "mallocx"));
  if (mallocx == nullptr) return;  // native
  auto* sallocx =
      reinterpret_cast<std::size_t (*)(const void*, int)>(dlsym(RTLD_DEFAULT, "sallocx"));
  auto* sdallocx =
      reinterpret_cast<void (*)(void*, std::size_t, int)>(dlsym(RTLD_DEFAULT, "sdallocx"));
  auto* mallctl = reinterpret_cast<int (*)(const char*, void*, std::size_t*, void*, std::size_t)>(
      dlsym(RTLD_DEFAULT, "mallctl"));
  CHECK(sallocx != nullptr && sdallocx != nullptr && mallctl != nullptr);
  void* p = mallocx(100000, 0);
  CHECK(sallocx(p, 0) >= 100000);
  sdallocx(p, 100000, 0);
  const char* dss = nullptr;
  std::size_t size = sizeof dss;
  CHECK(mallctl("opt.dss", &dss, &size, nullptr, 0) == 0);
  CHECK(std::string(dss) == "disabled");
}

void threads_come_and_go(std::size_t mib) {
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.emplace_back([t, mib] {
        std::vector<char*> blocks;
        const std::size_t count = (mib << 20) / 4 / 10 / kPage;
        for (std::size_t i = 0; i < count; ++i) {
          blocks.push_back(new char[kPage]);
          stamp(blocks.back(), t, i);
        }
        for (std::size_t i = 0; i < count; ++i) {
          check_stamp(blocks[i], t, i);
          delete[] blocks[i];
        }
      });
    }
    for (auto& t : threads) t.join();
  }
}

void a_large_tree(std::size_t mib) {
  std::multiset<std::uint64_t> tree;
  const std::size_t count = (mib << 20) / 64;
  for (std::size_t i = 0; i < count; ++i) tree.insert(mix(i));
  std::size_t n = 0;
  std::uint64_t previous = 0;
  for (const std::uint64_t value : tree) {
    CHECK(value >= previous);
    previous = value;
    ++n;
  }
  CHECK(n == count);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t mib = argument(argc, argv, 1, 96);
  CHECK(early_string.size() == 500000 && early_string.back() == 's');
  family();
  operators();
  jemalloc_interface();
  threads_come_and_go(mib);
  a_large_tree(mib);
  // No heap beside the managed one.
  if (dlsym(RTLD_DEFAULT, "mallocx") != nullptr) {
    const auto* start = static_cast<char*>(sbrk(0));
    std::free(std::malloc(100000));
    CHECK(static_cast<char*>(sbrk(0)) == start);
  }
  std::puts("OK malloc_zoo");
}
