// The table of x86-64 system calls: which arguments point at memory, how much of it, which way the
// bytes go, and what is lost when the kernel meets a page that is not there.
//
// Data only. What a call does with its memory beyond one level of pointers (message headers, argv)
// is named by a Size, and whoever follows such a chain knows its layout. A number that the table does
// not have counts as kUnknown: whatever could point at managed memory is handed over by a copy.
#pragma once

#include <cstddef>
#include <cstdint>

namespace buoy::gate {

// What becomes of a call that meets a page which is not there (or not storable), so that it answers
// EFAULT, or stops short. In order of the care it takes.
enum class Class : std::uint8_t {
  kNone,        // touches no memory of the caller's, or none that could be managed
  kRetry,       // nothing was done, or what was done is told: bring the page in, call again
  kDescriptor,  // kRetry or kLossy, by the kind of the descriptor in argument 0 (read, readv ...)
  kLossy,       // what it had taken (a datagram, a signal, an exit status) is gone
  kEffect,      // it has happened all the same: called again, it happens twice
  kHold,     // the kernel keeps the pages beyond the call, or takes them by itself (io_uring, AIO)
  kSpecial,  // changes the address space, the descriptors, signals or the process: routed
  kUnknown,  // as kLossy; counted
};

enum class Direction : std::uint8_t { kIn, kOut, kInOut };

// How many bytes an operand has. "Argument k" is the operand's `by`.
enum class Size : std::uint8_t {
  kFixed,        // `bytes`
  kCounted,      // argument k, times `bytes`
  kCountedWord,  // *(std::uint32_t*) argument k, itself an in-out operand (addrlen, optlen)
  kString,       // up to and including the zero byte
  kBits,         // argument k bits, less `bytes`, in whole 64-bit words (fd_set)
  kVector,       // iovec[argument k], and what they point at
  kMessage,      // msghdr, and what it points at
  kMessages,     // mmsghdr[argument k], and what they point at
  kStrings,      // char*[] with a null at the end, and the strings (argv)
  kPointers,     // void*[argument k]: only the array itself
  kSigsetPair,   // pselect6's last argument: { const sigset_t*, size_t }, and the set
  kSelfSized,    // a structure that holds its size: in its 32-bit word number `by` (0 or 1), and
                 // `bytes` more (file_handle); 0: its first version (sched_attr 48, perf_event 64)
  kMsgbuf,       // a long, and argument k bytes behind it (msgsnd, msgrcv)
  kWaiters,      // futex_waitv[argument k], or [`bytes`] if that is not 0, and the words they name
  kPages,        // one byte for each page in argument k bytes (mincore)
  kIoctl,        // by the encoding of argument 1: _IOC_SIZE and _IOC_DIR; without one: unknown size
  kByCommand,    // by a command in argument k (fcntl, prctl, futex, keyctl, semctl ...), which may
                 // give it no memory at all. As a second operand on the same argument: what the
                 // structure itself points at (setsockopt's filters, xattr_args, bpf_attr)
};

// How much of an output is new after a call that succeeded.
enum class Produced : std::uint8_t {
  kAll,     // as much as its size says
  kResult,  // result times `bytes` (recv, epoll_wait); for kVector: result bytes over the vector
};

struct Operand {
  std::uint8_t argument = 0;  // 0 to 5
  Direction direction = Direction::kIn;
  Size size = Size::kFixed;
  std::uint8_t by = 0;  // the argument that the size depends on
  Produced produced = Produced::kAll;
  std::uint16_t bytes = 0;  // kFixed: the size; kCounted: of one element
};

struct Entry {
  static constexpr unsigned kMostOperands = 5;
  std::int16_t number = -1;
  Class kind = Class::kUnknown;
  std::uint8_t count = 0;  // operands
  const char* name = nullptr;
  Operand operands[kMostOperands] = {};
};

// May it touch memory that only the layout of a structure, which is not known here, tells of?
[[nodiscard]] constexpr bool is_opaque(const Entry& entry) {
  bool is_opaque = entry.kind == Class::kUnknown;
  for (unsigned k = 0; k < entry.count; ++k)
    is_opaque = is_opaque || entry.operands[k].size == Size::kIoctl ||
                entry.operands[k].size == Size::kByCommand;
  return is_opaque;
}

// The highest number that the table knows, plus one.
[[nodiscard]] long table_end();
// What is known of a system call; of a number that is not in the table, the one entry kUnknown.
// Async-signal-safe, lock-free.
[[nodiscard]] const Entry& entry_of(long number);

}  // namespace buoy::gate
