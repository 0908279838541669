// DiskLedger: how much disk the backing files of a tree of processes may take together, and how much
// each of them has.
//
//   memory that they share:   | bound | entries: in use?, bytes | ...
//   a DiskShare:              an entry, and a lock on it, for as long as anybody has the file open
//
// A file books before it grows, and what all have booked is never more than the bound: who books
// raises its own entry first and adds all of them up then, so of two at once at least one sees both,
// and takes its own back.
//
// A share lives as long as its file does, which fork children keep open: the lock is one of an open
// file description (F_OFD_SETLK on byte `entry` of the shared memory's file), which is inherited by
// fork, closed by exec, and gone with the last process, however that ended. Who finds the bound
// reached tries the locks of the others: what can be locked belongs to nobody any more.
//
// Allocates nothing; async-signal-safe. No lock of ours: a share is booked by one thread at a time.
#pragma once

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "base/inherited_memory.h"
#include "base/result.h"
#include "base/units.h"

namespace buoy::swap {

// The code of what was refused because the bound is reached.
inline constexpr int kAtBound = EXFULL;

class DiskShare;

class DiskLedger {
 public:
  static constexpr std::size_t kTextBytes = InheritedMemory::kTextBytes;
  static constexpr unsigned kEntries = 4096;  // files at a time

  constexpr DiskLedger() = default;  // none: for nothing but to be assigned to

  // A new one, inherited through exec, of which `text` tells. What cannot be had: its errno.
  [[nodiscard]] static Result<DiskLedger> create(ByteSize bound, char (&text)[kTextBytes]);
  // ENOENT: it is not there (any more).
  [[nodiscard]] static Result<DiskLedger> accept(const char* text);
  // Shares of it must be closed.
  void close();

  // An own entry of the calling process, for a new file. ENOSPC: all are in use; else the errno of
  // opening the ledger anew, which takes /proc.
  [[nodiscard]] Result<DiskShare> claim();

  [[nodiscard]] ByteSize bound() const { return table_->bound.load(std::memory_order_relaxed); }
  // What all files have, those included whose last process is gone since somebody looked.
  [[nodiscard]] ByteSize booked() const;
  [[nodiscard]] ByteSize left() const {
    const ByteSize all = booked();
    return bound() - (all < bound() ? all : bound());
  }
  [[nodiscard]] int fd() const { return fd_; }

 private:
  friend class DiskShare;

  struct Entry {
    std::atomic<std::uint64_t> bytes;
    std::atomic<std::uint32_t> is_taken;  // perhaps: the lock is the truth
  };
  struct Table {
    std::atomic<std::uint64_t> bound;
    std::atomic<std::uint32_t> span;  // entries from here on were never taken
    Entry entries[kEntries];
  };

  DiskLedger(Table* table, int fd) : table_(table), fd_(fd) {}
  // Gives what belongs to nobody back, by the locks that this descriptor can take; is there any?
  [[nodiscard]] bool bury_the_dead(int fd, unsigned own) const;

  Table* table_ = nullptr;
  int fd_ = -1;
};

// One file's. Plain: it is closed by hand, and a fork child's copy is its parent's, to be kept open
// as long as the file, and not to be booked on.
class DiskShare {
 public:
  DiskShare() = default;

  [[nodiscard]] bool is_open() const { return fd_ >= 0; }
  // More disk for the file: false if that would be above the bound.
  [[nodiscard]] bool book(ByteSize bytes) const;
  // Was booked, and is not on the disk (any more).
  void unbook(ByteSize bytes) const;
  // With the file. What it had counts until the last process has closed it.
  void close();
  // For a file of a fork child that can have no entry of its own: it counts on this one, which is gone
  // when both are. Closed before this one, or with the process.
  [[nodiscard]] DiskShare lent() const {
    DiskShare other = *this;
    other.is_lent_ = true;
    return other;
  }

 private:
  friend class DiskLedger;
  DiskShare(DiskLedger ledger, int fd, unsigned entry)
      : table_(ledger.table_), fd_(fd), entry_(entry) {}

  DiskLedger::Table* table_ = nullptr;
  int fd_ = -1;
  unsigned entry_ = 0;
  bool is_lent_ = false;  // the descriptor is another share's
};

}  // namespace buoy::swap
