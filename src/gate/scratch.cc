#include "gate/scratch.h"

#include <sys/mman.h>

#include "base/sys.h"
#include "base/units.h"

namespace buoy::gate {

namespace {

constexpr unsigned kPlaces = 8;
constexpr std::size_t kSmallest = std::size_t{64} << 10;
// More of a mapping is given back after use.
constexpr std::size_t kKept = std::size_t{256} << 10;

struct Mapping {
  std::byte* at = nullptr;
  std::size_t length = 0;
  std::uintptr_t taker = 0;  // the call's object, on its stack; 0: nobody's
};
thread_local constinit Mapping mappings[kPlaces];

bool make(Mapping& m, std::size_t length) {
  if (m.at != nullptr && m.length >= length) return true;
  if (m.at != nullptr) sys::call(SYS_munmap, sys::ptr(m.at), static_cast<long>(m.length));
  m.at = nullptr;
  const std::size_t bytes = PageCount::covering(length < kSmallest ? kSmallest : length).bytes();
  const long got = sys::call(SYS_mmap, 0, static_cast<long>(bytes), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got < 0) return false;
  m.at = reinterpret_cast<std::byte*>(got);  // NOLINT(performance-no-int-to-ptr)
  m.length = bytes;
  return true;
}

// A mapping that nobody has; if there is none, the one whose taker is the deepest call below this
// one: it has not returned, and cannot any more.
Mapping* find(std::uintptr_t taker) {
  Mapping* dead = nullptr;
  for (Mapping& m : mappings) {
    if (m.taker == 0) return &m;
    if (m.taker < taker && (dead == nullptr || m.taker < dead->taker)) dead = &m;
  }
  return dead;
}

}  // namespace

std::byte* Scratch::take(std::size_t length) {
  constexpr std::size_t kAlignment = 16;
  const std::size_t bytes = (length + kAlignment - 1) & ~(kAlignment - 1);
  if (length > kMost) return nullptr;
  if (bytes > kInline - used_) return take_mapping(bytes);
  std::byte* const at = inline_ + used_;
  used_ += bytes;
  return at;
}

std::byte* Scratch::take_mapping(std::size_t length) {
  static_assert(kPlaces == kMostMappings);
  Mapping* const m = find(reinterpret_cast<std::uintptr_t>(this));
  if (m == nullptr || !make(*m, length)) return nullptr;
  m->taker = reinterpret_cast<std::uintptr_t>(this);
  mappings_ |= static_cast<std::uint8_t>(1U << static_cast<unsigned>(m - mappings));
  return m->at;
}

Scratch::~Scratch() {
  for (unsigned i = 0; mappings_ != 0; ++i, mappings_ >>= 1U) {
    if ((mappings_ & 1U) == 0) continue;
    Mapping& m = mappings[i];
    if (m.length > kKept) {
      sys::call(SYS_munmap, sys::ptr(m.at), static_cast<long>(m.length));
      m.at = nullptr;
    }
    m.taker = 0;
  }
}

void Scratch::forget_thread() {
  for (Mapping& m : mappings) {
    if (m.at != nullptr) sys::call(SYS_munmap, sys::ptr(m.at), static_cast<long>(m.length));
    m = Mapping();
  }
}

}  // namespace buoy::gate
