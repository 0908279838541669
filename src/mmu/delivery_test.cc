// How faults reach the sink, and where a SIGBUS goes that is not ours.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "base/lock.h"
#include "mmu/mmu_testing.h"
#include "mmu/signal_delivery.h"

namespace buoy::mmu {
namespace {

constexpr std::uint64_t kPages = 4 * kPagesPerBlock;

// What a program's handler saw.
struct Seen {
  std::atomic<int> calls{0};
  std::atomic<int> code{0};
  std::atomic<std::uintptr_t> address{0};
  std::atomic<bool> usr1_blocked{false};
  sigjmp_buf back;
};
Seen seen;

void record(int, siginfo_t* info, void*) {
  seen.calls.fetch_add(1);
  seen.code.store(info->si_code);
  seen.address.store(reinterpret_cast<std::uintptr_t>(info->si_addr));
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  seen.usr1_blocked.store(sigismember(&mask, SIGUSR1) == 1);
}

void record_and_jump(int signal, siginfo_t* info, void* context) {
  record(signal, info, context);
  siglongjmp(seen.back, 1);
}

KernelSigaction action_of(void (*handler)(int, siginfo_t*, void*)) {
  KernelSigaction action;
  action.handler = reinterpret_cast<void*>(handler);
  action.flags = SA_SIGINFO;
  action.mask = std::uint64_t{1} << (SIGUSR1 - 1);
  return action;
}

// A page of a file that ends before it: a SIGBUS that is none of ours.
volatile char* foreign_page() {
  const int fd = ::memfd_create("foreign", MFD_CLOEXEC);
  void* p = ::mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  ::close(fd);
  return static_cast<volatile char*>(p);
}

// The exit status of a child that runs `body`; 100 + signal if it dies of one.
template <typename F>
int in_child(F&& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::signal(SIGSEGV, SIG_DFL);  // a sanitizer may have its own
    body();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

class DeliveryTest : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    seen.calls = 0;
    bench_.emplace(GetParam(), PageCount(kPages));
    if (!bench_->why_not().empty()) GTEST_SKIP() << bench_->why_not();
  }
  void TearDown() override {
    const KernelSigaction none;
    signal_delivery::set_program_action(&none, nullptr);
  }
  Bench& b() { return *bench_; }
  std::optional<Bench> bench_;
};

TEST_P(DeliveryTest, KeepsErrnoAndMask) {
  sigset_t before;
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  errno = 77;
  b().store(3, 1);
  EXPECT_EQ(errno, 77);
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int s = 1; s < 32; ++s) EXPECT_EQ(sigismember(&before, s), sigismember(&after, s)) << s;
}

TEST_P(DeliveryTest, SystemCallsOnMissingPages) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  ASSERT_EQ(::write(pipe_ends[1], "x", 1), 1);
  const ssize_t got = ::read(pipe_ends[0], b().page(3).pointer(), 1);
  if (GetParam() == Kind::kThread) {
    EXPECT_EQ(got, 1);
    EXPECT_EQ(b().sink.missing, 1U);
    EXPECT_EQ(b().load(3), std::uint64_t{'x'});
  } else {
    EXPECT_EQ(got, -1);
    EXPECT_EQ(errno, EFAULT);
  }
  ::close(pipe_ends[0]);
  ::close(pipe_ends[1]);
}

TEST_P(DeliveryTest, BusErrorsReachTheProgramsHandler) {
  const KernelSigaction action = action_of(&record_and_jump);
  KernelSigaction old;
  ASSERT_EQ(signal_delivery::set_program_action(&action, &old), 0);
  EXPECT_EQ(old.handler, reinterpret_cast<void*>(SIG_DFL));
  KernelSigaction now;
  ASSERT_EQ(signal_delivery::set_program_action(nullptr, &now), 0);
  EXPECT_EQ(now.handler, action.handler);
  EXPECT_EQ(now.mask, action.mask);

  b().sink.bus_error_page = b().page(5).value();
  if (sigsetjmp(seen.back, 1) == 0) {
    b().store(5, 1, 72);
    FAIL() << "the store went through";
  }
  EXPECT_EQ(seen.calls, 1);
  EXPECT_EQ(seen.code, BUS_ADRERR);
  EXPECT_EQ(seen.address, b().page(5).address() + 72);
  EXPECT_TRUE(seen.usr1_blocked);
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  EXPECT_EQ(sigismember(&mask, SIGUSR1), 0);
  // Other pages go on as before, and so does this one when the reason is gone.
  b().store(6, 1);
  b().sink.bus_error_page = 0;
  b().mmu().unpoison(b().r(), b().page(5));
  b().store(5, 2);
  EXPECT_EQ(b().load(5), 2U);
  EXPECT_EQ(seen.calls, 1);
}

TEST_P(DeliveryTest, ForeignBusErrorsReachTheProgramsHandler) {
  const KernelSigaction action = action_of(&record_and_jump);
  ASSERT_EQ(signal_delivery::set_program_action(&action, nullptr), 0);
  volatile char* page = foreign_page();
  if (sigsetjmp(seen.back, 1) == 0) {
    page[7] = 1;
    FAIL() << "the store went through";
  }
  EXPECT_EQ(seen.calls, 1);
  EXPECT_EQ(seen.address, reinterpret_cast<std::uintptr_t>(page) + 7);
}

TEST_P(DeliveryTest, SentSignalsReachTheProgramsHandler) {
  const KernelSigaction action = action_of(&record);
  ASSERT_EQ(signal_delivery::set_program_action(&action, nullptr), 0);
  ::raise(SIGBUS);
  EXPECT_EQ(seen.calls, 1);
  EXPECT_LE(seen.code, 0);
  sigval value{};
  value.sival_ptr = b().page(3).pointer();
  if (GetParam() == Kind::kSignal) {
    ::sigqueue(::getpid(), SIGBUS, value);
    EXPECT_EQ(seen.calls, 2);
    EXPECT_EQ(b().sink.missing, 0U);
  }
}

TEST_P(DeliveryTest, WithoutAHandlerABusErrorKills) {
  volatile char* page = foreign_page();
  EXPECT_EQ(in_child([&] { page[0] = 1; }), 100 + SIGBUS);
  EXPECT_EQ(in_child([&] { ::raise(SIGBUS); }), 100 + SIGBUS);
  // To ignore it helps against sent signals only.
  const KernelSigaction ignore{reinterpret_cast<void*>(SIG_IGN), 0, nullptr, 0};
  ASSERT_EQ(signal_delivery::set_program_action(&ignore, nullptr), 0);
  EXPECT_EQ(in_child([&] { ::raise(SIGBUS); }), 0);
  EXPECT_EQ(in_child([&] { page[0] = 1; }), 100 + SIGBUS);
  b().sink.bus_error_page = b().page(5).value();
  ASSERT_TRUE(b().mmu().before_fork().ok());
  EXPECT_EQ(in_child([&] {
              if (!b().mmu().after_fork_in_child().ok()) ::_exit(99);
              b().store(5, 1);
            }),
            100 + SIGBUS);
  b().mmu().after_fork_in_parent();
}

TEST_P(DeliveryTest, ResetHandActsOnce) {
  KernelSigaction action = action_of(&record);
  action.flags |= static_cast<unsigned long>(SA_RESETHAND);
  ASSERT_EQ(signal_delivery::set_program_action(&action, nullptr), 0);
  ::raise(SIGBUS);
  KernelSigaction now;
  ASSERT_EQ(signal_delivery::set_program_action(nullptr, &now), 0);
  EXPECT_EQ(now.handler, reinterpret_cast<void*>(SIG_DFL));
  EXPECT_EQ(seen.calls, 1);
}

TEST_P(DeliveryTest, TheLastMmuPutsTheProgramsActionBack) {
  const KernelSigaction action = action_of(&record);
  ASSERT_EQ(signal_delivery::set_program_action(&action, nullptr), 0);
  {
    Bench second(GetParam(), PageCount(kPages));
    second.store(1, 2);
    b().store(1, 3);
    EXPECT_EQ(second.load(1), 2U);
    EXPECT_EQ(second.sink.missing, 1U);
    EXPECT_EQ(b().sink.missing, 1U);
  }
  b().store(2, 3);
  EXPECT_EQ(seen.calls, 0);
  bench_.reset();
  struct sigaction now {};
  ASSERT_EQ(::sigaction(SIGBUS, nullptr, &now), 0);
  EXPECT_EQ(now.sa_sigaction, &record);
}

TEST_P(DeliveryTest, AForkBehindOurBackFindsNoMemoryRatherThanZeros) {
  b().store(0, 4);
  EXPECT_EQ(in_child([&] { b().store(0, 1); }), 100 + SIGSEGV);
  EXPECT_EQ(b().load(0), 4U);
}

TEST_P(DeliveryTest, ThreadsFaultAtOnceOnTheSamePages) {
  constexpr unsigned kThreads = 4;
  std::vector<std::thread> threads;
  std::atomic<std::uint64_t> sum{0};
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (std::uint64_t i = 0; i < 1000; ++i)
        sum += __atomic_fetch_add(reinterpret_cast<std::uint64_t*>(b().page(i).pointer()), 1,
                                  __ATOMIC_RELAXED);
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(sum, 1000U * (0 + 1 + 2 + 3));
  for (std::uint64_t i = 0; i < 1000; ++i) EXPECT_EQ(b().load(i), kThreads);
}

INSTANTIATE_TEST_SUITE_P(All, DeliveryTest, testing::Values(Kind::kSignal, Kind::kThread),
                         [](const auto& p) { return name_of(p.param); });

// ---- Pages leave and come back under threads that store to them ----

// A sink that gives back what was taken, under one lock a block: a very small manager.
class ReturningSink final : public FaultSink {
 public:
  Verdict on_fault(const Fault& fault) override {
    const Guard<Mutex<LockRank::kLeaf>> guard(lock);
    Mmu* m = mmu.load();
    if (m == nullptr || !r.contains(fault.vpn)) return Verdict::kForeign;
    const std::uint64_t i = (fault.vpn - r.base).value();
    const PageRun page{fault.vpn, PageCount(1)};
    if (fault.is_protection) return is_ok(m->unprotect(r, page));
    switch (where[i]) {
      case Where::kAddress:
        return Verdict::kResolved;  // somebody was faster
      case Where::kNowhere:
        where[i] = Where::kAddress;
        return is_ok(m->install_zeros(r, page));
      case Where::kShadow:
        break;
    }
    const GiveBackResult result = m->give_back(r, page, Return::kCopied);
    if (result.how == Return::kCopied) m->drop_shadow(r, page);
    where[i] = Where::kAddress;
    return is_ok(result.progress);
  }
  // Behind this nobody uses the mmu: a handler thread may be at work still when the toucher, whom it
  // woke, has gone on.
  void close() {
    const Guard<Mutex<LockRank::kLeaf>> guard(lock);
    mmu.store(nullptr);
  }
  // Everything at an address leaves.
  void take_all(PageRun run, bool as_block) {
    const Guard<Mutex<LockRank::kLeaf>> guard(lock);
    const std::uint64_t first = (run.first - r.base).value();
    std::uint64_t populated = 0;
    bool is_shadow_empty = true;
    for (std::uint64_t i = first; i < first + run.count.value(); ++i) {
      populated += where[i] == Where::kAddress ? 1 : 0;
      is_shadow_empty = is_shadow_empty && where[i] != Where::kShadow;
    }
    as_block = as_block && is_shadow_empty && run.count.value() == kPagesPerBlock;
    const Progress progress = as_block ? mmu.load()->take_block(r, run.first, PageCount(populated))
                                       : mmu.load()->take(r, run);
    if (!progress.complete()) incomplete.fetch_add(1);
    for (std::uint64_t i = first; i < first + progress.done.value(); ++i)
      if (where[i] == Where::kAddress) where[i] = Where::kShadow;
  }

  std::atomic<Mmu*> mmu{nullptr};
  Reservation r;
  std::atomic<int> incomplete{0};

 private:
  enum class Where : std::uint8_t { kNowhere, kAddress, kShadow };
  static Verdict is_ok(const Progress& p) {
    return p.complete() ? Verdict::kResolved : Verdict::kBusError;
  }
  Mutex<LockRank::kLeaf> lock;
  Where where[kPages] = {};
};

class MovingUnderThreads : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    UffdOptions options;
    options.delivery = GetParam() == Kind::kThread ? Delivery::kThread : Delivery::kSignal;
    options.use_move = GetParam() == Kind::kWithoutMove ? UseMove::kNever : UseMove::kWherePossible;
    options.pins = Pins::kKnown;
    options.sink = &sink_;
    options.counters = &counters_;
    auto created = UffdMmu::create(options);
    if (!created) GTEST_SKIP() << "no UffdMmu of this kind here: " << std::strerror(created.code());
    mmu_ = *created;
    auto reserved = mmu_->reserve(PageCount(kPages), Backing::kSmall);
    ASSERT_TRUE(reserved.ok());
    sink_.r = *reserved;
    ASSERT_TRUE(mmu_->permit(sink_.r, {sink_.r.base, sink_.r.pages}, Access::kReadWrite).ok());
    sink_.mmu.store(mmu_);
  }
  void TearDown() override {
    if (mmu_ == nullptr) return;
    sink_.close();
    mmu_->release(sink_.r);
    mmu_->destroy();
  }
  volatile std::uint64_t* words(std::uint64_t page) {
    return reinterpret_cast<volatile std::uint64_t*>((sink_.r.base + PageCount(page)).pointer());
  }
  PageRun run(std::uint64_t first, std::uint64_t n) {
    return {sink_.r.base + PageCount(first), PageCount(n)};
  }

  ReturningSink sink_;
  Counters counters_;
  UffdMmu* mmu_ = nullptr;
};

TEST_P(MovingUnderThreads, NoStoreIsLost) {
  // Each thread counts up in words of its own, on pages it shares with the others.
  constexpr unsigned kThreads = 3;
  constexpr std::uint64_t kRounds = 12;
  std::atomic<unsigned> running{kThreads};
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::uint64_t round = 0; round < kRounds; ++round) {
        for (std::uint64_t k = 0; k < kPages; ++k) {
          const std::uint64_t i = (k * 37 + t * 701) % kPages;
          const std::uint64_t stamp = round == 0 ? 0 : (i << 32 | t << 16 | (round - 1)) + 1;
          if (words(i)[t * 100] != stamp) wrong.fetch_add(1);
          words(i)[t * 100] = (i << 32 | t << 16 | round) + 1;
        }
      }
      running.fetch_sub(1);
    });
  }
  std::uint64_t n = 0;
  while (running.load() != 0) {
    const std::uint64_t block = n % 4 * kPagesPerBlock;
    if (n % 3 == 0)
      sink_.take_all(run(block, kPagesPerBlock), true);
    else
      sink_.take_all(run(block + n * 29 % 256, 1 + n % 200), false);
    ++n;
    if (n % 8 == 0) ::usleep(200);
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(sink_.incomplete, 0);
  EXPECT_GT(n, 10U);
}

// A store at the very moment a page leaves: one thread stores without a pause to the pages that
// the other takes without a pause.
TEST_P(MovingUnderThreads, NoStoreIsLostOnHotPages) {
  constexpr std::uint64_t kHot = 4;
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> sweeps{0};
  std::uint64_t lost = 0;
  std::thread writer([&] {
    std::uint64_t expected[kHot] = {};
    while (!stop.load(std::memory_order_relaxed)) {
      for (std::uint64_t i = 0; i < kHot; ++i) {
        for (int k = 0; k < 200; ++k) {
          if (words(i)[0] != expected[i]) ++lost;
          words(i)[0] = ++expected[i];
        }
      }
      sweeps.fetch_add(1, std::memory_order_relaxed);
    }
  });
  for (int n = 0; n < 200; ++n) {
    // All pages are there, and stored to right now.
    const std::uint64_t before = sweeps.load(std::memory_order_relaxed);
    while (sweeps.load(std::memory_order_relaxed) < before + 2) ::sched_yield();
    sink_.take_all(run(0, kHot), false);
  }
  stop.store(true);
  writer.join();
  EXPECT_EQ(lost, 0U);
  EXPECT_EQ(sink_.incomplete, 0);
}

INSTANTIATE_TEST_SUITE_P(All, MovingUnderThreads,
                         testing::Values(Kind::kSignal, Kind::kThread, Kind::kWithoutMove),
                         [](const auto& p) { return name_of(p.param); });

}  // namespace
}  // namespace buoy::mmu
