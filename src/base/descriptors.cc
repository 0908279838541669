#include "base/descriptors.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <climits>

#include "base/sys.h"

namespace buoy::descriptors {
namespace {

// 64 pools of a userfaultfd, a page map, a ring, an event and a few files each.
constexpr unsigned kMost = 2048;
// Numbers from here on are high enough, whatever the limit; higher ones make the kernel's table large.
constexpr unsigned long kHigh = 4096;
constexpr unsigned long kRoom = 1024;

struct Entry {
  std::atomic<int> number{-1};
  // What it was when it was adopted. Written before `number`, by the adopter.
  unsigned long device = 0;
  unsigned long inode = 0;
};
constinit Entry entries[kMost];
constinit std::atomic<unsigned> used{0};  // high-water mark
constinit std::atomic<int> lowest{INT_MAX};

bool identify(int fd, unsigned long* device, unsigned long* inode) {
  struct stat st {};
  if (sys::call(SYS_fstat, fd, sys::ptr(&st)) != 0) return false;
  *device = st.st_dev;
  *inode = st.st_ino;
  return true;
}

Entry* find(int fd) {
  if (fd < lowest.load(std::memory_order_acquire)) return nullptr;
  const unsigned end = used.load(std::memory_order_acquire);
  for (unsigned i = 0; i < end; ++i)
    if (entries[i].number.load(std::memory_order_acquire) == fd) return &entries[i];
  return nullptr;
}

bool set_limit(unsigned long soft, unsigned long hard) {
  const struct rlimit wanted { soft, hard };
  return sys::call(SYS_prlimit64, 0, RLIMIT_NOFILE, sys::ptr(&wanted)) == 0;
}

}  // namespace

RoomForOne::RoomForOne() {
  struct rlimit now {};
  if (sys::call(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, sys::ptr(&now)) != 0) return;
  before_[0] = now.rlim_cur;
  before_[1] = now.rlim_max;
  const bool is_large = now.rlim_cur >= kHigh + kRoom;  // but it may be full
  const unsigned long wanted = now.rlim_cur + kRoom;
  // Beyond the hard limit with the right to it (CAP_SYS_RESOURCE).
  is_raised_ = set_limit(std::min(wanted, now.rlim_max), now.rlim_max) &&
               (wanted <= now.rlim_max || set_limit(wanted, wanted) || now.rlim_cur < now.rlim_max);
  if (is_large)
    first_ = static_cast<int>(kHigh);
  else if (is_raised_)
    first_ = static_cast<int>(now.rlim_cur);
  else  // the last fifth of a small table, less of a large one
    first_ = static_cast<int>(now.rlim_cur - std::min<unsigned long>(now.rlim_cur / 5, 64));
}

RoomForOne::~RoomForOne() {
  if (is_raised_) (void)set_limit(before_[0], before_[1]);
}

void adopt_in_place(int fd) {
  for (unsigned i = 0; i < kMost; ++i) {
    Entry& e = entries[i];
    int free = -1;
    // -2: being filled.
    if (!e.number.compare_exchange_strong(free, -2)) continue;
    (void)identify(fd, &e.device, &e.inode);
    for (unsigned seen = used.load(); seen < i + 1 && !used.compare_exchange_weak(seen, i + 1);) {
    }
    for (int seen = lowest.load(); seen > fd && !lowest.compare_exchange_weak(seen, fd);) {
    }
    e.number.store(fd, std::memory_order_release);
    return;
  }
}

int adopt(int fd, OnExec on_exec) {
  const int duplicate = on_exec == OnExec::kClosed ? F_DUPFD_CLOEXEC : F_DUPFD;
  long moved = -1;
  {
    const RoomForOne room;
    if (fd < room.first_number()) moved = sys::call(SYS_fcntl, fd, duplicate, room.first_number());
  }
  if (moved >= 0) {
    sys::call(SYS_close, fd);
    fd = static_cast<int>(moved);
  }
  adopt_in_place(fd);
  return fd;
}

void release(int fd) {
  Entry* e = find(fd);
  if (e == nullptr) return;
  const bool intact = is_intact(fd);
  e->number.store(-1, std::memory_order_release);
  if (intact) sys::call(SYS_close, fd);
}

bool is_own(int fd) { return find(fd) != nullptr; }

int next_own(int from) {
  int next = -1;
  const unsigned end = used.load(std::memory_order_acquire);
  for (unsigned i = 0; i < end; ++i) {
    const int n = entries[i].number.load(std::memory_order_acquire);
    if (n >= from && (next < 0 || n < next)) next = n;
  }
  return next;
}

bool is_intact(int fd) {
  const Entry* e = find(fd);
  unsigned long device = 0;
  unsigned long inode = 0;
  return e != nullptr && identify(fd, &device, &inode) && device == e->device && inode == e->inode;
}

}  // namespace buoy::descriptors
