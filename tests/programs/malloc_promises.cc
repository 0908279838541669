// malloc_promises: what glibc's malloc promises, and programs and compilers have come to count on:
// the alignment of every block, the alignments that are taken, what is refused and how, errno.
#include <malloc.h>

#include <bit>
#include <initializer_list>

#include "check.h"

namespace {

// Through pointers: the compiler knows too much about calls by name.
void* (*volatile allocate)(std::size_t) = std::malloc;
void* (*volatile allocate_zeroed)(std::size_t, std::size_t) = std::calloc;
void* (*volatile resize)(void*, std::size_t) = std::realloc;
void* (*volatile allocate_aligned)(std::size_t, std::size_t) = memalign;

bool is_aligned(const void* p, std::size_t to) {
  return p != nullptr && reinterpret_cast<std::uintptr_t>(p) % to == 0;
}

void every_size_is_aligned() {
  constexpr std::size_t kMost = 3000;
  constexpr int kOfEach = 4;
  static void* held[kMost * kOfEach];
  std::size_t n = 0;
  for (std::size_t size = 0; size < kMost; ++size) {
    held[n++] = allocate(size);
    held[n++] = allocate_zeroed(1, size);
    held[n++] = resize(nullptr, size);
    void* grown = resize(allocate(size * 2), size + 1);
    held[n++] = grown;
    for (std::size_t i = n - kOfEach; i < n; ++i) {
      CHECK(is_aligned(held[i], 16));
      CHECK(malloc_usable_size(held[i]) >= size);
    }
  }
  for (std::size_t i = 0; i < n; ++i) std::free(held[i]);
}

void every_alignment_is_taken() {
  for (std::size_t alignment = 0; alignment <= 5000; ++alignment) {
    void* p = allocate_aligned(alignment, alignment % 70);
    const std::size_t wanted = alignment == 0 ? 1 : std::bit_ceil(alignment);
    CHECK(is_aligned(p, wanted) && is_aligned(p, 16));
    std::memset(p, 1, alignment % 70);
    std::free(p);
  }
  for (std::size_t alignment = 1; alignment <= 64 << 20; alignment *= 2) {
    void* p = nullptr;
    const int result = posix_memalign(&p, alignment, 3);
    CHECK(result == (alignment < sizeof(void*) ? EINVAL : 0));
    if (result != 0) continue;
    CHECK(is_aligned(p, alignment) && is_aligned(p, 16));
    p = resize(p, 100);
    CHECK(is_aligned(p, 16));
    std::free(p);
    p = std::aligned_alloc(alignment, alignment);
    CHECK(is_aligned(p, alignment) && is_aligned(p, 16));
    std::free(p);
  }
  for (const std::size_t alignment : {std::size_t{0}, std::size_t{24}, std::size_t{4}}) {
    int mark = 0;
    void* p = &mark;
    CHECK(posix_memalign(&p, alignment, 100) == EINVAL && p == &mark);
  }
  errno = 0;
  CHECK(allocate_aligned(SIZE_MAX / 2 + 2, 1) == nullptr && errno == EINVAL);
}

void refusals() {
  errno = 0;
  CHECK(allocate(SIZE_MAX / 2 + 1) == nullptr && errno == ENOMEM);
  errno = 0;
  CHECK(allocate_aligned(64, SIZE_MAX - 100) == nullptr && errno == ENOMEM);
  errno = 0;
  CHECK(allocate_zeroed(SIZE_MAX / 4, 8) == nullptr && errno == ENOMEM);
  auto* kept = static_cast<char*>(allocate(10));
  kept[9] = 'k';
  errno = 0;
  CHECK(resize(kept, SIZE_MAX - 10) == nullptr && errno == ENOMEM && kept[9] == 'k');
  CHECK(resize(kept, 0) == nullptr);
  void* empty = resize(nullptr, 0);
  void* other = allocate(0);
  CHECK(empty != nullptr && other != nullptr && empty != other);
  std::free(empty);
  std::free(other);
  CHECK(malloc_usable_size(nullptr) == 0);
}

void errno_is_kept() {
  for (std::size_t size = 1; size < 64 << 20; size *= 3) {
    void* p = allocate(size);
    std::memset(p, 1, size);
    errno = 1234;
    std::free(p);
    CHECK(errno == 1234);
  }
}

}  // namespace

int main() {
  CHECK(errno == 0);
  every_size_is_aligned();
  every_alignment_is_taken();
  refusals();
  errno_is_kept();
  std::puts("promises kept");
  return 0;
}
