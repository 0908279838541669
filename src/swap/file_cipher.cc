#include "swap/file_cipher.h"

#include <sodium.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "base/sys.h"

namespace buoy::swap {
namespace {
constexpr unsigned kStreamBlock = 64;  // bytes that one number of ChaCha20's counter stands for
}

Status FileCipher::make_key() {
  static_assert(sizeof key_ == crypto_stream_chacha20_KEYBYTES);
  // Finds out which instructions there are.
  if (sodium_init() < 0) return Error{ENOSYS};
  for (std::size_t got = 0; got < key_.size();) {
    const long n = sys::call(SYS_getrandom, sys::ptr(key_.data() + got),
                             static_cast<long>(key_.size() - got), 0);
    if (n == -EINTR) continue;
    if (n <= 0) return Error{n == 0 ? EIO : static_cast<int>(-n)};
    got += static_cast<std::size_t>(n);
  }
  is_on_ = true;
  return {};
}

void FileCipher::forget() {
  sodium_memzero(key_.data(), key_.size());
  is_on_ = false;
}

void FileCipher::apply(std::byte* bytes, std::size_t n, std::uint32_t cluster,
                       std::uint32_t generation, std::uint32_t offset) const {
  if (!is_on_) return;
  BUOY_DCHECK(offset % kStreamBlock == 0);
  unsigned char nonce[crypto_stream_chacha20_NONCEBYTES];
  static_assert(sizeof nonce == sizeof cluster + sizeof generation);
  std::memcpy(nonce, &cluster, sizeof cluster);
  std::memcpy(nonce + sizeof cluster, &generation, sizeof generation);
  auto* const data = reinterpret_cast<unsigned char*>(bytes);
  (void)crypto_stream_chacha20_xor_ic(data, data, n, nonce, offset / kStreamBlock, key_.data());
}

}  // namespace buoy::swap
