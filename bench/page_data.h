// Pages that LZ4 makes smaller by a given factor, stamped so that wrong contents are noticed.
//
//   bytes 0..7    the page's number, never changed
//   bytes 8..71   one counter a thread, for stores
//   the rest      64-byte lines: random bytes, then a phrase that repeats
//
// Pages differ in how well they compress, evenly around the wanted mean, as real ones do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace buoy::bench {

inline constexpr std::size_t kPageBytes = 4096;
inline constexpr std::size_t kPageWords = kPageBytes / sizeof(std::uint64_t);
inline constexpr std::size_t kFirstCounter = 1;  // word of thread 0's counter
inline constexpr std::size_t kMaxThreads = 8;
inline constexpr std::size_t kFirstFill = kFirstCounter + kMaxThreads;

class PageData {
 public:
  // `stored` is the wanted LZ4 size per original byte, 0.1 to 0.9. The sizes are made by trying,
  // and checked by LZ4: throws Unavailable if the mean is off by more than 3 %.
  explicit PageData(double stored);

  // Fills page `number`; all counters are zero.
  void fill(std::uint64_t* page, std::uint64_t number) const;
  // Whether everything but the counters is as fill() made it.
  [[nodiscard]] bool matches(const std::uint64_t* page, std::uint64_t number) const;

 private:
  [[nodiscard]] const std::uint64_t* kind_of(std::uint64_t number) const;

  std::vector<std::uint64_t> kinds_;  // kKinds pages
};

}  // namespace buoy::bench
