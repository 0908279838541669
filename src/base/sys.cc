#include "base/sys.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/check.h"

// long buoy_switch_stack(long (*body)(const void*), const void* argument, void* stack_top)
// Calls body(argument) on another stack. rbp keeps the old one, and unwinders can follow it.
asm(R"(
  .pushsection .text,"ax",@progbits
  .hidden buoy_switch_stack
  .type buoy_switch_stack, @function
buoy_switch_stack:
  .cfi_startproc
  pushq %rbp
  .cfi_def_cfa_offset 16
  .cfi_offset %rbp, -16
  movq %rsp, %rbp
  .cfi_def_cfa_register %rbp
  movq %rdi, %rax
  movq %rsi, %rdi
  movq %rdx, %rsp
  callq *%rax
  movq %rbp, %rsp
  popq %rbp
  .cfi_def_cfa %rsp, 8
  ret
  .cfi_endproc
  .size buoy_switch_stack, . - buoy_switch_stack
  .popsection
)");
extern "C" long buoy_switch_stack(long (*body)(const void*), const void* argument, void* stack_top);

namespace buoy::sys {

namespace {

// Large ranges of ours, so that nobody makes them resident for the asking. What does not fit in here
// (none in practice) is not protected from that.
struct Large {
  std::atomic<std::uintptr_t> begin{0};  // 0: free; 1: being entered
  std::atomic<std::uintptr_t> end{0};
};
constexpr std::size_t kLargeFrom = std::size_t{1} << 20;
constinit Large large[512];

void note_large(std::uintptr_t begin, std::size_t bytes) {
  for (Large& slot : large) {
    std::uintptr_t free = 0;
    if (!slot.begin.compare_exchange_strong(free, 1, std::memory_order_acquire)) continue;
    slot.end.store(begin + bytes, std::memory_order_relaxed);
    slot.begin.store(begin, std::memory_order_release);
    return;
  }
}

void forget_large(std::uintptr_t begin) {
  for (Large& slot : large)
    if (slot.begin.load(std::memory_order_acquire) == begin)
      slot.begin.store(0, std::memory_order_release);
}

}  // namespace

bool is_reserved(std::uintptr_t begin, std::uintptr_t end) {
  for (const Large& slot : large) {
    const std::uintptr_t first = slot.begin.load(std::memory_order_acquire);
    if (first > 1 && first < end && begin < slot.end.load(std::memory_order_relaxed)) return true;
  }
  return false;
}

long on_stack(long (*body)(const void*), const void* argument, void* stack_top) {
  return buoy_switch_stack(body, argument, stack_top);
}

Result<std::byte*> reserve(std::size_t bytes, std::size_t alignment, int prot) {
  const std::size_t padded = bytes + (alignment > 4096 ? alignment : 0);
  if (padded < bytes) return Error{ENOMEM};
  const long raw = call(SYS_mmap, 0, static_cast<long>(padded), prot,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw < 0) return Error{static_cast<int>(-raw)};
  const auto start = static_cast<std::uintptr_t>(raw);
  const std::uintptr_t aligned = (start + alignment - 1) & ~(alignment - 1);
  if (aligned > start) call(SYS_munmap, raw, static_cast<long>(aligned - start));
  const std::uintptr_t end = start + padded;
  if (end > aligned + bytes) {
    call(SYS_munmap, static_cast<long>(aligned + bytes),
         static_cast<long>(end - (aligned + bytes)));
  }
  if (prot != PROT_NONE && bytes >= kLargeFrom) {
    note_large(aligned, bytes);
    // Tables of ours, mostly untouched: a core dump would have a hole for each of their bytes.
    (void)advise(reinterpret_cast<void*>(aligned), bytes, MADV_DONTDUMP);
  }
  return reinterpret_cast<std::byte*>(aligned);
}

void unmap(void* p, std::size_t bytes) {
  if (bytes >= kLargeFrom) forget_large(reinterpret_cast<std::uintptr_t>(p));
  const long rc = call(SYS_munmap, ptr(p), static_cast<long>(bytes));
  BUOY_DCHECK(rc == 0);
  (void)rc;
}

std::uint64_t most_address_space() {
  // A soft limit may be raised; by how much nobody knows.
  constexpr std::uint64_t kRoomForMore = 4;
  std::uint64_t most = UINT64_MAX;
  for (const int resource : {RLIMIT_AS, RLIMIT_DATA}) {
    rlimit limit{RLIM_INFINITY, RLIM_INFINITY};
    call(SYS_prlimit64, 0, resource, 0, ptr(&limit));
    if (limit.rlim_cur == RLIM_INFINITY) continue;
    const std::uint64_t raised =
        limit.rlim_cur > UINT64_MAX / kRoomForMore ? UINT64_MAX : limit.rlim_cur * kRoomForMore;
    const std::uint64_t here = raised < limit.rlim_max ? raised : limit.rlim_max;
    if (here < most) most = here;
  }
  return most;
}

std::uint32_t most_needed(std::uint32_t most, std::uint64_t each, std::uint32_t least) {
  const std::uint64_t needed = most_address_space() / each;
  if (needed >= most) return most;
  return needed < least ? least : static_cast<std::uint32_t>(needed);
}

int advise(void* p, std::size_t bytes, int advice) {
  return static_cast<int>(call(SYS_madvise, ptr(p), static_cast<long>(bytes), advice));
}

long advise_all(const iovec* ranges, std::size_t n, int advice) {
  constexpr long kSelf = -10000;  // PIDFD_SELF_THREAD: no descriptor, and right after fork
  return call(SYS_process_madvise, kSelf, ptr(ranges), static_cast<long>(n), advice, 0);
}

Status write_all(int fd, const void* bytes, std::size_t size) {
  const auto* at = static_cast<const std::byte*>(bytes);
  while (size != 0) {
    const long n = call(SYS_write, fd, ptr(at), static_cast<long>(size));
    if (n == -EINTR) continue;
    if (n <= 0) return Error{n == 0 ? ENOSPC : static_cast<int>(-n)};
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return {};
}

int gettid() { return static_cast<int>(call(SYS_gettid)); }

std::uint64_t monotonic_ns() {
  timespec now{};
  // The vDSO's clock: no system call, no errno on success.
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec);
}

unsigned online_cpus() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (call(SYS_sched_getaffinity, 0, sizeof mask, ptr(&mask)) <= 0) return 1;
  unsigned cpus = 0;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) cpus += CPU_ISSET(cpu, &mask) ? 1U : 0U;
  return cpus == 0 ? 1 : cpus;
}

namespace {
void futex_wait_by(int operation, const void* word, std::uint32_t expected,
                   std::uint64_t timeout_ns) {
  timespec timeout{static_cast<time_t>(timeout_ns / 1'000'000'000U),
                   static_cast<long>(timeout_ns % 1'000'000'000U)};
  call(SYS_futex, ptr(word), operation, static_cast<long>(expected),
       timeout_ns == 0 ? 0 : ptr(&timeout));
}
}  // namespace

void futex_wait(const void* word, std::uint32_t expected, std::uint64_t timeout_ns) {
  futex_wait_by(FUTEX_WAIT_PRIVATE, word, expected, timeout_ns);
}

void futex_wake(const void* word, int waiters) {
  call(SYS_futex, ptr(word), FUTEX_WAKE_PRIVATE, waiters);
}

void futex_wait_shared(const void* word, std::uint32_t expected, std::uint64_t timeout_ns) {
  futex_wait_by(FUTEX_WAIT, word, expected, timeout_ns);
}

void futex_wake_shared(const void* word, int waiters) {
  call(SYS_futex, ptr(word), FUTEX_WAKE, waiters);
}

void complain(std::string_view text) {
  char line[512];
  constexpr std::string_view prefix = "buoy: ";
  std::size_t size = 0;
  for (const char c : prefix) line[size++] = c;
  for (const char c : text)
    if (size < sizeof line - 1) line[size++] = c;
  line[size++] = '\n';
  call(SYS_write, 2, ptr(line), static_cast<long>(size));
}

Line& Line::text(std::string_view s) {
  for (const char c : s)
    if (size_ < kCapacity) buffer_[size_++] = c;
  return *this;
}

Line& Line::number(std::uint64_t n) {
  char digits[20];
  std::size_t count = 0;
  do {
    digits[count++] = static_cast<char>('0' + n % 10);
    n /= 10;
  } while (n != 0);
  while (count > 0) text({&digits[--count], 1});
  return *this;
}

Line& Line::hex(std::uint64_t n) {
  constexpr char kDigits[] = "0123456789abcdef";
  text("0x");
  int shift = 60;
  while (shift > 0 && (n >> shift) == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) text({&kDigits[(n >> shift) & 15U], 1});
  return *this;
}

long read_file(const char* path, char* buffer, std::size_t capacity) {
  const long fd = call(SYS_openat, AT_FDCWD, ptr(path), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return fd;
  std::size_t size = 0;
  long got = 0;
  while (size < capacity) {
    got = call(SYS_read, fd, ptr(buffer + size), static_cast<long>(capacity - size));
    if (got == -EINTR) continue;
    if (got <= 0) break;
    size += static_cast<std::size_t>(got);
  }
  call(SYS_close, fd);
  return got < 0 ? got : static_cast<long>(size);
}

namespace {

bool copy_own(long number, void* ours, const void* theirs, std::size_t bytes) {
  const iovec local{ours, bytes};
  const iovec remote{const_cast<void*>(theirs), bytes};
  const long got = call(number, call(SYS_getpid), ptr(&local), 1, ptr(&remote), 1, 0);
  if (got != -EPERM && got != -ENOSYS) return got == static_cast<long>(bytes);
  if (number == SYS_process_vm_readv)
    std::memcpy(ours, theirs, bytes);
  else
    std::memcpy(const_cast<void*>(theirs), ours, bytes);
  return true;
}

}  // namespace

bool read_own(void* to, const void* from, std::size_t bytes) {
  return copy_own(SYS_process_vm_readv, to, from, bytes);
}

bool write_own(void* to, const void* from, std::size_t bytes) {
  return copy_own(SYS_process_vm_writev, const_cast<void*>(from), to, bytes);
}

}  // namespace buoy::sys

namespace buoy {

void check_failed(const char* condition, const char* file, int line) {
  sys::Line()
      .text("internal error, stopping before data is harmed: ")
      .text(condition)
      .text(" at ")
      .text(file)
      .text(":")
      .number(static_cast<std::uint64_t>(line))
      .complain();
  // abort() of libc may run a program's handler that touches managed memory: die at once.
  const long pid = sys::call(SYS_getpid);
  struct {
    void* handler;
    unsigned long flags;
    void* restorer;
    unsigned long mask;
  } fallback{nullptr, 0, nullptr, 0};
  sys::call(SYS_rt_sigaction, SIGABRT, sys::ptr(&fallback), 0, 8);
  const unsigned long unblock = 1UL << (SIGABRT - 1);
  sys::call(SYS_rt_sigprocmask, SIG_UNBLOCK, sys::ptr(&unblock), 0, 8);
  sys::call(SYS_tgkill, pid, sys::gettid(), SIGABRT);
  sys::exit_aborted();
}

}  // namespace buoy
