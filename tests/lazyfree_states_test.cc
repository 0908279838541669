// ctest: timeout=300
//
// Every advice on memory in every state, in ordinary, huge and droppable regions, over ranges that
// cut leaves and folios: what is read afterwards, what stays under pressure, what the neighbours
// hold, and that the pool's figures are the kernel's.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "pool_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBudget = 64 * kMiB;
constexpr std::uint64_t kOwner = 3;
constexpr std::size_t kPages = 17 * kPagesPerBlock;  // large enough for a region of its own

// What the pages of the range are before the advice.
enum class State {
  kEmpty,
  kMapped,
  kSwapped,
  kClean,
  kLazilyFreed,
  kIdle,
  kPinnedForReading,
  kPinnedForWriting,
  kVolatile,
  kPurged,
  kSharedSinceAFork,
  kCount
};
struct StateFacts {
  const char* name;
  unsigned char residency;  // what buoy_residency says of it, where nothing is droppable
};
constexpr StateFacts kStates[] = {{"empty", BUOY_PAGE_EMPTY},
                                  {"mapped", BUOY_PAGE_MAPPED},
                                  {"swapped", BUOY_PAGE_COMPRESSED},
                                  {"clean", BUOY_PAGE_MAPPED},
                                  {"lazily freed", BUOY_PAGE_LAZYFREE},
                                  {"idle", BUOY_PAGE_LAZYFREE},
                                  {"pinned for reading", BUOY_PAGE_MAPPED},
                                  {"pinned for writing", BUOY_PAGE_MAPPED},
                                  {"volatile", BUOY_PAGE_MAPPED | BUOY_PAGE_VOLATILE},
                                  {"purged", BUOY_PAGE_PURGED | BUOY_PAGE_VOLATILE},
                                  {"shared", BUOY_PAGE_MAPPED}};
static_assert(std::size(kStates) == static_cast<std::size_t>(State::kCount));

struct Advice {
  int number;
  const char* name;
};
constexpr Advice kAdvice[] = {{BUOY_FREE, "free"},        {BUOY_FREE_UNTIL_REUSE, "idle"},
                              {BUOY_REUSE, "reuse"},      {BUOY_DONTNEED, "dontneed"},
                              {BUOY_COLD, "cold"},        {BUOY_PAGEOUT, "pageout"},
                              {BUOY_WILLNEED, "willneed"}};

struct Span {
  std::size_t first;
  std::size_t count;
  const char* name;
};
// Across a leaf's end; a whole leaf and parts of both its neighbours; a part of a folio.
constexpr Span kSpans[] = {{kPagesPerBlock - 3, 7, "short"},
                           {kPagesPerBlock - 40, kPagesPerBlock + 80, "long"},
                           {kPagesPerBlock, kPagesPerBlock, "leaf"},
                           {kPagesPerBlock + 24, 8, "part"}};

class LazyFreeStates : public ::testing::TestWithParam<Delivery> {
 protected:
  void SetUp() override {
    if (!pool_.why_not().empty()) GTEST_SKIP() << pool_.why_not();
    unaccounted_ = pool_.populated_bytes() - pool_.stat("resident_bytes");
  }

  [[nodiscard]] std::byte* page(std::size_t i) const { return memory_ + i * kPageSize; }
  void map(unsigned flags) {
    memory_ = static_cast<std::byte*>(buoy_map(pool_.get(), kPages * kPageSize, flags));
    ASSERT_NE(memory_, nullptr);
  }
  void unmap() { ASSERT_EQ(buoy_unmap(memory_, kPages * kPageSize), 0); }
  void advise(Span s, int advice) {
    ASSERT_EQ(buoy_advise(page(s.first), s.count * kPageSize, advice), 0);
  }
  void stamp(std::size_t first, std::size_t count, std::uint64_t version) {
    for (std::size_t i = first; i < first + count; ++i) stamp_page(page(i), kOwner + i, version);
  }
  void prepare(Span s, State state);
  void end(Span s, State state);
  void check_figures(Span s);
  void check_contents(Span s, bool may_be_old, bool may_be_zeros, const char* when);
  void check_neighbours(Span s, bool may_be_zeros);
  void try_one(unsigned flags, Span s, State state, Advice advice);

  TestPool pool_{GetParam(), kBudget};
  std::byte* memory_ = nullptr;
  std::uint64_t unaccounted_ = 0;  // the engine's own, before anything is mapped
};

void LazyFreeStates::prepare(Span s, State state) {
  // One page on either side, which nothing is said of.
  stamp(s.first - 1, 1, 1);
  stamp(s.first + s.count, 1, 1);
  if (state == State::kEmpty) {
    advise(s, BUOY_DONTNEED);  // a window may have filled them
    return;
  }
  stamp(s.first, s.count, 1);
  void* const at = page(s.first);
  const std::size_t bytes = s.count * kPageSize;
  switch (state) {
    case State::kSwapped:
    case State::kClean:
      advise(s, BUOY_PAGEOUT);
      if (state == State::kSwapped) break;
      for (std::size_t i = s.first; i < s.first + s.count; ++i)
        (void)*static_cast<volatile std::byte*>(page(i));
      break;
    case State::kLazilyFreed:
      advise(s, BUOY_FREE);
      break;
    case State::kIdle:
      advise(s, BUOY_FREE_UNTIL_REUSE);
      break;
    case State::kPinnedForReading:
      ASSERT_EQ(buoy_pin(at, bytes, 0), 0);
      break;
    case State::kPinnedForWriting:
      ASSERT_EQ(buoy_pin(at, bytes, BUOY_WRITE), 0);
      break;
    case State::kVolatile:
    case State::kPurged:
      ASSERT_EQ(buoy_mark_volatile(at, bytes, 0), static_cast<ssize_t>(bytes));
      if (state == State::kPurged) (void)buoy_pool_reclaim(pool_.get(), kPages * kPageSize);
      break;
    case State::kSharedSinceAFork: {
      const pid_t child = fork();
      if (child == 0) _exit(0);
      int status = -1;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ASSERT_EQ(status, 0);
      break;
    }
    default:
      break;
  }
}

// Ends pins and marks.
void LazyFreeStates::end(Span s, State state) {
  void* const at = page(s.first);
  const std::size_t bytes = s.count * kPageSize;
  if (state == State::kPinnedForReading || state == State::kPinnedForWriting) {
    ASSERT_EQ(buoy_unpin(at, bytes, 0), 0);
  }
  if (state == State::kVolatile || state == State::kPurged) {
    ASSERT_EQ(buoy_mark_nonvolatile(at, bytes, nullptr), static_cast<ssize_t>(bytes));
  }
}

void LazyFreeStates::check_figures(Span s) {
  const auto stat = [this](const char* name) { return pool_.stat(name); };
  // Who was served by another thread goes on before that thread has settled its account.
  for (int tries = 0; tries < 1000; ++tries) {
    if (pool_.populated_bytes() - unaccounted_ == stat("resident_bytes")) break;
    usleep(1000);
  }
  EXPECT_EQ(pool_.populated_bytes() - unaccounted_, stat("resident_bytes"));
  std::vector<unsigned char> where(kPages);
  ASSERT_EQ(buoy_residency(memory_, kPages * kPageSize, where.data()), 0);
  std::uint64_t lazy = 0;
  for (const unsigned char w : where)
    if ((w & ~BUOY_PAGE_VOLATILE) == BUOY_PAGE_LAZYFREE) ++lazy;
  EXPECT_EQ(stat("lazyfree_bytes"), lazy * kPageSize) << s.name;
  EXPECT_EQ(stat("resident_without_lazyfree_bytes"),
            stat("resident_bytes") - stat("lazyfree_bytes"));
  EXPECT_EQ(stat("pglazyfree"),
            stat("pglazyfreed") + stat("pglazyunfreed") + stat("pglazydropped") + lazy);
}

void LazyFreeStates::check_contents(Span s, bool may_be_old, bool may_be_zeros, const char* when) {
  for (std::size_t i = s.first; i < s.first + s.count; ++i) {
    const bool good = (may_be_old && holds_stamp(page(i), kOwner + i, 1)) ||
                      (may_be_zeros && holds_stamp(page(i), 0, 0));
    ASSERT_TRUE(good) << "page " << i << " " << when;
  }
}

void LazyFreeStates::check_neighbours(Span s, bool may_be_zeros) {
  for (const std::size_t i : {s.first - 1, s.first + s.count})
    ASSERT_TRUE(holds_stamp(page(i), kOwner + i, 1) || (may_be_zeros && holds_stamp(page(i), 0, 0)))
        << "neighbour " << i;
}

void LazyFreeStates::try_one(unsigned flags, Span s, State state, Advice advice) {
  const StateFacts& facts = kStates[static_cast<std::size_t>(state)];
  SCOPED_TRACE(std::string(advice.name) + " on " + facts.name + ", " + s.name + ", flags " +
               std::to_string(flags));
  const bool is_droppable = (flags & BUOY_DROPPABLE) != 0;
  const bool was_free = state == State::kLazilyFreed || state == State::kIdle;
  const bool is_freed = advice.number == BUOY_FREE || advice.number == BUOY_FREE_UNTIL_REUSE;
  const bool is_idle = advice.number == BUOY_FREE_UNTIL_REUSE ||
                       (state == State::kIdle && advice.number != BUOY_FREE);
  const bool may_be_old = advice.number != BUOY_DONTNEED && state != State::kEmpty;
  const bool may_be_zeros = !may_be_old || was_free || is_freed || is_droppable ||
                            state == State::kPurged || state == State::kVolatile;
  map(flags | BUOY_PURGED_READS_ZERO);
  prepare(s, state);
  std::vector<unsigned char> where(s.count);
  ASSERT_EQ(buoy_residency(page(s.first), s.count * kPageSize, where.data()), 0);
  if (!is_droppable) {
    for (const unsigned char w : where) ASSERT_EQ(w, facts.residency);
  }
  advise(s, advice.number);
  check_figures(s);
  check_contents(s, may_be_old, may_be_zeros, "after the advice");
  check_neighbours(s, is_droppable);
  check_figures(s);
  (void)buoy_pool_reclaim(pool_.get(), kPages * kPageSize);
  check_figures(s);
  EXPECT_EQ(is_droppable ? pool_.stat("pswpout") : 0U, 0U);
  check_contents(s, may_be_old, may_be_zeros, "after reclaim");
  end(s, state);
  // From here on it is somebody's again: what is stored stays, beside what was there or zeros.
  if (is_idle) advise(s, BUOY_REUSE);
  for (std::size_t i = s.first; i < s.first + s.count; i += 5) stamp_page(page(i), kOwner + i, 2);
  (void)buoy_pool_reclaim(pool_.get(), kPages * kPageSize);
  for (std::size_t i = s.first; i < s.first + s.count; ++i) {
    const bool is_new = (i - s.first) % 5 == 0;
    const bool good = is_new ? holds_stamp(page(i), kOwner + i, 2)
                             : may_be_old && holds_stamp(page(i), kOwner + i, 1);
    ASSERT_TRUE(good || ((is_droppable || (!is_new && may_be_zeros)) && holds_stamp(page(i), 0, 0)))
        << "page " << i << " after the store";
  }
  check_neighbours(s, is_droppable);
  check_figures(s);
  unmap();
}

TEST_P(LazyFreeStates, EveryAdviceOnEveryState) {
  // Droppable regions first: until then nothing may ever have been swapped.
  for (const unsigned flags :
       {unsigned{BUOY_DROPPABLE}, BUOY_DROPPABLE | unsigned{BUOY_HUGE}, 0U, unsigned{BUOY_HUGE}})
    for (const Span& s : kSpans)
      for (int state = 0; state < static_cast<int>(State::kCount); ++state)
        for (const Advice& advice : kAdvice) {
          try_one(flags, s, static_cast<State>(state), advice);
          if (HasFailure()) return;
        }
  pool_.validate();
}

INSTANTIATE_TEST_SUITE_P(Deliveries, LazyFreeStates,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& delivery) { return name_of(delivery.param); });

}  // namespace
}  // namespace buoy::testing
