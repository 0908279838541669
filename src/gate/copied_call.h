// CopiedCall: a system call that the kernel makes on a copy of the program's memory.
//
// For calls that have taken something (a datagram, a child's exit status) or have had their effect
// when they find out that a page is missing. Inputs are copied in before, outputs out after; what
// lies in unmanaged memory is passed as it is. Memory: Scratch; ENOMEM, before anything has happened,
// where there is none or it is too much.
#pragma once

#include "gate/memory.h"
#include "gate/scratch.h"
#include "gate/table.h"

namespace buoy::gate {

class CopiedCall {
 public:
  CopiedCall(Memory& memory, long number, const long* arguments);
  // Does it know the layout of all that such a call touches?
  [[nodiscard]] static bool can_copy(const Entry& entry);
  long make();

 private:
  struct Copy {
    Bytes theirs;
    std::byte* ours = nullptr;
    const Operand* operand = nullptr;
  };
  // 0 or an error. Replaces the argument by a copy where it is managed.
  long prepare(const Operand& operand);
  long prepare_vector(const Operand& operand);
  long prepare_message(const Operand& operand);
  // False: it may not be stored there.
  [[nodiscard]] bool put_back(const Copy& copy, long result);
  [[nodiscard]] bool put_back_vector(long result);
  [[nodiscard]] bool put_back_message();
  // A copy of managed bytes, with its contents if asked for; the bytes themselves if not managed.
  // Null: no memory.
  enum class Contents : std::uint8_t { kCopied, kNone };
  [[nodiscard]] void* copy_of(Bytes theirs, Contents contents);

  Memory& memory_;
  long number_;
  const long* theirs_;  // the program's arguments
  long arguments_[6];
  const Entry& entry_;
  Scratch scratch_;
  Copy copies_[Entry::kMostOperands];
  unsigned count_ = 0;
  // A vector, or a message's: as one buffer, to be scattered.
  struct Scattered {
    Bytes vector;  // the program's iovecs
    std::byte* buffer = nullptr;
    std::size_t length = 0;
    alignas(8) std::byte one[16];  // the iovec that the kernel gets
  } scattered_;
  struct Message {
    Bytes theirs;
    alignas(8) std::byte header[56];
    std::byte* name = nullptr;
    std::byte* control = nullptr;
  } message_;
};

// A small write, as one; `is_vector`: writev. -E2BIG, and nothing done: it is not small.
long write_by_copy(Memory& memory, const long* arguments, bool is_vector);

}  // namespace buoy::gate
