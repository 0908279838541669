#include "swap/disk_ledger.h"

#include <fcntl.h>

#include <algorithm>

#include "base/descriptors.h"
#include "base/sys.h"

namespace buoy::swap {
namespace {

// Of an open file description: see fcntl(2).
bool set_lock(int fd, unsigned entry, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = entry;
  lock.l_len = 1;
  return sys::call(SYS_fcntl, fd, F_OFD_SETLK, sys::ptr(&lock)) == 0;
}
bool try_lock(int fd, unsigned entry) { return set_lock(fd, entry, F_WRLCK); }
void unlock(int fd, unsigned entry) { (void)set_lock(fd, entry, F_UNLCK); }

// Another open file description of the same file: only that has locks of its own.
long open_anew(int fd) {
  sys::Line path;
  path.text("/proc/self/fd/").number(static_cast<std::uint64_t>(fd)).text({"\0", 1});
  const descriptors::RoomForOne room;
  return sys::call(SYS_openat, AT_FDCWD, sys::ptr(path.view().data()), O_RDWR | O_CLOEXEC);
}

// Of two that book the last of it at once, both may have to take it back.
constexpr unsigned kAttempts = 4;

}  // namespace

Result<DiskLedger> DiskLedger::create(ByteSize bound, char (&text)[kTextBytes]) {
  const auto memory = InheritedMemory::create("buoy-disk", sizeof(Table), text);
  if (!memory) return memory.error();
  auto* const table = reinterpret_cast<Table*>(memory->bytes);
  table->bound.store(bound, std::memory_order_relaxed);
  return DiskLedger(table, memory->fd);
}

Result<DiskLedger> DiskLedger::accept(const char* text) {
  const auto memory = InheritedMemory::accept(text, sizeof(Table));
  if (!memory) return memory.error();
  return DiskLedger(reinterpret_cast<Table*>(memory->bytes), memory->fd);
}

void DiskLedger::close() {
  InheritedMemory::unmap(table_, sizeof(Table));
  descriptors::release(fd_);
}

Result<DiskShare> DiskLedger::claim() {
  if (!descriptors::is_intact(fd_)) return Error{EBADF};
  const long opened = open_anew(fd_);
  if (opened < 0) return Error{static_cast<int>(-opened)};
  const int fd = descriptors::adopt(static_cast<int>(opened));
  do {
    for (unsigned i = 0; i < kEntries; ++i) {
      Entry& e = table_->entries[i];
      if (e.is_taken.load(std::memory_order_relaxed) != 0 || !try_lock(fd, i)) continue;
      std::uint32_t span = table_->span.load(std::memory_order_relaxed);
      while (span <= i && !table_->span.compare_exchange_weak(span, i + 1)) {
      }
      e.is_taken.store(1);
      return DiskShare(*this, fd, i);
    }
  } while (bury_the_dead(fd, kEntries));
  descriptors::release(fd);
  return Error{ENOSPC};
}

ByteSize DiskLedger::booked() const {
  ByteSize sum = 0;
  const unsigned span = std::min(table_->span.load(), kEntries);
  for (unsigned i = 0; i < span; ++i)
    if (__builtin_add_overflow(sum, table_->entries[i].bytes.load(), &sum)) return UINT64_MAX;
  return sum;
}

bool DiskLedger::bury_the_dead(int fd, unsigned own) const {
  // The program may have put a file of its own under our number.
  if (!descriptors::is_intact(fd)) return false;
  bool any = false;
  const unsigned span = std::min(table_->span.load(), kEntries);
  for (unsigned i = 0; i < span; ++i) {
    Entry& e = table_->entries[i];
    if (i == own || e.is_taken.load(std::memory_order_relaxed) == 0 || !try_lock(fd, i)) continue;
    e.bytes.store(0);
    e.is_taken.store(0);
    unlock(fd, i);
    any = true;
  }
  return any;
}

bool DiskShare::book(ByteSize bytes) const {
  const DiskLedger ledger(table_, fd_);
  DiskLedger::Entry& own = table_->entries[entry_];
  if (bytes > ledger.bound()) return false;
  for (unsigned attempt = 0; attempt < kAttempts; ++attempt) {
    own.bytes.fetch_add(bytes);
    if (ledger.booked() <= ledger.bound()) return true;
    own.bytes.fetch_sub(bytes);
    if (!ledger.bury_the_dead(fd_, entry_)) sys::call(SYS_sched_yield);
  }
  return false;
}

void DiskShare::unbook(ByteSize bytes) const { table_->entries[entry_].bytes.fetch_sub(bytes); }

void DiskShare::close() {
  if (is_open() && !is_lent_) descriptors::release(fd_);
  fd_ = -1;
}

}  // namespace buoy::swap
