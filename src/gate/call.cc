#include "gate/call.h"

#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "base/sys.h"
#include "gate/copied_call.h"
#include "gate/descriptor_kinds.h"
#include "gate/parts.h"
#include "gate/pinners.h"

namespace buoy::gate {

namespace {

constexpr std::size_t kFirstWindow = std::size_t{16} << 10;
constexpr std::size_t kWidest = std::size_t{1} << 20;
// How often pages may leave between being brought in and the call, before they are pinned.
constexpr unsigned kUnpinnedTries = 3;
constexpr unsigned kMostTries = 16;
// What a pipe takes as one (PIPE_BUF), and what is appended to a log in one piece.
constexpr std::size_t kAtomic = 4096;

// Transfers that say how much they did: which argument is the buffer, and its length.
struct Transfer {
  enum class Kind : std::uint8_t { kNone, kPlain, kVector };
  Kind kind = Kind::kNone;
  std::uint8_t buffer = 1;
  std::uint8_t length = 2;
  bool reads = false;       // from the descriptor, into memory
  bool has_offset = false;  // argument 3
  long one = 0;             // of a vector: the call for one of its elements
};

Transfer transfer_of(long number) {
  using Kind = Transfer::Kind;
  switch (number) {
    case SYS_read:
      return {Kind::kPlain, 1, 2, true, false, SYS_read};
    case SYS_write:
      return {Kind::kPlain, 1, 2, false, false, SYS_write};
    case SYS_pread64:
      return {Kind::kPlain, 1, 2, true, true, SYS_pread64};
    case SYS_pwrite64:
      return {Kind::kPlain, 1, 2, false, true, SYS_pwrite64};
    case SYS_sendto:
      return {Kind::kPlain, 1, 2, false, false, SYS_sendto};
    case SYS_readv:
      return {Kind::kVector, 1, 2, true, false, SYS_read};
    case SYS_writev:
      return {Kind::kVector, 1, 2, false, false, SYS_write};
    case SYS_preadv:
    case SYS_preadv2:
      return {Kind::kVector, 1, 2, true, true, SYS_pread64};
    case SYS_pwritev:
    case SYS_pwritev2:
      return {Kind::kVector, 1, 2, false, true, SYS_pwrite64};
    default:
      return {};
  }
}

alignas(Memory) constinit std::byte memory_place[sizeof(Memory)] = {};
constinit Memory* the_memory = nullptr;

}  // namespace

void set_memory(Vm& vm) { the_memory = new (memory_place) Memory(vm); }
Memory* memory_if_set() { return the_memory; }

long call(long number, long a, long b, long c, long d, long e, long f) {
  if (the_memory == nullptr) return sys::call(number, a, b, c, d, e, f);
  const long arguments[] = {a, b, c, d, e, f};
  if (pinners::is_one(*the_memory, number, arguments)) the_memory->expect_pins();
  return Call(*the_memory, number, arguments).make();
}

Call::Call(Memory& memory, long number, const long* arguments)
    : memory_(memory), number_(number), entry_(entry_of(number)) {
  std::memcpy(arguments_, arguments, sizeof arguments_);
}

long Call::raw() const {
  const long* a = arguments_;
  return sys::call(number_, a[0], a[1], a[2], a[3], a[4], a[5]);
}

Class Call::kind() {
  if (entry_.kind != Class::kDescriptor) return entry_.kind;
  const DescriptorKind d = descriptor_kinds.kind_of(static_cast<int>(arguments_[0]));
  return d == DescriptorKind::kOther ? Class::kLossy : Class::kRetry;
}

bool Call::touches_managed() {
  bool touches = false;
  for_each_part(memory_, entry_, arguments_, [&](Bytes part, PinFor) {
    touches = memory_.is_managed(part);
    return !touches;
  });
  return touches;
}

bool Call::is_untouched() { return entry_.kind == Class::kNone || !touches_managed(); }

bool Call::is_plain() {
  if (is_untouched()) return true;
  if (kind() != Class::kRetry) return false;
  return !is_atomic_over_pages() && bring_in(kFirstWindow).had != Had::kFull;
}

// A small write over more than one page, in which a missing page would be seen by others.
bool Call::is_atomic_over_pages() const {
  if (number_ == SYS_writev) return true;
  if (number_ != SYS_write) return false;
  const auto length = static_cast<std::size_t>(arguments_[2]);
  const auto in_page = static_cast<std::uintptr_t>(arguments_[1]) % kPageSize;
  return length <= kAtomic && in_page + length > kPageSize;
}

long Call::make() {
  if (is_untouched()) return raw();
  switch (kind()) {
    case Class::kNone:
    case Class::kSpecial:
    case Class::kDescriptor:
    case Class::kRetry:
      if (is_atomic_over_pages())
        if (const long r = write_by_copy(memory_, arguments_, number_ == SYS_writev); r != -E2BIG)
          return r;
      if (bring_in(kFirstWindow).had == Had::kFull) return -ENOMEM;
      return settle(raw());
    case Class::kLossy:
    case Class::kEffect:
      return CopiedCall::can_copy(entry_) ? CopiedCall(memory_, number_, arguments_).make()
                                          : held();
    case Class::kHold:
      return held();
    case Class::kUnknown:
      memory_.count(Event::gate_unknown);
      return held();
  }
  return raw();
}

long Call::settle(long result) {
  if (result == -EFAULT) result = retry();
  if (result <= 0) return result;
  const Transfer t = transfer_of(number_);
  if (t.kind == Transfer::Kind::kNone) return result;
  if (t.reads && kind_of_source() != DescriptorKind::kFile) return result;
  return t.kind == Transfer::Kind::kPlain ? go_on(result) : go_on_vector(result);
}

DescriptorKind Call::kind_of_source() const {
  return descriptor_kinds.kind_of(static_cast<int>(arguments_[0]));
}

Call::Want Call::bring_in(std::size_t window) {
  Want want;
  for_each_part(memory_, entry_, arguments_, [&](Bytes part, PinFor purpose) {
    want.is_whole = want.is_whole && part.length <= window;
    const Had had = memory_.bring_in(part.first(window), purpose);
    if (had == Had::kFull || had == Had::kBroughtIn) want.had = had;
    if (had == Had::kNot && want.had == Had::kAll) want.had = had;
    return had != Had::kFull;
  });
  return want;
}

// EFAULT: nothing was done.
long Call::retry() {
  memory_.count(Event::gate_retry);
  std::size_t window = kFirstWindow;
  for (unsigned tries = 0; tries < kMostTries; ++tries, window *= 2) {
    const Want want = bring_in(window);
    if (want.had == Had::kFull) return -ENOMEM;
    const bool is_last = want.had == Had::kNot || (want.had == Had::kAll && want.is_whole);
    const long result = tries < kUnpinnedTries && !is_last ? raw() : once_pinned(window);
    if (result != -EFAULT || is_last) return result;
  }
  return -EFAULT;
}

namespace {

// Parts that stay where they are as long as this lives.
class PinnedParts {
 public:
  PinnedParts(Memory& memory, const Entry& entry, const long* arguments, std::size_t window)
      : memory_(memory) {
    for_each_part(memory, entry, arguments,
                  [&](Bytes part, PinFor purpose) { return add(part.first(window), purpose); });
  }
  ~PinnedParts() {
    while (count_ != 0) {
      --count_;
      memory_.unpin(pinned_[count_].part, pinned_[count_].purpose);
    }
  }
  PinnedParts(const PinnedParts&) = delete;
  PinnedParts& operator=(const PinnedParts&) = delete;
  [[nodiscard]] bool is_full() const { return is_full_; }

  bool add(Bytes part, PinFor purpose) {
    if (count_ == kMost || !memory_.is_managed(part)) return true;
    switch (memory_.pin(part, purpose)) {
      case Had::kFull:
        is_full_ = true;
        return false;
      case Had::kNot:
        return true;  // the kernel will say so
      default:
        pinned_[count_++] = {part, purpose};
        return true;
    }
  }

 private:
  static constexpr unsigned kMost = 64;
  struct Pinned {
    Bytes part;
    PinFor purpose;
  };
  Memory& memory_;
  Pinned pinned_[kMost];
  unsigned count_ = 0;
  bool is_full_ = false;
};

}  // namespace

long Call::once_pinned(std::size_t window) {
  const PinnedParts pins(memory_, entry_, arguments_, window);
  return pins.is_full() ? -ENOMEM : raw();
}

long Call::held() {
  memory_.count(Event::gate_pin);
  PinnedParts pins(memory_, entry_, arguments_, kWidest);
  if (pins.is_full()) return -ENOMEM;
  long result = raw();
  for (unsigned tries = 0; result == -EFAULT && tries < kUnpinnedTries; ++tries) {
    if (!bring_in_behind(pins)) break;
    result = raw();
  }
  return result;
}

// A structure whose layout is not known here may itself have pointers: what looks like one to
// managed memory is brought in, as far as its page and the next ones go.
template <typename Pins>
bool Call::bring_in_behind(Pins& pins) {
  bool has_found = false;
  for_each_part(memory_, entry_, arguments_, [&](Bytes part, PinFor) {
    constexpr std::size_t kLookedAt = 256;
    std::uint64_t words[kLookedAt / sizeof(std::uint64_t)] = {};
    const Bytes looked_at = part.first(sizeof words);
    if (!read_program(memory_, words, looked_at)) return true;
    for (std::size_t i = 0; i < looked_at.length / sizeof(std::uint64_t); ++i) {
      if (!memory_.is_managed_at(words[i])) continue;
      has_found = true;
      const Bytes behind{words[i], kFirstWindow};
      const PinFor purpose =
          memory_.is_permitted(behind, PinFor::kWriting) ? PinFor::kWriting : PinFor::kReading;
      if (memory_.bring_in(behind, purpose) != Had::kFull) pins.add(behind, purpose);
    }
    return true;
  });
  return has_found;
}

long Call::go_on(long done) {
  const Transfer t = transfer_of(number_);
  const Bytes buffer{static_cast<std::uintptr_t>(arguments_[t.buffer]),
                     static_cast<std::size_t>(arguments_[t.length])};
  const long more = transfer_more(t.one, buffer.after(static_cast<std::size_t>(done)), t.reads,
                                  t.has_offset, done);
  return done + more;
}

// What is left of a buffer, from its first missing page on; bytes that were transferred.
long Call::transfer_more(long number, Bytes rest, bool reads, bool has_offset, long offset) {
  const PinFor purpose = reads ? PinFor::kWriting : PinFor::kReading;
  long done = 0;
  std::size_t window = kFirstWindow;
  while (rest.length != 0 && !memory_.is_ready(rest.first(1), purpose)) {
    if (memory_.bring_in(rest.first(window), purpose) != Had::kBroughtIn) break;
    window = std::min(2 * window, kWidest);
    memory_.count(Event::gate_continue);
    const long r = sys::call(
        number, arguments_[0], static_cast<long>(rest.address), static_cast<long>(rest.length),
        has_offset ? arguments_[3] + offset + done : arguments_[3], arguments_[4], arguments_[5]);
    if (r == -EFAULT) continue;
    if (r <= 0) break;
    done += r;
    rest = rest.after(static_cast<std::size_t>(r));
  }
  return done;
}

long Call::go_on_vector(long done) {
  Transfer t = transfer_of(number_);
  // preadv2 and pwritev2 at "the current position".
  if ((number_ == SYS_preadv2 || number_ == SYS_pwritev2) && arguments_[3] == -1) {
    t.has_offset = false;
    t.one = t.reads ? SYS_read : SYS_write;
  }
  auto skipped = static_cast<std::size_t>(done);
  for (long i = 0; i < arguments_[t.length]; ++i) {
    iovec v;
    const auto at = static_cast<std::uintptr_t>(arguments_[t.buffer]) + i * sizeof v;
    if (!read_program(memory_, &v, {at, sizeof v})) break;
    if (skipped >= v.iov_len) {
      skipped -= v.iov_len;
      continue;
    }
    const Bytes rest =
        Bytes{reinterpret_cast<std::uintptr_t>(v.iov_base), v.iov_len}.after(skipped);
    const long more = transfer_more(t.one, rest, t.reads, t.has_offset, done);
    done += more;
    if (static_cast<std::size_t>(more) != rest.length) break;
    skipped = 0;
  }
  return done;
}

}  // namespace buoy::gate
