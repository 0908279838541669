// FileCipher: what a backing file holds is nobody's to read once its processes are gone.
//
// ChaCha20 (libsodium's, whose stream functions allocate nothing, take no lock and can begin anywhere
// in the stream; OpenSSL's contexts are made by malloc). Each file has a random key of its own, which is
// kept in memory only. Of a file, each use of a cluster has a stream of its own, of which every byte
// is used once: by its place in the cluster.
//
//   stream of (key of the file, cluster, generation), byte i   xor   byte i of the cluster
//
// What was read is checked as ever: the checksum is of the plain record and is encrypted with it. That
// guards against disks and bugs; somebody who can write to the file could still damage it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace buoy::swap {

class FileCipher {
 public:
  FileCipher() = default;
  FileCipher(const FileCipher&) = delete;
  FileCipher& operator=(const FileCipher&) = delete;
  ~FileCipher() { forget(); }

  // From here on it encrypts, with a new key. The kernel's errno if there is none to be had.
  [[nodiscard]] Status make_key();
  void forget();
  [[nodiscard]] bool is_on() const { return is_on_; }

  // Encrypts or decrypts bytes of a cluster, where they are, from `offset` (a multiple of 64) on.
  // Nothing, if it is not on. Allocates nothing; thread-safe.
  void apply(std::byte* bytes, std::size_t n, std::uint32_t cluster, std::uint32_t generation,
             std::uint32_t offset) const;

 private:
  std::array<unsigned char, 32> key_{};
  bool is_on_ = false;
};

}  // namespace buoy::swap
