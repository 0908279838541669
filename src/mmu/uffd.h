// Uffd: one userfaultfd descriptor, its calls typed. It knows the kernel's interface and nothing
// of reservations, shadows or faults; UffdMmu does.
//
// Every call is one system call, async-signal-safe, and leaves errno alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "base/units.h"

namespace buoy::mmu {

// Which accesses a descriptor answers for.
enum class Modes : std::uint8_t {
  kUserOnly,       // system calls on missing pages fail with EFAULT; needs no rights
  kUserAndKernel,  // system calls wait for a handler thread; needs CAP_SYS_PTRACE or a setting
};

class Uffd {
 public:
  // How far a call on a range came. `bytes` were done, the next one failed with `error` (a
  // positive errno), or nothing failed (0). EAGAIN with bytes > 0: call again for the rest.
  struct Reach {
    std::uint64_t bytes = 0;
    int error = 0;
  };
  enum class Trap : std::uint8_t { kMissingAndProtected, kProtectedOnly };
  enum class Holes : std::uint8_t { kRefused, kAllowed };
  enum class Writable : std::uint8_t { kYes, kNo };

  Uffd() = default;
  Uffd(const Uffd&) = delete;
  Uffd& operator=(const Uffd&) = delete;
  ~Uffd() { close(); }

  // The features that this kernel offers; 0 if there is no userfaultfd for us at all.
  [[nodiscard]] static std::uint64_t kernel_features();
  // Opens a raw descriptor: by the system call, else through the process's source, else through
  // /dev/userfaultfd. EPERM: the rights are missing. ENOSYS: the kernel has none, or it is filtered.
  [[nodiscard]] static Result<int> open_raw(Modes modes);

  // An open descriptor of /dev/userfaultfd that this process was given, for the time when it has no
  // right of its own any more. The process's; -1: none.
  static void set_source(int fd);
  [[nodiscard]] static int source();

  // Opens, and enables exactly `features`. The descriptor is close-on-exec, blocking, and out of
  // the way.
  [[nodiscard]] Status open(Modes modes, std::uint64_t features);
  void close();
  [[nodiscard]] int fd() const { return fd_; }

  [[nodiscard]] Status enroll(std::uintptr_t start, std::size_t bytes, Trap trap) const;
  // None of these wakes a thread that waits for the page; wake() does.
  [[nodiscard]] Reach copy(std::uintptr_t to, const void* from, std::size_t bytes,
                           Writable writable) const;
  [[nodiscard]] Reach move(std::uintptr_t to, std::uintptr_t from, std::size_t bytes,
                           Holes holes) const;
  // Whole range or nothing: 0 or a positive errno.
  [[nodiscard]] int protect(std::uintptr_t start, std::size_t bytes) const;
  [[nodiscard]] int unprotect(std::uintptr_t start, std::size_t bytes) const;
  [[nodiscard]] int poison(std::uintptr_t start, std::size_t bytes) const;
  void wake(std::uintptr_t start, std::size_t bytes) const;

 private:
  [[nodiscard]] int write_protect(std::uintptr_t start, std::size_t bytes,
                                  std::uint64_t mode) const;

  int fd_ = -1;
};

}  // namespace buoy::mmu
