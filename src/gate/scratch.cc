#include "gate/scratch.h"

#include <sys/mman.h>

#include <csignal>

#include "base/sys.h"
#include "base/units.h"
#include "gate/thread.h"

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

// Is the call that has taken it over, though it did not return? It is if the caller, `here`, lies where
// it lay, or higher up on the same stack.
class Judge {
 public:
  explicit Judge(std::uintptr_t here) : here_(here) {
    stack_t alternate{};
    if (sys::call(SYS_sigaltstack, 0, sys::ptr(&alternate)) != 0) return;
    alternate_ = reinterpret_cast<std::uintptr_t>(alternate.ss_sp);
    alternate_bytes_ = alternate.ss_size;
  }
  [[nodiscard]] bool is_over(std::uintptr_t taker) const {
    constexpr std::uintptr_t kSameStack = std::uintptr_t{1} << 20;
    return taker <= here_ && here_ - taker < kSameStack &&
           is_on_alternate(taker) == is_on_alternate(here_);
  }

 private:
  [[nodiscard]] bool is_on_alternate(std::uintptr_t p) const {
    return p - alternate_ < alternate_bytes_;
  }
  std::uintptr_t here_;
  std::uintptr_t alternate_ = 0;
  std::size_t alternate_bytes_ = 0;
};

// A mapping that nobody has, or nobody any more; none of those that the taker `has`, a bit for each.
Mapping* find(std::uintptr_t taker, unsigned has) {
  for (Mapping& m : mappings)
    if (m.taker == 0) return &m;
  const Judge judge(taker);
  for (unsigned i = 0; i < kPlaces; ++i)
    if ((has >> i & 1U) == 0 && judge.is_over(mappings[i].taker)) return &mappings[i];
  return nullptr;
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
  Mapping* const m =
      thread::has_own_storage() ? find(reinterpret_cast<std::uintptr_t>(this), mappings_) : nullptr;
  if (m == nullptr) return take_for_once(length);
  if (!make(*m, length)) return nullptr;
  m->taker = reinterpret_cast<std::uintptr_t>(this);
  mappings_ |= static_cast<std::uint8_t>(1U << static_cast<unsigned>(m - mappings));
  return m->at;
}

// The thread has no place left for it.
std::byte* Scratch::take_for_once(std::size_t length) {
  if (once_used_ == kMostOnce) return nullptr;
  Mapping m;
  if (!make(m, length)) return nullptr;
  once_[once_used_++] = {m.at, m.length};
  return m.at;
}

Scratch::~Scratch() {
  while (once_used_ != 0) {
    const std::span<std::byte> m = once_[--once_used_];
    sys::call(SYS_munmap, sys::ptr(m.data()), static_cast<long>(m.size()));
  }
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
