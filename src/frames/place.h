// One engine object in pages of its own: how the engine's large singletons (an arena, a pool, a
// swap stack) come to life without malloc. Construction may be costly; it happens once.
#pragma once

#include <sys/mman.h>

#include <new>
#include <utility>

#include "base/result.h"
#include "base/sys.h"
#include "base/units.h"

namespace buoy::frames {

template <typename T>
inline constexpr ByteSize kPlacedBytes = (sizeof(T) + kPageSize - 1) & ~(kPageSize - 1);

// A T in fresh pages, or ENOMEM. The caller ends it with `displace`.
template <typename T, typename... Args>
[[nodiscard]] Result<T*> place(Args&&... args) {
  auto memory = sys::reserve(kPlacedBytes<T>, kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  return new (*memory) T(std::forward<Args>(args)...);
}

template <typename T>
void displace(T* object) {
  object->~T();
  sys::unmap(object, kPlacedBytes<T>);
}

// An array in reserved address space; touched pages become resident, the rest costs nothing.
// Elements are what zero bytes make them: T must mean something when it is all zeros.
template <typename T>
class ReservedArray {
 public:
  ReservedArray() = default;
  ReservedArray(const ReservedArray&) = delete;
  ReservedArray& operator=(const ReservedArray&) = delete;
  ~ReservedArray() {
    if (base_ != nullptr) sys::unmap(base_, bytes_for(count_));
  }

  [[nodiscard]] Status create(std::size_t count) {
    auto range = sys::reserve(bytes_for(count), kPageSize, PROT_READ | PROT_WRITE);
    if (!range) return range.error();
    base_ = reinterpret_cast<T*>(*range);
    count_ = count;
    return {};
  }
  [[nodiscard]] T& operator[](std::size_t i) const { return base_[i]; }
  [[nodiscard]] std::size_t count() const { return count_; }

 private:
  static constexpr std::size_t bytes_for(std::size_t count) {
    return (count * sizeof(T) + kPageSize - 1) & ~(kPageSize - 1);
  }
  T* base_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace buoy::frames
