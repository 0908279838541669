// For the programs that run natively and under `buoy run`: a check that says where it failed, and
// data that compresses about by half, so that pages neither vanish nor refuse to be squeezed.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#define CHECK(condition)                                                                        \
  do {                                                                                          \
    if (!(condition)) {                                                                         \
      std::fprintf(stderr, "%s:%d: %s (errno %d: %s)\n", __FILE__, __LINE__, #condition, errno, \
                   std::strerror(errno));                                                       \
      std::abort();                                                                             \
    }                                                                                           \
  } while (false)

inline std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

// A page that says whose it is and which edition: half of its words are random, half are not.
inline constexpr std::size_t kPage = 4096;
inline std::uint64_t word_of(std::uint64_t owner, std::uint64_t version, std::size_t i) {
  return i % 2 == 0 ? mix(owner * 1000003 + version * 31 + i) : owner;
}
inline void stamp(void* page, std::uint64_t owner, std::uint64_t version) {
  auto* words = static_cast<std::uint64_t*>(page);
  for (std::size_t i = 0; i < kPage / 8; ++i) words[i] = word_of(owner, version, i);
}
inline void check_stamp(const void* page, std::uint64_t owner, std::uint64_t version) {
  const auto* words = static_cast<const std::uint64_t*>(page);
  for (std::size_t i = 0; i < kPage / 8; ++i) {
    if (words[i] == word_of(owner, version, i)) continue;
    std::fprintf(stderr, "page %p of owner %llu version %llu: word %zu is %llx, not %llx\n", page,
                 static_cast<unsigned long long>(owner), static_cast<unsigned long long>(version),
                 i, static_cast<unsigned long long>(words[i]),
                 static_cast<unsigned long long>(word_of(owner, version, i)));
    std::abort();
  }
}

inline std::size_t argument(int argc, char** argv, int i, std::size_t otherwise) {
  return i < argc ? std::strtoul(argv[i], nullptr, 10) : otherwise;
}
