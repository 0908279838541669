// malloc_churn [THREADS [OPERATIONS]]: threads that allocate, grow and free blocks of all sizes in
// random order; every block holds what was stored to it until it is freed, in a child, too. With a
// short BUOY_MALLOC_CONF=dirty_decay_ms, malloc hands memory back and gets it again all the time.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <thread>
#include <vector>

#include "check.h"

namespace {

class Churn {
 public:
  explicit Churn(std::uint64_t seed) : random_(seed), blocks_(kBlocks) {}

  void run(std::size_t operations) {
    for (std::size_t i = 0; i < operations; ++i) {
      Block& block = blocks_[random_() % kBlocks];
      if (block.words == nullptr) {
        allocate(block);
      } else if (random_() % 4 == 0) {
        grow(block);
      } else {
        check(block);
        std::free(block.words);
        block = {};
      }
    }
  }
  void check_all() const {
    for (const Block& block : blocks_) check(block);
  }
  void free_all() {
    for (Block& block : blocks_) std::free(block.words);
  }

 private:
  static constexpr std::size_t kBlocks = 400;
  struct Block {
    std::uint64_t* words = nullptr;
    std::size_t count = 0;
    std::uint64_t name = 0;
  };

  // Mostly small, now and then hundreds of pages.
  std::size_t any_count() {
    return std::size_t{2} << (random_() % (random_() % 64 == 0 ? 17 : 12));
  }
  void allocate(Block& block) {
    const bool zeroed = random_() % 4 == 0;
    block.count = any_count();
    void* const at = zeroed ? std::calloc(block.count, 8) : std::malloc(block.count * 8);
    CHECK(at != nullptr);
    block.words = static_cast<std::uint64_t*>(at);
    if (zeroed)
      CHECK(std::all_of(block.words, block.words + block.count, [](auto w) { return w == 0; }));
    fill(block);
  }
  void grow(Block& block) {
    const std::size_t before = block.count;
    const std::size_t wanted = std::min<std::size_t>(before * 3 / 2 + 1, std::size_t{1} << 18);
    auto* const at = static_cast<std::uint64_t*>(std::realloc(block.words, wanted * 8));
    CHECK(at != nullptr);
    block.words = at;
    block.count = std::min(before, wanted);
    check(block);
    block.count = wanted;
    fill(block);
  }
  void fill(Block& block) {
    block.name = random_();
    for (std::size_t i = 0; i < block.count; ++i) block.words[i] = word_of(block.name, 0, i);
  }
  static void check(const Block& block) {
    for (std::size_t i = 0; i < block.count; ++i)
      CHECK(block.words[i] == word_of(block.name, 0, i));
  }

  std::mt19937_64 random_;
  std::vector<Block> blocks_;
};

}  // namespace

int main(int argc, char** argv) {
  const std::size_t n_threads = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 4;
  const std::size_t operations = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 20000;
  std::vector<Churn> churns;
  for (std::size_t t = 0; t <= n_threads; ++t) churns.emplace_back(t + 1);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < n_threads; ++t)
    threads.emplace_back([&churns, operations, t] { churns[t].run(operations); });
  // Meanwhile, children that go on with their copy of this thread's blocks.
  Churn& own = churns.back();
  for (int i = 0; i < 5; ++i) {
    own.run(operations / 10);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      own.check_all();
      own.run(operations / 10);
      own.check_all();
      _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  for (std::thread& t : threads) t.join();
  for (Churn& churn : churns) {
    churn.check_all();
    churn.free_all();
  }
  std::puts("whole");
}
