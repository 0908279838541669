// mixed_pairs: memory from new and from malloc, asked for its size and given back by either. To be
// linked with a second allocator, too (run_malloc.sh): whoever gives memory out, takes it back.
#include <malloc.h>

#include <new>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

// Through pointers: no pair is left out because the compiler sees both of it.
void* (*volatile by_malloc)(std::size_t) = std::malloc;
void* (*volatile by_new)(std::size_t) = ::operator new;
void (*volatile to_free)(void*) = std::free;
void (*volatile to_delete)(void*) = ::operator delete;
void (*volatile to_sized_delete)(void*, std::size_t) = ::operator delete;
void* (*volatile by_aligned_new)(std::size_t, std::align_val_t) = ::operator new;

void churn(std::size_t seed) {
  struct Block {
    unsigned char* bytes;
    std::size_t size;
  };
  std::vector<Block> blocks;
  for (std::size_t i = 0; i < 20000; ++i) {
    const std::size_t size = 1 + mix(seed + i) % 2000;
    void* p = i % 3 == 0   ? by_malloc(size)
              : i % 3 == 1 ? by_new(size)
                           : by_aligned_new(size, std::align_val_t{64});
    CHECK(malloc_usable_size(p) >= size);
    std::memset(p, static_cast<int>(i), size);
    blocks.push_back({static_cast<unsigned char*>(p), size});
  }
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const Block b = blocks[i];
    CHECK(b.bytes[0] == static_cast<unsigned char>(i) && b.bytes[b.size - 1] == b.bytes[0]);
    const bool is_aligned = i % 3 == 2;  // not for a delete that is told the size only
    switch (mix(i) % (is_aligned ? 3 : 4)) {
      case 0:
        to_free(b.bytes);
        break;
      case 1:
        to_delete(b.bytes);
        break;
      case 2:
        to_free(std::realloc(b.bytes, b.size + 100));
        break;
      default:
        to_sized_delete(b.bytes, b.size);
    }
  }
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 3; ++t) threads.emplace_back(churn, t * 1000003);
  for (auto& t : threads) t.join();
  to_delete(strdup("of libc's"));
  std::string text(8 << 20, 'x');
  CHECK(text.back() == 'x');
  bool thrown = false;
  try {
    to_free(by_new(SIZE_MAX / 2));
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  CHECK(thrown);
  std::puts("no mixed pairs");
  return 0;
}
