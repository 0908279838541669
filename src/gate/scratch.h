// Scratch: unmanaged memory for one system call, in which the kernel reads and writes in place of the
// program's.
//
// Small requests lie in the object itself, on the stack of the call; larger ones in a mapping, which
// costs nothing for what the kernel does not touch of it. A thread keeps its mappings from call to
// call; a call that never returns (a signal handler jumps out of it, the thread is cancelled) leaves
// its mapping to be taken again by one that lies where it lay, or above, when the thread has no other
// left. If none of them is known to be over, a mapping is made for this call only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace buoy::gate {

class Scratch {
 public:
  static constexpr std::size_t kMost = std::size_t{16} << 20;

  Scratch() = default;
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // `length` bytes, aligned to 16, of any contents; null if there are none to be had.
  [[nodiscard]] std::byte* take(std::size_t length);

  // The thread is about to end: its mappings go.
  static void forget_thread();

 private:
  [[nodiscard]] std::byte* take_mapping(std::size_t length);
  [[nodiscard]] std::byte* take_for_once(std::size_t length);

  static constexpr std::size_t kInline = 1024;
  static constexpr unsigned kMostMappings = 8;
  alignas(16) std::byte inline_[kInline];
  std::size_t used_ = 0;
  std::uint8_t mappings_ = 0;  // a bit for each of the thread's that this call has taken
  static constexpr unsigned kMostOnce = 5;
  std::span<std::byte> once_[kMostOnce];
  unsigned once_used_ = 0;
};

}  // namespace buoy::gate
