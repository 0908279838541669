// What we rely on the kernel to do, fact by fact, tried on the bare calls. If one of these fails
// on a new kernel, the code that names the fact must be looked at.
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "base/sys.h"
#include "mmu/mmu_testing.h"
#include "mmu/residency.h"
#include "mmu/uffd.h"
#include "mmu/uffd_abi.h"

namespace buoy::mmu {
namespace {

sigjmp_buf after_signal;
void jump_back(int signal) { siglongjmp(after_signal, signal); }

// Whether a load or a store at `p` raises SIGBUS.
bool raises_sigbus(volatile std::byte* p, bool is_store) {
  struct sigaction ours {};
  struct sigaction before {};
  ours.sa_handler = &jump_back;
  ::sigaction(SIGBUS, &ours, &before);
  const bool raised = sigsetjmp(after_signal, 1) != 0;
  if (!raised) {
    if (is_store)
      *p = std::byte{1};
    else
      (void)*p;
  }
  ::sigaction(SIGBUS, &before, nullptr);
  return raised;
}

class UffdFacts : public testing::Test {
 protected:
  static constexpr std::size_t kBytes = 4 * kBlockSize;

  void SetUp() override {
    const std::uint64_t offered = Uffd::kernel_features();
    const std::uint64_t needed = abi::kFeatureSigbus | abi::kFeatureProtect;
    if ((offered & needed) != needed) GTEST_SKIP() << "no userfaultfd with SIGBUS here";
    has_move_ = (offered & abi::kFeatureMove) != 0;
    has_poison_ = (offered & abi::kFeaturePoison) != 0;
    const std::uint64_t wanted = needed | (offered & (abi::kFeatureMove | abi::kFeaturePoison));
    ASSERT_TRUE(uffd_.open(Modes::kUserOnly, wanted).ok());
    address_ = map();
    shadow_ = map();
    ASSERT_TRUE(enroll(address_, Uffd::Trap::kMissingAndProtected).ok());
    ASSERT_TRUE(enroll(shadow_, Uffd::Trap::kProtectedOnly).ok());
    std::memset(bytes_, 7, sizeof bytes_);
    (void)residency_.open(Residency::Markers::kPossible);
  }
  void TearDown() override {
    if (address_ != nullptr) sys::unmap(address_, kBytes);
    if (shadow_ != nullptr) sys::unmap(shadow_, kBytes);
  }

  static std::byte* map() { return *sys::reserve(kBytes, kBlockSize, PROT_READ | PROT_WRITE); }
  Status enroll(std::byte* p, Uffd::Trap trap) {
    return uffd_.enroll(reinterpret_cast<std::uintptr_t>(p), kBytes, trap);
  }
  std::byte* a(std::size_t page) { return address_ + page * kPageSize; }
  std::byte* s(std::size_t page) { return shadow_ + page * kPageSize; }
  static std::uintptr_t at(const std::byte* p) { return reinterpret_cast<std::uintptr_t>(p); }
  int copy(std::byte* to, std::size_t pages, Uffd::Writable w = Uffd::Writable::kYes) {
    return uffd_.copy(at(to), bytes_, pages * kPageSize, w).error;
  }
  Uffd::Reach move(std::byte* to, std::byte* from, std::size_t pages,
                   Uffd::Holes holes = Uffd::Holes::kRefused) {
    return uffd_.move(at(to), at(from), pages * kPageSize, holes);
  }
  bool is_there(const std::byte* p) {
    Residency::Bits bits;
    EXPECT_TRUE(residency_.query(Vpn::containing(p), PageCount(1), bits));
    return bits.test(0);
  }
  static long huge_kib(const std::byte* p);

#define NEEDS_MOVE() \
  if (!has_move_) GTEST_SKIP() << "no UFFDIO_MOVE here"

  Uffd uffd_;
  Residency residency_;
  std::byte* address_ = nullptr;
  std::byte* shadow_ = nullptr;
  std::byte bytes_[64 * kPageSize];
  bool has_move_ = false;
  bool has_poison_ = false;
};

// AnonHugePages of the mapping that holds `p`.
long UffdFacts::huge_kib(const std::byte* p) {
  std::FILE* file = std::fopen("/proc/self/smaps", "re");
  char line[512];
  bool is_inside = false;
  long kib = 0;
  while (std::fgets(line, sizeof line, file) != nullptr) {
    unsigned long start = 0;
    unsigned long end = 0;
    if (std::sscanf(line, "%lx-%lx ", &start, &end) == 2)
      is_inside = start <= at(p) && at(p) < end;
    else if (is_inside && std::sscanf(line, "AnonHugePages: %ld", &kib) == 1)
      break;
  }
  std::fclose(file);
  return kib;
}

template <typename F>
int status_of_child(F&& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::signal(SIGSEGV, SIG_DFL);  // a sanitizer may have its own
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

// ---- Shadows ----

TEST_F(UffdFacts, AShadowEnrolledForProtectionOnlyIsPopulatedByTheKernel) {
  NEEDS_MOVE();
  s(0)[0] = std::byte{5};
  EXPECT_EQ(move(a(0), s(0), 1).error, 0);
  EXPECT_EQ(a(0)[0], std::byte{5});
  EXPECT_EQ(move(s(0), a(0), 1).error, 0);
  EXPECT_TRUE(raises_sigbus(a(0), false));
}

TEST_F(UffdFacts, OnlyTheDestinationOfAMoveMustBeEnrolled) {
  NEEDS_MOVE();
  std::byte* plain = map();
  plain[0] = std::byte{1};
  EXPECT_EQ(move(a(0), plain, 1).error, 0);
  EXPECT_EQ(move(plain, a(0), 1).error, EINVAL);
  sys::unmap(plain, kBytes);
}

TEST_F(UffdFacts, AReadOfAShadowsHoleStandsInTheWay) {
  NEEDS_MOVE();
  EXPECT_FALSE(raises_sigbus(s(0), false));
  ASSERT_EQ(copy(a(0), 1), 0);
  EXPECT_EQ(move(s(0), a(0), 1).error, EEXIST);
  EXPECT_EQ(sys::advise(s(0), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(move(s(0), a(0), 1).error, 0);
}

// ---- MOVE ----

TEST_F(UffdFacts, AMoveStopsPartWayAndTheNextCallSaysWhy) {
  NEEDS_MOVE();
  ASSERT_EQ(copy(a(0), 8), 0);
  s(5)[0] = std::byte{1};
  const Uffd::Reach first = move(s(0), a(0), 8);
  EXPECT_EQ(first.error, EAGAIN);
  EXPECT_EQ(first.bytes, 5 * kPageSize);
  const Uffd::Reach second = move(s(5), a(5), 3);
  EXPECT_EQ(second.error, EEXIST);
  EXPECT_EQ(second.bytes, 0U);
}

TEST_F(UffdFacts, AHoleEndsAMoveUnlessAllowed) {
  NEEDS_MOVE();
  ASSERT_EQ(copy(a(0), 2), 0);
  ASSERT_EQ(copy(a(4), 2), 0);
  EXPECT_EQ(move(s(0), a(0), 6).bytes, 2 * kPageSize);
  EXPECT_EQ(move(s(2), a(2), 4).error, ENOENT);
  EXPECT_EQ(move(s(2), a(2), 4, Uffd::Holes::kAllowed).error, 0);
  EXPECT_TRUE(is_there(s(5)));
  // A hole whose destination is occupied is not passed over.
  EXPECT_EQ(move(s(0), a(0), 1, Uffd::Holes::kAllowed).error, EEXIST);
}

TEST_F(UffdFacts, AMoveLosesWriteProtection) {
  NEEDS_MOVE();
  ASSERT_EQ(copy(a(0), 1, Uffd::Writable::kNo), 0);
  EXPECT_TRUE(raises_sigbus(a(0), true));
  ASSERT_EQ(move(s(0), a(0), 1).error, 0);
  ASSERT_EQ(move(a(0), s(0), 1).error, 0);
  EXPECT_FALSE(raises_sigbus(a(0), true));
}

TEST_F(UffdFacts, LockedAndReadOnlyPagesCannotMoveButCopyWorks) {
  NEEDS_MOVE();
  ASSERT_EQ(copy(a(0), 4), 0);
  if (sys::call(SYS_mlock, sys::ptr(a(0)), kPageSize) == 0) {
    EXPECT_EQ(move(s(0), a(0), 1).error, EINVAL);
    EXPECT_EQ(sys::advise(a(0), kPageSize, MADV_DONTNEED), -EINVAL);
    ASSERT_EQ(sys::call(SYS_munlock, sys::ptr(a(0)), kPageSize), 0);
  }
  ASSERT_EQ(::mprotect(a(1), 3 * kPageSize, PROT_READ), 0);
  EXPECT_EQ(move(s(1), a(1), 1).error, EINVAL);
  s(2)[0] = std::byte{1};
  ASSERT_EQ(sys::advise(a(2), kPageSize, MADV_DONTNEED), 0);
  EXPECT_EQ(move(a(2), s(2), 1).error, EINVAL);
  EXPECT_EQ(copy(a(2), 1), 0);
  EXPECT_EQ(a(2)[0], std::byte{7});
}

TEST_F(UffdFacts, ARangeOfTwoMappingsCannotMoveNorBeCopiedTo) {
  NEEDS_MOVE();
  ASSERT_EQ(::mprotect(a(2), kPageSize, PROT_READ), 0);
  EXPECT_EQ(copy(a(0), 4), ENOENT);
  ASSERT_EQ(copy(a(0), 2), 0);
  EXPECT_EQ(move(s(0), a(0), 4, Uffd::Holes::kAllowed).error, EINVAL);
  EXPECT_FALSE(is_there(s(0)));
}

// ---- Pins ----

TEST_F(UffdFacts, PinnedPagesRefuseToMoveAndNothingElseNotices) {
  NEEDS_MOVE();
  ASSERT_EQ(copy(a(0), 2), 0);
  const int ring = pin_by_io_uring(a(0));
  if (ring < 0) GTEST_SKIP() << "no io_uring here to pin a page with";
  EXPECT_EQ(move(s(0), a(0), 1).error, EBUSY);
  EXPECT_EQ(uffd_.protect(at(a(0)), kPageSize), 0);
  EXPECT_EQ(sys::advise(a(0), kPageSize, MADV_DONTNEED), 0);
  ::close(ring);
}

// ---- Fork ----

TEST_F(UffdFacts, InAForkChildTakenPagesReadAsZeros) {
  ASSERT_EQ(copy(a(0), 1), 0);
  EXPECT_EQ(status_of_child([&] {
              if (a(0)[0] != std::byte{7}) return 1;
              return a(1)[0] == std::byte{0} ? 0 : 2;  // no SIGBUS: not enrolled here
            }),
            0);
  EXPECT_TRUE(raises_sigbus(a(1), false));
}

TEST_F(UffdFacts, InAForkChildStoreTrappingIsLost) {
  ASSERT_EQ(copy(a(0), 1, Uffd::Writable::kNo), 0);
  EXPECT_EQ(status_of_child([&] {
              a(0)[0] = std::byte{1};
              return 0;
            }),
            0);
}

TEST_F(UffdFacts, ForkSharedPagesRefuseToMoveUntilStoredTo) {
  NEEDS_MOVE();
  ASSERT_EQ(copy(a(0), 2), 0);
  EXPECT_EQ(status_of_child([] { return 0; }), 0);
  EXPECT_EQ(move(s(0), a(0), 1).error, EBUSY) << "although the child is gone";
  EXPECT_EQ(sys::advise(a(0), kPageSize, abi::kAdvicePopulateWrite), 0);
  EXPECT_EQ(move(s(0), a(0), 1).error, 0);
  __atomic_fetch_add(reinterpret_cast<unsigned char*>(a(1)), 0, __ATOMIC_RELAXED);
  EXPECT_EQ(move(s(1), a(1), 1).error, 0);
}

TEST_F(UffdFacts, DontForkLeavesTheChildWithoutTheMapping) {
  ASSERT_EQ(copy(a(0), 1), 0);
  ASSERT_EQ(sys::advise(address_, kBytes, MADV_DONTFORK), 0);
  EXPECT_EQ(status_of_child([&] { return static_cast<int>(a(0)[0]); }), 100 + SIGSEGV);
  ASSERT_EQ(sys::advise(address_, kBytes, MADV_DOFORK), 0);
  EXPECT_EQ(status_of_child([&] { return static_cast<int>(a(0)[0]); }), 7);
}

// ---- Huge pages ----

TEST_F(UffdFacts, AWholeHugePageMovesAsOneAndAPartialUnprotectSplitsIt) {
  NEEDS_MOVE();
  ASSERT_EQ(sys::advise(shadow_, kBytes, MADV_HUGEPAGE), 0);
  s(0)[0] = std::byte{3};
  if (huge_kib(shadow_) != 2048) GTEST_SKIP() << "no huge page to be had";
  EXPECT_EQ(move(a(0), s(0), kPagesPerBlock).error, 0);
  EXPECT_EQ(huge_kib(address_), 2048);
  EXPECT_EQ(uffd_.protect(at(a(0)), kBlockSize), 0);
  EXPECT_EQ(huge_kib(address_), 2048);
  EXPECT_EQ(uffd_.unprotect(at(a(16)), kPageSize), 0);
  EXPECT_EQ(huge_kib(address_), 0);
  EXPECT_FALSE(raises_sigbus(a(16), true));
  EXPECT_TRUE(raises_sigbus(a(17), true));
}

TEST_F(UffdFacts, OneStorePopulatesAWholeHugePageUnlessAdvisedAgainst) {
  ASSERT_EQ(sys::advise(shadow_, kBlockSize, MADV_HUGEPAGE), 0);
  ASSERT_EQ(sys::advise(shadow_ + kBlockSize, kBlockSize, MADV_NOHUGEPAGE), 0);
  s(0)[0] = std::byte{1};
  s(kPagesPerBlock)[0] = std::byte{1};
  EXPECT_FALSE(is_there(s(kPagesPerBlock + 1)));
}

// ---- Zero pages ----

TEST_F(UffdFacts, AZeroPageIsStoredToUnseen) {
  uffdio_zeropage request{};
  request.range = {at(a(0)), kPageSize};
  ASSERT_EQ(
      sys::call(SYS_ioctl, uffd_.fd(), static_cast<long>(UFFDIO_ZEROPAGE), sys::ptr(&request)), 0);
  EXPECT_FALSE(raises_sigbus(a(0), false));
  EXPECT_FALSE(raises_sigbus(a(0), true)) << "it became a page of its own, and nobody was told";
}

// ---- Signals ----

TEST_F(UffdFacts, AFaultWhileSigbusIsBlockedKills) {
  EXPECT_EQ(status_of_child([&] {
              (void)enroll(address_, Uffd::Trap::kMissingAndProtected);
              struct sigaction ours {};
              ours.sa_handler = [](int) { ::_exit(1); };
              ::sigaction(SIGBUS, &ours, nullptr);
              sigset_t set;
              sigfillset(&set);
              sigprocmask(SIG_BLOCK, &set, nullptr);
              Uffd fresh;
              if (!fresh.open(Modes::kUserOnly, abi::kFeatureSigbus | abi::kFeatureProtect).ok())
                return 2;
              (void)fresh.enroll(at(address_), kBytes, Uffd::Trap::kMissingAndProtected);
              a(9)[0] = std::byte{1};
              return 3;
            }),
            100 + SIGBUS);
}

TEST_F(UffdFacts, ASignalFrameOnAMissingStackPageKills) {
  EXPECT_EQ(status_of_child([&] {
              Uffd fresh;
              if (!fresh.open(Modes::kUserOnly, abi::kFeatureSigbus | abi::kFeatureProtect).ok())
                return 2;
              (void)fresh.enroll(at(address_), kBytes, Uffd::Trap::kMissingAndProtected);
              stack_t stack{};
              stack.ss_sp = address_;
              stack.ss_size = kBlockSize;
              ::sigaltstack(&stack, nullptr);
              struct sigaction ours {};
              ours.sa_handler = [](int) { ::_exit(1); };
              ours.sa_flags = SA_ONSTACK;
              ::sigaction(SIGUSR1, &ours, nullptr);
              ::raise(SIGUSR1);
              return 3;
            }),
            100 + SIGSEGV);
}

TEST_F(UffdFacts, SystemCallsOnMissingPagesFail) {
  EXPECT_EQ(sys::call(SYS_getcwd, sys::ptr(a(0)), kPageSize), -EFAULT);
}

// ---- Poison ----

TEST_F(UffdFacts, PoisonRaisesSigbusAndFailsSystemCalls) {
  if (!has_poison_) GTEST_SKIP() << "no UFFDIO_POISON here";
  ASSERT_EQ(uffd_.poison(at(a(0)), kPageSize), 0);
  EXPECT_TRUE(raises_sigbus(a(0), false));
  EXPECT_TRUE(raises_sigbus(a(0), true));
  EXPECT_EQ(sys::call(SYS_getcwd, sys::ptr(a(0)), kPageSize), -EFAULT);
  EXPECT_FALSE(is_there(a(0)));
  EXPECT_EQ(copy(a(0), 1), 0) << "gives way to COPY";
  EXPECT_EQ(a(0)[0], std::byte{7});
}

TEST_F(UffdFacts, PoisonDoesNotGiveWayToMove) {
  if (!has_poison_) GTEST_SKIP() << "no UFFDIO_POISON here";
  NEEDS_MOVE();
  ASSERT_EQ(uffd_.poison(at(a(1)), kPageSize), 0);
  s(1)[0] = std::byte{1};
  EXPECT_EQ(move(a(1), s(1), 1).error, EEXIST);
}

// ---- mremap ----

TEST_F(UffdFacts, RemapMovesALeafAndForgetsTheShadowsEnrolment) {
  NEEDS_MOVE();
  ASSERT_EQ(copy(a(0), 2, Uffd::Writable::kNo), 0);
  ASSERT_EQ(copy(a(100), 1), 0);
  const long rc = sys::call(SYS_mremap, sys::ptr(a(0)), kBlockSize, kBlockSize,
                            MREMAP_MAYMOVE | MREMAP_FIXED | abi::kRemapDontUnmap, sys::ptr(s(0)));
  ASSERT_EQ(rc, static_cast<long>(at(s(0))));
  EXPECT_EQ(s(100)[0], std::byte{7});
  EXPECT_FALSE(raises_sigbus(s(0), true)) << "protection is lost";
  EXPECT_TRUE(raises_sigbus(a(0), false)) << "the address is still enrolled";
  ASSERT_EQ(move(a(0), s(0), 1).error, 0);
  EXPECT_EQ(move(s(0), a(0), 1).error, EINVAL);
  ASSERT_TRUE(uffd_.enroll(at(s(0)), kBlockSize, Uffd::Trap::kProtectedOnly).ok());
  EXPECT_EQ(move(s(0), a(0), 1).error, 0);
}

TEST_F(UffdFacts, RemapNoticesNoPinsAndNoSharing) {
  ASSERT_EQ(copy(a(0), 1), 0);
  EXPECT_EQ(status_of_child([] { return 0; }), 0);
  EXPECT_GT(sys::call(SYS_mremap, sys::ptr(a(0)), kBlockSize, kBlockSize,
                      MREMAP_MAYMOVE | MREMAP_FIXED | abi::kRemapDontUnmap, sys::ptr(s(0))),
            0);
}

}  // namespace
}  // namespace buoy::mmu
