// Parts: all the memory that one system call touches, chains followed.
#pragma once

#include <sys/uio.h>

#include <cstddef>

#include "gate/memory.h"
#include "gate/table.h"

namespace buoy::gate {

// Copies what a call's arguments point at, as the kernel would: false where it could not. Managed
// pages are brought in; of other memory, what is within reach (reach.h) is read directly, and all else
// by a system call that says EFAULT where a load would end the program.
[[nodiscard]] bool read_program(Memory& memory, void* to, Bytes from);

// The other way: stores a result where the program wants it.
[[nodiscard]] bool write_program(Memory& memory, Bytes to, const void* from);

// Vectors that are longer are refused by the kernel (UIO_MAXIOV).
inline constexpr std::uint64_t kMostVectors = 1024;
// Calls body(Bytes) -> bool for each element of a vector of iovecs, while it answers true. False: an
// element cannot be read.
template <typename Body>
bool for_each_element(Memory& memory, Bytes vector, Body body) {
  for (std::size_t i = 0; i < vector.length / sizeof(iovec); ++i) {
    iovec v;
    if (!read_program(memory, &v, {vector.address + i * sizeof v, sizeof v})) return false;
    if (!body(Bytes{reinterpret_cast<std::uintptr_t>(v.iov_base), v.iov_len})) return true;
  }
  return true;
}

// The first level of an operand. No length where its size is not a number of bytes (a chain), or
// where the word that tells it cannot be read.
[[nodiscard]] Bytes bytes_of(Memory& memory, const Operand& operand, const long* arguments);

// Calls body(Bytes, PinFor, context) for every part, structures before what they point at, while it
// answers true. What cannot be read is left out, and what follows from it.
using PartBody = bool (*)(Bytes part, PinFor purpose, void* context);
void for_each_part(Memory& memory, const Entry& entry, const long* arguments, PartBody body,
                   void* context);
template <typename Body>
void for_each_part(Memory& memory, const Entry& entry, const long* arguments, Body body) {
  for_each_part(
      memory, entry, arguments,
      [](Bytes part, PinFor purpose, void* context) {
        return (*static_cast<Body*>(context))(part, purpose);
      },
      &body);
}

}  // namespace buoy::gate
