#include "preload/memory_locks.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "base/descriptors.h"
#include "base/sys.h"
#include "preload/address_space.h"
#include "preload/kernel_result.h"
#include "preload/runtime.h"

namespace buoy::preload::memory_locks {
namespace {

constexpr std::uintptr_t kUserEnd = (std::uintptr_t{1} << 47) - kPageSize;

// MCL_FUTURE, perhaps with MCL_ONFAULT; 0: new mappings are not locked.
constinit std::atomic<int> future{0};

int mlock2_flags(int flags) { return (flags & MCL_ONFAULT) != 0 ? MLOCK_ONFAULT : 0; }

// The lines of /proc/self/maps, as ranges, without an allocation.
class Maps {
 public:
  Maps() {
    const descriptors::RoomForOne room;
    fd_ = static_cast<int>(
        sys::call(SYS_openat, AT_FDCWD, sys::ptr("/proc/self/maps"), O_RDONLY | O_CLOEXEC));
  }
  ~Maps() {
    if (fd_ >= 0) sys::call(SYS_close, fd_);
  }
  Maps(const Maps&) = delete;
  Maps& operator=(const Maps&) = delete;

  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  // False: there are no more.
  [[nodiscard]] bool next(std::uintptr_t* begin, std::uintptr_t* end) {
    *begin = number();
    *end = number();
    for (int c = get(); c != '\n';)
      if (c = get(); c < 0) return false;
    return true;
  }

 private:
  [[nodiscard]] int get() {
    if (at_ == filled_) {
      const long got = sys::call(SYS_read, fd_, sys::ptr(buffer_), sizeof buffer_);
      if (got <= 0) return -1;
      at_ = 0;
      filled_ = static_cast<std::size_t>(got);
    }
    return static_cast<unsigned char>(buffer_[at_++]);
  }
  // Hexadecimal digits and what ends them.
  [[nodiscard]] std::uintptr_t number() {
    std::uintptr_t n = 0;
    for (;;) {
      const int c = get();
      if (c >= '0' && c <= '9')
        n = n * 16 + static_cast<unsigned>(c - '0');
      else if (c >= 'a' && c <= 'f')
        n = n * 16 + static_cast<unsigned>(c - 'a') + 10;
      else
        return n;
    }
  }

  int fd_;
  char buffer_[4096];
  std::size_t at_ = 0;
  std::size_t filled_ = 0;
};

// Calls body(void*, bytes) for each part of the program's memory that the kernel keeps. False: there is
// no /proc to find it by.
template <typename Body>
bool for_each_of_the_kernels(const Pool& pool, Body body) {
  Maps maps;
  if (!maps.is_open()) return false;
  for (std::uintptr_t begin = 0, end = 0; maps.next(&begin, &end);) {
    if (end > kUserEnd) continue;  // [vsyscall]
    while (begin < end) {
      void* const at = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
      const Vm::Stretch s = pool.first_stretch(at, end - begin);
      if (s.owner == Vm::Owner::kElsewhere && !pool.is_own(at, s.count.bytes()))
        body(at, s.count.bytes());
      begin += s.count.bytes();
    }
  }
  return true;
}

bool may_lock_everything() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {};
  return sys::call(SYS_capget, sys::ptr(&header), sys::ptr(data)) == 0 &&
         (data[0].effective & (1U << CAP_IPC_LOCK)) != 0;
}

// As natively, of what the kernel keeps.
long check_limit(const Pool& pool) {
  struct rlimit limit {};
  if (sys::call(SYS_prlimit64, 0, RLIMIT_MEMLOCK, 0, sys::ptr(&limit)) != 0) return 0;
  if (limit.rlim_cur == RLIM_INFINITY || may_lock_everything()) return 0;
  if (limit.rlim_cur == 0) return -EPERM;
  std::uint64_t total = 0;
  (void)for_each_of_the_kernels(pool, [&total](void*, std::size_t bytes) { total += bytes; });
  return total > limit.rlim_cur ? -ENOMEM : 0;
}

}  // namespace

long lock_all(int flags) {
  const bool is_known = (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) == 0;
  if (!is_known || flags == 0 || flags == MCL_ONFAULT) return -EINVAL;
  if (const long refused = check_limit(pool()); refused != 0) return refused;
  if ((flags & MCL_CURRENT) != 0) {
    const auto when = (flags & MCL_ONFAULT) != 0 ? Pool::Lock::kOnFault : Pool::Lock::kNow;
    if (const Status s = pool().lock_all(when); !s) return kernel_result(s);
    // What cannot be there (guard pages, files that end early) is no error of mlockall's.
    (void)for_each_of_the_kernels(pool(), [flags](void* at, std::size_t bytes) {
      sys::call(SYS_mlock2, sys::ptr(at), static_cast<long>(bytes), mlock2_flags(flags));
    });
  }
  future.store((flags & MCL_FUTURE) != 0 ? flags & (MCL_FUTURE | MCL_ONFAULT) : 0,
               std::memory_order_relaxed);
  return 0;
}

long unlock_all() {
  future.store(0, std::memory_order_relaxed);
  if (Pool* started = pool_if_started(); started != nullptr) started->unlock_all();
  return sys::call(SYS_munlockall);
}

bool lock_new(void* address, std::size_t length, int prot) {
  const int flags = future.load(std::memory_order_relaxed);
  if (flags == 0 || prot == PROT_NONE) return true;
  const long locked = address_space::lock(address, length, mlock2_flags(flags));
  // Of files, parts may not be there: the kernel locks the rest.
  return locked == 0 || !pool().holds(address);
}

void after_fork_in_child() {
  future.store(0, std::memory_order_relaxed);
  pool().unlock_all();
}

}  // namespace buoy::preload::memory_locks
