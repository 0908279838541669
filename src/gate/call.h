// One system call of the program, made so that memory that is not resident is no obstacle.
//
// The kernel answers EFAULT, or stops short, where a page is missing or its stores are trapped. What
// that means depends on the call (table.h):
//   retry   nothing is lost: bring in what is needed, call again; each time more, at last pinned
//   lossy   the kernel reads and writes a copy in unmanaged memory
//   effect  likewise
//   hold    what it touches is brought in and pinned while it runs
// Results and errors are the kernel's. ENOMEM where the budget and every tier are full.
#pragma once

#include "gate/descriptor_kinds.h"
#include "gate/memory.h"
#include "gate/table.h"

namespace buoy::gate {

class Call {
 public:
  Call(Memory& memory, long number, const long* arguments);

  // The whole of it.
  long make();
  // It was made where the program makes it, with this result: what is left to do.
  long settle(long result);

  // Can it be made where the program makes it, with settle() behind it? Brings in what it needs first.
  [[nodiscard]] bool is_plain();
  // Is nothing that it touches managed?
  [[nodiscard]] bool is_untouched();

 private:
  struct Want {
    Had had = Had::kAll;
    bool is_whole = true;  // no part was longer than the window
  };
  [[nodiscard]] long raw() const;
  [[nodiscard]] Class kind();
  [[nodiscard]] DescriptorKind kind_of_source() const;
  // Is any part managed?
  [[nodiscard]] bool touches_managed();
  [[nodiscard]] bool is_atomic_over_pages() const;
  [[nodiscard]] std::size_t first_window() const;
  Want bring_in(std::size_t window);
  long retry();
  long once_pinned(std::size_t window);
  long held();
  long look_behind(long result);
  std::size_t read_words(Bytes structure, std::uint64_t* words);
  template <typename Pins>
  bool bring_in_behind(Pins& pins, std::size_t window);
  // More of a transfer that stopped short at a missing page.
  long go_on(long done);
  long go_on_vector(long done);
  long go_on_stream(long done);
  long transfer_more(Bytes rest, long before);
  [[nodiscard]] bool was_interrupted() const;
  [[nodiscard]] long transfer_one(Bytes rest, long before) const;
  [[nodiscard]] long transfer_without_waiting(Bytes rest) const;
  struct Rest {
    static constexpr unsigned kMost = 16;
    Bytes pieces[kMost];
    unsigned count = 0;
  };
  Rest rest_behind(long done);
  [[nodiscard]] bool is_ready(const Rest& rest, std::size_t length) const;
  [[nodiscard]] long read_without_waiting(const Rest& rest) const;
  Bytes vector_at(unsigned argument);

  Memory& memory_;
  long number_;
  long arguments_[6];
  const Entry& entry_;
};

// The pool whose memory it is. Once, before the first call passes.
void set_memory(Vm& vm);
void forget_memory();  // there is no gate after all
[[nodiscard]] Memory* memory_if_set();
// For those of our own who hand the kernel pointers of the program's: as the program would.
long call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0);

}  // namespace buoy::gate
