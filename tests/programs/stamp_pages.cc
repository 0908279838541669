// stamp_pages [MIB] [THREADS] [OPERATIONS]: threads stamp pages with owner and version and find
// them again, in memory from mmap, malloc and new, with frees and discards in between.
#include <sys/mman.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "check.h"

namespace {

class Owner {
 public:
  Owner(unsigned id, std::size_t pages) : id_(id), pages_(pages), versions_(pages) {
    memory_ = static_cast<char*>(
        mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(memory_ != MAP_FAILED);
  }

  void work(std::size_t operations) {
    std::uint64_t random = id_ + 1;
    for (std::size_t n = 0; n < operations; ++n) {
      random = mix(random + n);
      const std::size_t page = random % pages_;
      check(page);
      if (random >> 60 == 0) {
        forget_run(page);
      } else if (random >> 60 == 1) {
        use_heap(random);
      } else if (random >> 60 > 5) {
        stamp(memory_ + page * kPage, name(page), ++versions_[page]);
      }
    }
    for (std::size_t page = 0; page < pages_; ++page) check(page);
  }

 private:
  [[nodiscard]] std::uint64_t name(std::size_t page) const { return (id_ + 1ULL) << 32 | page; }

  void check(std::size_t page) const {
    const char* at = memory_ + page * kPage;
    if (versions_[page] != 0) {
      check_stamp(at, name(page), versions_[page]);
    } else {
      for (std::size_t i = 0; i < kPage; i += 512) CHECK(at[i] == 0);
    }
  }
  void forget_run(std::size_t page) {
    const std::size_t n = std::min<std::size_t>(pages_ - page, 1 + id_ % 7);
    CHECK(madvise(memory_ + page * kPage, n * kPage, MADV_DONTNEED) == 0);
    for (std::size_t i = page; i < page + n; ++i) versions_[i] = 0;
  }
  void use_heap(std::uint64_t random) const {
    std::vector<char*> blocks;
    for (unsigned i = 0; i < 20; ++i) {
      auto* block = static_cast<char*>(std::malloc(kPage + mix(random + i) % 40000));
      CHECK(block != nullptr);
      stamp(block, id_, i);
      blocks.push_back(block);
    }
    for (unsigned i = 0; i < 20; ++i) {
      check_stamp(blocks[i], id_, i);
      std::free(blocks[i]);
    }
  }

  unsigned id_;
  std::size_t pages_;
  std::vector<std::uint64_t> versions_;
  char* memory_ = nullptr;
};

}  // namespace

int main(int argc, char** argv) {
  const std::size_t mib = argument(argc, argv, 1, 128);
  const std::size_t threads = argument(argc, argv, 2, 2);
  const std::size_t operations = argument(argc, argv, 3, 200000);
  std::vector<std::thread> running;
  for (unsigned i = 0; i < threads; ++i) {
    running.emplace_back([=] {
      Owner owner(i, (mib << 20) / kPage / threads);
      owner.work(operations);
    });
  }
  for (auto& t : running) t.join();
  std::puts("OK stamp_pages");
}
