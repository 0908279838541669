// Touches of purged pages, in both fault deliveries: by the program, by its SIGBUS handler, by the
// kernel for it, and by many threads beside reclaim.
//
// ctest: timeout=300
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

#include "volatile_testing.h"

namespace buoy::testing {
namespace {

constexpr std::size_t kBytes = 8 * kPage;

void touch(char* at) { *const_cast<volatile char*>(at) = 1; }

// What handlers work on.
char* object;

class VolatileFault : public VolatileTest {
 protected:
  void SetUp() override {
    VolatileTest::SetUp();
    if (pool != nullptr) object = map(kBytes);
  }
  // The object is full of ones, and lost from its page `first` on.
  void lose_object(std::size_t first = 0) const {
    int purged = 0;
    EXPECT_EQ(buoy_mark_nonvolatile(object, kBytes, &purged), static_cast<ssize_t>(kBytes));
    std::memset(object, 1, kBytes);
    const std::size_t bytes = kBytes - first * kPage;
    EXPECT_EQ(buoy_mark_volatile(object + first * kPage, bytes, 0), static_cast<ssize_t>(bytes));
    purge_all();
    unsigned char vec[kBytes / kPage];
    ASSERT_EQ(buoy_residency(object, kBytes, vec), 0);
    for (std::size_t i = first; i < kBytes / kPage; ++i)
      ASSERT_EQ(vec[i], BUOY_PAGE_PURGED | BUOY_PAGE_VOLATILE);
  }
  void expect_clear_end(const Ended& ended) const {
    ASSERT_TRUE(WIFSIGNALED(ended.status)) << ended.status << ' ' << ended.said;
    EXPECT_EQ(WTERMSIG(ended.status), SIGBUS);
    EXPECT_NE(ended.said.find("buoy: the program's SIGBUS handler itself raised SIGBUS"),
              std::string::npos)
        << ended.said;
  }
};

// ---- System calls -----------------------------------------------------------------------------

TEST_P(VolatileFault, SystemCallsThatReadOrWriteItFailWithEfault) {
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  lose_object();
  errno = 0;
  EXPECT_EQ(write(fds[1], object, 10), -1);
  EXPECT_EQ(errno, EFAULT);
  ASSERT_EQ(write(fds[1], "0123456789", 10), 10);
  errno = 0;
  EXPECT_EQ(read(fds[0], object + kPage, 10), -1);
  EXPECT_EQ(errno, EFAULT);
  // Nothing is unmarked by that, and nothing is filled.
  unsigned char vec[2];
  ASSERT_EQ(buoy_residency(object, 2 * kPage, vec), 0);
  EXPECT_EQ(vec[0], BUOY_PAGE_PURGED | BUOY_PAGE_VOLATILE);
  EXPECT_EQ(vec[1], BUOY_PAGE_PURGED | BUOY_PAGE_VOLATILE);
  int purged = 0;
  EXPECT_EQ(buoy_mark_nonvolatile(object, kBytes, &purged), static_cast<ssize_t>(kBytes));
  EXPECT_EQ(purged, 1);
  // And then they go through: reading makes the pages there, so that the kernel finds them.
  EXPECT_EQ(object[kPage], 0);
  EXPECT_EQ(object[0], 0);
  char byte = 0;
  ASSERT_EQ(read(fds[0], &byte, 1), 1);
  ASSERT_EQ(buoy_pin(object, 2 * kPage, BUOY_WRITE), 0);
  EXPECT_EQ(read(fds[0], object + kPage, 9), 9);
  EXPECT_EQ(std::memcmp(object + kPage, "123456789", 9), 0);
  EXPECT_EQ(write(fds[1], object, 10), 10);
  EXPECT_EQ(buoy_unpin(object, 2 * kPage, BUOY_DIRTIED), 0);
  close(fds[0]);
  close(fds[1]);
}

TEST_P(VolatileFault, ASystemCallThatReachesItHalfwayIsShort) {
  const int file = memfd_create("half", MFD_CLOEXEC);
  ASSERT_GE(file, 0);
  lose_object(1);
  touch(object);  // the page before is there, and may be stored to
  iovec parts[2] = {{object + kPage - 8, 8}, {object + kPage, 8}};
  EXPECT_EQ(writev(file, parts, 2), 8);
  ASSERT_EQ(pwrite(file, "0123456789abcdef", 16, 0), 16);
  EXPECT_EQ(preadv(file, parts, 2, 0), 8);
  EXPECT_EQ(std::memcmp(object + kPage - 8, "01234567", 8), 0);
  close(file);
}

// ---- Handlers that need themselves ------------------------------------------------------------

TEST_P(VolatileFault, AHandlerThatTouchesItEndsTheProgramInAnyThread) {
  lose_object();
  const Ended ended = run_in_child([&] {
    lose_object();
    install([](int, siginfo_t*, void*) { touch(object + kPage); });
    std::thread([] { touch(object); }).join();
  });
  expect_clear_end(ended);
}

TEST_P(VolatileFault, EvenTheSamePage) {
  const Ended ended = run_in_child([&] {
    lose_object();
    install([](int, siginfo_t*, void*) { touch(object); });
    touch(object);
  });
  expect_clear_end(ended);
}

TEST_P(VolatileFault, OnAStackOfItsOwn) {
  const Ended ended = run_in_child([&] {
    lose_object();
    static char stack[64 * 1024];
    const stack_t alternate = {stack, 0, sizeof stack};
    must(sigaltstack(&alternate, nullptr) == 0, "sigaltstack");
    install([](int, siginfo_t*, void*) { touch(object + kPage); }, SA_ONSTACK);
    touch(object);
  });
  expect_clear_end(ended);
}

// SA_NODEFER allows to nest, but not for ever.
TEST_P(VolatileFault, AHandlerThatMayNestDoesNotForEver) {
  const Ended ended = run_in_child([&] {
    lose_object();
    // Not on a sanitizer's small stack for signals.
    const stack_t none = {nullptr, SS_DISABLE, 0};
    must(sigaltstack(&none, nullptr) == 0, "sigaltstack");
    install([](int, siginfo_t*, void*) { touch(object + kPage); }, SA_NODEFER);
    touch(object);
  });
  expect_clear_end(ended);
}

TEST_P(VolatileFault, AHandlerThatMayNestCanBeHelpedByItself) {
  const Ended ended = run_in_child([&] {
    lose_object();
    static int depth = 0;
    install(
        [](int, siginfo_t*, void*) {
          if (++depth == 1) {
            touch(object + kPage);  // handled below
            --depth;
            return;
          }
          int purged = 0;
          must(buoy_mark_nonvolatile(object, kBytes, &purged) == static_cast<ssize_t>(kBytes) &&
                   purged == 1,
               "withdrawn in the inner handler");
          --depth;
        },
        SA_NODEFER);
    touch(object);
    must(object[0] == 1 && object[kPage] == 1 && depth == 0, "both are stored to");
  });
  EXPECT_TRUE(ended.is_success()) << ended.said;
}

// The kernel touches it for the handler: an error, and the handler goes on.
TEST_P(VolatileFault, AHandlerWhoseSystemCallMeetsItGoesOn) {
  const Ended ended = run_in_child([&] {
    lose_object();
    static int fds[2];
    must(pipe(fds) == 0, "pipe");
    install([](int, siginfo_t*, void*) {
      must(write(fds[1], object + kPage, 1) == -1 && errno == EFAULT, "EFAULT in the handler");
      int purged = 0;
      (void)buoy_mark_nonvolatile(object, kBytes, &purged);
      must(purged == 1, "told in the handler");
    });
    touch(object);
    must(object[0] == 1, "the store was made");
  });
  EXPECT_TRUE(ended.is_success()) << ended.said;
}

TEST_P(VolatileFault, AfterAHandlerReturnedTheNextTouchIsHandledAgain) {
  static std::atomic<int> calls{0};
  calls = 0;
  install([](int, siginfo_t* info, void*) {
    ++calls;
    int purged = 0;
    (void)buoy_mark_nonvolatile(object, kBytes, &purged);
    if (info->si_code != BUS_ADRERR || purged != 1) _exit(97);
  });
  for (int i = 1; i <= 50; ++i) {
    lose_object();
    touch(object + static_cast<std::size_t>(i) % 8 * kPage);
    ASSERT_EQ(calls, i);
  }
}

// ---- mlock behind our back --------------------------------------------------------------------

// A poisoned page cannot be discarded in the ordinary way when the program locks it afterwards.
TEST_P(VolatileFault, ALostPageThatIsLockedAfterwardsCanBeHadBack) {
  lose_object();
  static sigjmp_buf escape;
  signal(SIGBUS, [](int) { siglongjmp(escape, 1); });
  if (sigsetjmp(escape, 1) == 0) {
    touch(object);
    FAIL() << "a lost page can be stored to";
  }
  signal(SIGBUS, SIG_DFL);
  // As mlock() of memory that cannot be brought in: it fails, but the range is locked.
  (void)syscall(SYS_mlock, object, kBytes);
  int purged = 0;
  EXPECT_EQ(buoy_mark_nonvolatile(object, kBytes, &purged), static_cast<ssize_t>(kBytes));
  EXPECT_EQ(purged, 1);
  const Ended ended = run_in_child([] {});
  EXPECT_TRUE(ended.is_success());
  touch(object);
  EXPECT_EQ(object[0], 1);
  EXPECT_EQ(object[1], 0);
  EXPECT_EQ(syscall(SYS_munlock, object, kBytes), 0);
}

// ---- Handlers that refill, beside reclaim -----------------------------------------------------

// Each thread has objects of its own, marks them and goes on using them: what is lost its handler
// builds again. No touch may ever see anything but the object's contents.
struct Refiller {
  static constexpr std::size_t kObjects = 64;
  static constexpr std::size_t kPages = 6;
  static constexpr std::size_t kObject = kPages * kPage;
  char* at = nullptr;
  std::uint64_t version[kObjects] = {};
  std::uint64_t built_in_handler = 0;
  std::uint64_t untold = 0;

  std::uint64_t* word(std::size_t i, std::size_t page) const {
    return reinterpret_cast<std::uint64_t*>(at + i * kObject + page * kPage + 1000);
  }
  void build(std::size_t i) {
    for (std::size_t page = 0; page < kPages; ++page) *word(i, page) = version[i] << 16 | i;
  }
};
thread_local Refiller* refiller = nullptr;

void refill(int, siginfo_t* info, void*) {
  auto* const address = static_cast<char*>(info->si_addr);
  if (refiller == nullptr || address < refiller->at ||
      address >= refiller->at + Refiller::kObjects * Refiller::kObject ||
      info->si_code != BUS_ADRERR)
    _exit(96);
  const std::size_t i = static_cast<std::size_t>(address - refiller->at) / Refiller::kObject;
  int purged = 0;
  if (buoy_mark_nonvolatile(refiller->at + i * Refiller::kObject, Refiller::kObject, &purged) !=
      static_cast<ssize_t>(Refiller::kObject))
    _exit(95);
  if (purged != 1) ++refiller->untold;
  ++refiller->built_in_handler;
  refiller->build(i);
}

TEST_P(VolatileFault, HandlersOfManyThreadsRefillBesideReclaim) {
  install(&refill);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> untold{0};
  std::atomic<std::uint64_t> built{0};
  std::vector<std::thread> users;
  for (unsigned t = 0; t < 3; ++t)
    users.emplace_back([&, t] {
      Refiller mine;
      mine.at = static_cast<char*>(buoy_map(pool, Refiller::kObjects * Refiller::kObject, 0));
      if (mine.at == nullptr) std::abort();
      for (std::size_t i = 0; i < Refiller::kObjects; ++i) mine.build(i);
      refiller = &mine;
      std::mt19937_64 random(t);
      for (int n = 0; n < 20'000; ++n) {
        const std::size_t i = random() % Refiller::kObjects;
        char* const at = mine.at + i * Refiller::kObject;
        buoy_mark_volatile(at, Refiller::kObject, static_cast<int>(random() % 4));
        const std::size_t page = random() % Refiller::kPages;
        if (__atomic_load_n(mine.word(i, page), __ATOMIC_RELAXED) != (mine.version[i] << 16 | i))
          ++wrong;
        if (n % 64 == 0) std::this_thread::yield();  // reclaim gets a word in, on two CPUs too
        if (random() % 4 != 0) continue;
        int purged = 0;
        buoy_mark_nonvolatile(at, Refiller::kObject, &purged);
        if (purged != 0) {
          mine.build(i);
        } else {
          for (std::size_t p = 0; p < Refiller::kPages; ++p)
            if (*mine.word(i, p) != (mine.version[i] << 16 | i)) ++wrong;
        }
        ++mine.version[i];
        mine.build(i);
      }
      refiller = nullptr;
      untold += mine.untold;
      built += mine.built_in_handler;
      if (buoy_unmap(mine.at, Refiller::kObjects * Refiller::kObject) != 0) std::abort();
    });
  std::thread reclaiming([&] {
    std::mt19937_64 random(9);
    while (!stop) buoy_pool_reclaim(pool, (1 + random() % 32) * kPage);
  });
  for (std::thread& user : users) user.join();
  stop = true;
  reclaiming.join();
  std::cout << built << " built in handlers\n";
  EXPECT_EQ(wrong, 0U);
  EXPECT_EQ(untold, 0U);
  EXPECT_GT(built, 0U);
}

INSTANTIATE_TEST_SUITE_P(Deliveries, VolatileFault,
                         ::testing::Values(Delivery::kSignal, Delivery::kThread),
                         [](const auto& way) { return name_of(way.param); });

}  // namespace
}  // namespace buoy::testing
