// Raw system calls, and the few kernel helpers that everything above needs.
//
// Raw: they neither touch errno (a bare thread has none worth the name) nor go through libc
// symbols that a preload library may have interposed. Results are the kernel's: >= 0, or -errno.
// Async-signal-safe, all of them.
#pragma once

#include <sys/syscall.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/result.h"

namespace buoy::sys {

#if defined(__x86_64__)
inline long call(long nr, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  long ret;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  __asm__ volatile("syscall"
                   : "=a"(ret)
                   : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return ret;
}
#else
#error "only x86-64 has raw system calls here so far"
#endif

inline long ptr(const void* p) { return reinterpret_cast<long>(p); }

// Anonymous private memory that is only reserved until touched (MAP_NORESERVE). `alignment` is a
// power of two, at least a page. The result is page-aligned and reads as zeros.
[[nodiscard]] Result<std::byte*> reserve(std::size_t bytes, std::size_t alignment, int prot);
void unmap(void* p, std::size_t bytes);
// Does any of the range lie in what reserve() gave, if that is large (a MiB and more)? A question for
// who asks on the program's behalf, as far as the table reaches. Lock-free.
[[nodiscard]] bool is_reserved(std::uintptr_t begin, std::uintptr_t end);
// The most address space that this process may come to have, as its resource limits (RLIMIT_AS,
// RLIMIT_DATA) say, with room for a soft limit to be raised; UINT64_MAX without a limit.
[[nodiscard]] std::uint64_t most_address_space();
// How many objects to reserve room for: `most`, or, where the address space is limited, one for every
// `each` bytes of it, if that is less, but `least` at any rate. Reserving counts against the limits
// whether it is ever touched or not.
[[nodiscard]] std::uint32_t most_needed(std::uint32_t most, std::uint64_t each,
                                        std::uint32_t least);
[[nodiscard]] int advise(void* p, std::size_t bytes, int advice);  // 0 or -errno
// The same for several ranges in one call, with one TLB flush at its end: process_madvise(2) on this
// process, which older kernels refuse. Bytes of the ranges before the first that was refused, or
// -errno.
[[nodiscard]] long advise_all(const iovec* ranges, std::size_t n, int advice);

// All of the bytes to a descriptor, however often it takes them in part; ENOSPC where it takes none.
[[nodiscard]] Status write_all(int fd, const void* bytes, std::size_t size);
// Ends the process as abort() would look from a shell, without a handler of the program's.
[[noreturn]] inline void exit_aborted() {
  for (;;) call(SYS_exit_group, 134);
}
inline void yield() { call(SYS_sched_yield); }
[[nodiscard]] int gettid();
[[nodiscard]] std::uint64_t monotonic_ns();
[[nodiscard]] unsigned online_cpus();

// The CPU this thread runs on, without a system call. A hint: it may be stale on return.
inline unsigned current_cpu() {
  // The kernel keeps (node << 12 | cpu) in the limit of this segment; the vDSO reads it the same.
  unsigned p = 0;
  __asm__("lsl %1, %0" : "=r"(p) : "r"(0x7bU));
  return p & 0xfffU;
}

// Futex wait and wake, private to the process.
void futex_wait(const void* word, std::uint32_t expected, std::uint64_t timeout_ns = 0);
void futex_wake(const void* word, int waiters);
// The same between processes, on a word of memory that they share.
void futex_wait_shared(const void* word, std::uint32_t expected, std::uint64_t timeout_ns = 0);
void futex_wake_shared(const void* word, int waiters);

// Calls body(argument) on another stack, whose top is aligned to 16; its result. Unwinders can follow.
long on_stack(long (*body)(const void*), const void* argument, void* stack_top);

// Copies within this process by the kernel: false, in place of a fault, where that cannot be read or
// written. Where the kernel does not offer it (a filter), it is an ordinary copy.
[[nodiscard]] bool read_own(void* to, const void* from, std::size_t bytes);
[[nodiscard]] bool write_own(void* to, const void* from, std::size_t bytes);

// Writes "buoy: <text>\n" to stderr, in one write.
void complain(std::string_view text);
// A line put together without allocation: text, a number, text.
class Line {
 public:
  Line& text(std::string_view s);
  Line& number(std::uint64_t n);
  Line& hex(std::uint64_t n);
  void complain() const { sys::complain({buffer_, size_}); }
  [[nodiscard]] std::string_view view() const { return {buffer_, size_}; }

 private:
  static constexpr std::size_t kCapacity = 480;
  char buffer_[kCapacity];
  std::size_t size_ = 0;
};

// Reads a whole small file (procfs, sysfs) into `buffer`; the bytes read, or -errno.
[[nodiscard]] long read_file(const char* path, char* buffer, std::size_t capacity);

}  // namespace buoy::sys
