// Where the operands of the adversary's calls lie: in an arena that is paged out all the time, in
// pages of every state that matters to a system call.
#pragma once

#include <cstring>
#include <utility>

#include "gate_testing.h"

namespace gate_testing {

class Places {
 public:
  static constexpr std::size_t kBytes = std::size_t{8} << 20;
  static constexpr std::size_t kMost = std::size_t{256} << 10;  // of one operand

  explicit Places(std::uint64_t seed)
      : random_(seed), arena_(map(kBytes)), edges_(map(kEdgeBytes)) {
    std::memset(arena_, 0x5a, kBytes);
    std::memset(edges_, 0x5a, kEdgeBytes);
    // Behind every stretch of the edges lies a page that nobody may touch.
    for (std::size_t i = 1; i <= kEdges; ++i)
      CHECK(mprotect(edges_ + i * kEdge - kPage, kPage, PROT_NONE) == 0);
  }

  [[nodiscard]] char* arena() const { return arena_; }
  Random& random() { return random_; }

  // Room for an output, filled with what the call should replace.
  char* out(std::size_t bytes) {
    char* const p = room(bytes);
    std::memset(p, 0xa5, bytes);
    leave(p, bytes, random_.below(5));
    return p;
  }
  template <typename T>
  T* out() {
    return reinterpret_cast<T*>(out(sizeof(T)));
  }
  // An input, or one that is written to as well.
  char* in(const void* from, std::size_t bytes) {
    char* const p = room(bytes);
    std::memcpy(p, from, bytes);
    leave(p, bytes, random_.below(4));
    return p;
  }
  template <typename T>
  T* in(const T& value) {
    return reinterpret_cast<T*>(in(&value, sizeof value));
  }
  char* string(const char* text) { return in(text, std::strlen(text) + 1); }

 private:
  static constexpr std::size_t kZones = 24;  // so many operands live at once
  static constexpr std::size_t kZone = kBytes / kZones & ~(kPage - 1);
  static constexpr std::size_t kEdge = std::size_t{3} * kPage;
  static constexpr std::size_t kEdges = 32;
  static constexpr std::size_t kEdgeBytes = kEdge * kEdges;
  static_assert(kZone > kMost);

  char* room(std::size_t bytes) {
    CHECK(bytes <= kMost);
    constexpr std::size_t kAlignment = 8;
    const std::size_t used = (bytes + kAlignment - 1) & ~(kAlignment - 1);
    // Small ones end where the mapping does, now and then.
    if (used <= kPage && random_.one_in(4)) {
      edge_ = (edge_ + 1) % kEdges;
      return edges_ + (edge_ + 1) * kEdge - kPage - used;
    }
    zone_ = (zone_ + 1) % kZones;
    const std::size_t slack = kZone - used;
    return arena_ + zone_ * kZone + random_.below(slack / kAlignment) * kAlignment;
  }

  // 0, 1: as it is; 2: out; 3: back, but clean; 4: lazily freed, if nothing is to be kept.
  static void leave(char* p, std::size_t bytes, std::size_t state) {
    if (state >= 2) page_out(p, bytes);
    if (state == 3)
      for (std::size_t i = 0; i < bytes; i += kPage) (void)*static_cast<volatile char*>(p + i);
    if (state == 4) {
      const auto first = reinterpret_cast<std::uintptr_t>(p) & ~(kPage - 1);
      const std::size_t whole =
          (reinterpret_cast<std::uintptr_t>(p) + bytes - first) & ~(kPage - 1);
      if (whole > kPage)
        (void)madvise(reinterpret_cast<void*>(first + kPage), whole - kPage, MADV_FREE);
    }
  }

  Random random_;
  char* arena_;
  char* edges_;
  std::size_t zone_ = 0;
  std::size_t edge_ = 0;
};

// What is sent and written: a piece of it, by place and length.
class Reference {
 public:
  static constexpr std::size_t kBytes = std::size_t{512} << 10;
  Reference() {
    for (std::size_t i = 0; i < kBytes / sizeof(std::uint64_t); ++i) {
      const std::uint64_t w = mix(i + 77);
      std::memcpy(bytes_ + i * sizeof w, &w, sizeof w);
    }
  }
  [[nodiscard]] const char* at(std::size_t offset) const { return bytes_ + offset; }

 private:
  char bytes_[kBytes];
};

}  // namespace gate_testing
