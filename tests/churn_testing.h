// What tests of allocators share: blocks whose pages say whose they are, and churn with them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace buoy::testing {

// What was allocated: whole pages, however many bytes were asked for.
struct StampedBlock {
  std::byte* at = nullptr;
  std::size_t bytes = 0;
  std::uint64_t owner = 0;
  std::size_t alignment = 1;

  [[nodiscard]] std::size_t pages() const;
  void stamp() const;
  [[nodiscard]] bool is_as_stamped() const;
};

// An allocator that threads may share. `allocate` gives null, `free` false where it fails.
struct BlockSource {
  std::function<void*(std::size_t bytes, std::size_t alignment)> allocate;
  std::function<bool(const StampedBlock&)> free;
};

// One thread's random allocations and frees, at most `most` bytes held at a time, none in the end.
// Did all succeed, aligned as asked, and hold what was stored?
[[nodiscard]] bool churn(const BlockSource& source, std::uint64_t seed, std::size_t most,
                         int steps);
// The same by four threads at once, with a fourth of `most` each.
[[nodiscard]] bool churn_in_threads(const BlockSource& source, std::size_t most, int steps);

}  // namespace buoy::testing
