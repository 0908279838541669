// What a descriptor is, as far as reading from it goes: cached by number, because it is asked at
// each read into managed memory.
//
// An entry is a kind and the number of times it was forgotten; a kind that was found out about an
// older descriptor of that number is not entered. Whoever makes a number mean another file (close,
// dup2, dup3, close_range) says forget() before and after. Lock-free.
#pragma once

#include <atomic>
#include <cstdint>

namespace buoy::gate {

enum class DescriptorKind : std::uint8_t {
  kUnknown = 0,
  kFile,    // a regular file or a block device: what was not copied is still there
  kStream,  // a pipe or a stream socket: likewise
  kOther,   // messages, events, terminals, files of procfs: what was not copied is gone
};

class DescriptorKinds {
 public:
  // Asks the kernel where it must: fstat, and for sockets their type. EBADF counts as kFile: nothing is
  // lost by asking; where there is no answer (a filter), kOther.
  [[nodiscard]] DescriptorKind kind_of(int fd);
  // The cached answer, or kUnknown.
  [[nodiscard]] DescriptorKind known(int fd) const {
    if (static_cast<unsigned>(fd) >= kMost) return DescriptorKind::kUnknown;
    return static_cast<DescriptorKind>(entries_[fd].load(std::memory_order_relaxed) & kKindMask);
  }
  void forget(int fd) { forget_range(static_cast<unsigned>(fd), static_cast<unsigned>(fd)); }
  void forget_range(unsigned first, unsigned last);

 private:
  static constexpr unsigned kMost = 1U << 16;
  static constexpr std::uint32_t kKindMask = 0xff;
  static constexpr std::uint32_t kOneForgotten = 0x100;
  std::atomic<std::uint32_t> entries_[kMost]{};
};

extern constinit DescriptorKinds descriptor_kinds;

}  // namespace buoy::gate
