#include "gate/call.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <new>

#include "base/sys.h"
#include "gate/copied_call.h"
#include "gate/copied_messages.h"
#include "gate/descriptor_kinds.h"
#include "gate/parts.h"
#include "gate/pinners.h"
#include "gate/signal_mask.h"
#include "gate/transfer.h"

namespace buoy::gate {

namespace {

constexpr std::size_t kFirstWindow = std::size_t{16} << 10;
constexpr std::size_t kWidest = std::size_t{1} << 20;
// How often pages may leave between being brought in and the call, before they are pinned.
constexpr unsigned kUnpinnedTries = 3;
constexpr unsigned kMostTries = 16;
// What a pipe takes as one (PIPE_BUF), and what is appended to a log in one piece.
constexpr std::size_t kAtomic = 4096;
// What a pipe gives as one: all of it, or none where a page is missing.
constexpr std::size_t kStreamPiece = 4096;

alignas(Memory) constinit std::byte memory_place[sizeof(Memory)] = {};
constinit Memory* the_memory = nullptr;

}  // namespace

void set_memory(Vm& vm) { the_memory = new (memory_place) Memory(vm); }
void forget_memory() { the_memory = nullptr; }
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
  return !is_atomic_over_pages() && bring_in(first_window()).had != Had::kFull;
}

// A small write over more than one page, in which a missing page would be seen by others.
bool Call::is_atomic_over_pages() const {
  if (number_ == SYS_writev) return true;
  if (number_ != SYS_write) return false;
  const auto length = static_cast<std::size_t>(arguments_[2]);
  const auto in_page = static_cast<std::uintptr_t>(arguments_[1]) % kPageSize;
  return length <= kAtomic && in_page + length > kPageSize;
}

// What is written to a file at once should get there at once, if others write to it, too.
std::size_t Call::first_window() const {
  const Transfer t = transfer_of(number_);
  const bool writes = t.kind != Transfer::Kind::kNone && !t.reads;
  return writes && kind_of_source() == DescriptorKind::kFile ? kWidest : kFirstWindow;
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
      if (bring_in(first_window()).had == Had::kFull) return -ENOMEM;
      return settle(raw());
    case Class::kLossy:
    case Class::kEffect:
      if (number_ == SYS_recvmmsg) return receive_messages(memory_, arguments_);
      if (number_ == SYS_sendmmsg) return send_messages(memory_, arguments_);
      return CopiedCall::can_copy(entry_) ? CopiedCall(memory_, number_, arguments_).make()
                                          : held();
    case Class::kHold:
      return held();
    case Class::kUnknown:
      memory_.count(Event::gate_unknown_calls);
      return held();
  }
  return raw();
}

long Call::settle(long result) {
  if (result == -EFAULT && is_opaque(entry_))
    result = look_behind(entry_.kind == Class::kLossy ? result : retry());
  else if (result == -EFAULT)
    result = retry();
  if (result <= 0) return result;
  const Transfer t = transfer_of(number_);
  if (t.kind == Transfer::Kind::kNone) return result;
  if (t.reads && kind_of_source() == DescriptorKind::kStream) return go_on_stream(result);
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
  std::size_t window = first_window();
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
  explicit PinnedParts(Memory& memory) : memory_(memory) {}
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

// Likewise, of one buffer; as they are where they cannot be pinned.
class PinnedBytes {
 public:
  PinnedBytes(Memory& memory, Bytes bytes, PinFor purpose)
      : memory_(memory), bytes_(bytes), purpose_(purpose) {
    is_pinned_ = bytes.length != 0 && memory.pin(bytes, purpose) == Had::kAll;
  }
  ~PinnedBytes() {
    if (is_pinned_) memory_.unpin(bytes_, purpose_);
  }
  PinnedBytes(const PinnedBytes&) = delete;
  PinnedBytes& operator=(const PinnedBytes&) = delete;

 private:
  Memory& memory_;
  Bytes bytes_;
  PinFor purpose_;
  bool is_pinned_ = false;
};

}  // namespace

long Call::once_pinned(std::size_t window) {
  const PinnedParts pins(memory_, entry_, arguments_, window);
  return pins.is_full() ? -ENOMEM : raw();
}

long Call::held() {
  memory_.count(Event::gate_pin);
  PinnedParts pins(memory_, entry_, arguments_, kWidest);
  const bool reads = number_ == SYS_process_vm_readv;
  if ((reads || number_ == SYS_process_vm_writev) && arguments_[0] == sys::call(SYS_getpid))
    for_each_element(memory_, vector_at(3), [&](Bytes remote) {
      return pins.add(remote.first(kWidest), reads ? PinFor::kReading : PinFor::kWriting);
    });
  if (pins.is_full()) return -ENOMEM;
  return look_behind(raw());
}

// A structure whose layout is not known here may itself have pointers. Where the call answered EFAULT, what
// looks like one to managed memory is brought in and held, wherever the structure lies, and it is made
// again, each time with more of it.
long Call::look_behind(long result) {
  std::size_t window = kFirstWindow;
  for (unsigned tries = 0; result == -EFAULT && tries < kUnpinnedTries; ++tries, window *= 8) {
    PinnedParts pins(memory_, entry_, arguments_, kWidest);
    if (!bring_in_behind(pins, window)) break;
    result = raw();
  }
  return result;
}

// The first words of a structure, which may be shorter than it is thought to be: what lies behind its page is
// asked for.
std::size_t Call::read_words(Bytes structure, std::uint64_t* words) {
  const Bytes in_page = structure.first(kPageSize - structure.address % kPageSize);
  if (!read_program(memory_, words, in_page)) return 0;
  const Bytes behind = structure.after(in_page.length);
  auto* const to = reinterpret_cast<std::byte*>(words) + in_page.length;
  const bool is_more =
      behind.length != 0 &&
      (memory_.is_managed(behind) ? read_program(memory_, to, behind)
                                  : sys::read_own(to, behind.pointer(), behind.length));
  return (is_more ? structure.length : in_page.length) / sizeof *words;
}

template <typename Pins>
bool Call::bring_in_behind(Pins& pins, std::size_t window) {
  bool has_found = false;
  for_each_part(memory_, entry_, arguments_, [&](Bytes part, PinFor) {
    constexpr std::size_t kLookedAt = 256;
    std::uint64_t words[kLookedAt / sizeof(std::uint64_t)] = {};
    const std::size_t count = read_words(part.first(sizeof words), words);
    for (std::size_t i = 0; i < count; ++i) {
      if (!memory_.is_managed_at(words[i])) continue;
      has_found = true;
      PinFor purpose = PinFor::kWriting;
      const Bytes behind = memory_.touchable(Bytes{words[i], window}, &purpose);
      if (memory_.bring_in(behind, purpose) != Had::kFull) pins.add(behind, purpose);
    }
    return true;
  });
  return has_found;
}

long Call::go_on(long done) {
  const Bytes buffer{static_cast<std::uintptr_t>(arguments_[Transfer::kBuffer]),
                     static_cast<std::size_t>(arguments_[Transfer::kLength])};
  return done + transfer_more(buffer.after(static_cast<std::size_t>(done)), done);
}

// What is left of a buffer, `before` bytes behind the first of all; bytes that were transferred.
//
// Where the next page is missing, that is why the kernel stopped. Where it is there, it may have been
// on its way out or in at that moment, or one further on is missing (a local socket sends in pieces),
// or there is another reason: a file says so when asked again, and a stream that is full is left, as
// natively, if a signal has interrupted the call. If a handler has run meanwhile, a missing page is no proof.
long Call::transfer_more(Bytes rest, long before) {
  const PinFor purpose = transfer_of(number_).reads ? PinFor::kWriting : PinFor::kReading;
  const bool is_file = kind_of_source() == DescriptorKind::kFile;
  long done = 0;
  std::size_t window = kFirstWindow;
  for (unsigned in_vain = 0; rest.length != 0 && in_vain < kMostTries;) {
    const bool is_missing = in_vain != 0 || !memory_.is_ready(rest.first(1), purpose);
    // Pages that leave faster than they come are held.
    const PinnedBytes pinned(memory_, in_vain < kUnpinnedTries ? Bytes() : rest.first(window),
                             purpose);
    if (is_missing && memory_.bring_in(rest.first(window), purpose) > Had::kBroughtIn) break;
    memory_.count(Event::gate_continue);
    const bool may_wait = is_missing && !was_interrupted();
    const long r =
        may_wait || is_file ? transfer_one(rest, before + done) : transfer_without_waiting(rest);
    if (r <= 0 && r != -EFAULT) break;
    in_vain = r > 0 ? 0 : in_vain + 1;
    window = std::min(2 * window, kWidest);
    if (r < 0) continue;
    done += r;
    rest = rest.after(static_cast<std::size_t>(r));
  }
  return done;
}

// By a handler of the program, as far as it is watched for: by the calls that enter in front.
bool Call::was_interrupted() const {
  const bool is_watched = number_ == SYS_write || number_ == SYS_writev || number_ == SYS_sendto ||
                          number_ == SYS_sendmsg;
  return is_watched && signals::has_handler_run();
}

long Call::transfer_one(Bytes rest, long before) const {
  const Transfer t = transfer_of(number_);
  const long* a = arguments_;
  const auto at = static_cast<long>(rest.address);
  const auto length = static_cast<long>(rest.length);
  const iovec one{rest.pointer(), rest.length};
  // -1 is "the current position", to those that have flags.
  const long offset = t.has_offset && a[3] != -1 ? a[3] + before : a[3];
  switch (t.one) {
    case SYS_preadv2:
    case SYS_pwritev2:
      return sys::call(t.one, a[0], sys::ptr(&one), 1, offset, 0, a[5]);
    case SYS_sendto:
      if (number_ == SYS_sendmsg) return sys::call(t.one, a[0], at, length, a[2]);
      [[fallthrough]];
    default:
      return sys::call(t.one, a[0], at, length, offset, a[4], a[5]);
  }
}

// Of a stream that is written to.
long Call::transfer_without_waiting(Bytes rest) const {
  const auto at = static_cast<long>(rest.address);
  const auto length = static_cast<long>(rest.length);
  if (number_ == SYS_sendto || number_ == SYS_sendmsg) {
    const long flags = arguments_[number_ == SYS_sendto ? 3 : 2];
    return sys::call(SYS_sendto, arguments_[0], at, length, flags | MSG_DONTWAIT);
  }
  // What is ready takes this much.
  constexpr long kTaken = 4096;
  pollfd room{static_cast<int>(arguments_[0]), POLLOUT, 0};
  const timespec now{};
  if (sys::call(SYS_ppoll, sys::ptr(&room), 1, sys::ptr(&now), 0, 0) != 1) return -EAGAIN;
  return sys::call(SYS_write, arguments_[0], at, std::min(length, kTaken));
}

// The next pieces of what is read into, behind `done` bytes.
Call::Rest Call::rest_behind(long done) {
  Rest rest;
  auto skipped = static_cast<std::size_t>(done);
  const auto add = [&](Bytes element) {
    const Bytes piece = element.after(skipped);
    skipped -= std::min(skipped, element.length);
    if (piece.length == 0) return true;
    rest.pieces[rest.count++] = piece;
    return rest.count != Rest::kMost;
  };
  if (transfer_of(number_).kind == Transfer::Kind::kVector)
    for_each_element(memory_, vector_at(Transfer::kBuffer), add);
  else
    add({static_cast<std::uintptr_t>(arguments_[Transfer::kBuffer]),
         static_cast<std::size_t>(arguments_[Transfer::kLength])});
  return rest;
}

bool Call::is_ready(const Rest& rest, std::size_t length) const {
  for (unsigned i = 0; i < rest.count && length != 0; ++i) {
    const Bytes piece = rest.pieces[i].first(length);
    if (!memory_.is_ready(piece, PinFor::kWriting)) return false;
    length -= piece.length;
  }
  return true;
}

// A stream that had more than pages were there for: the rest, as far as it has come.
long Call::go_on_stream(long done) {
  std::size_t window = kFirstWindow;
  for (unsigned tries = 0; tries < kMostTries; ++tries, window = std::min(2 * window, kWidest)) {
    const Rest rest = rest_behind(done);
    if (rest.count == 0 || is_ready(rest, kStreamPiece)) break;
    PinnedParts pins(memory_);
    std::size_t left = window;
    for (unsigned i = 0; i < rest.count && left != 0; ++i) {
      const Bytes piece = rest.pieces[i].first(left);
      if (memory_.bring_in(piece, PinFor::kWriting) > Had::kBroughtIn) return done;
      if (tries >= kUnpinnedTries) pins.add(piece, PinFor::kWriting);
      left -= piece.length;
    }
    memory_.count(Event::gate_continue);
    const long r = read_without_waiting(rest);
    if (r <= 0 && r != -EFAULT) break;
    if (r < 0) continue;
    tries = 0;
    done += r;
  }
  return done;
}

long Call::read_without_waiting(const Rest& rest) const {
  constexpr long kNoWait = 8;  // RWF_NOWAIT
  iovec pieces[Rest::kMost];
  for (unsigned i = 0; i < rest.count; ++i)
    pieces[i] = {rest.pieces[i].pointer(), rest.pieces[i].length};
  msghdr message{};
  message.msg_iov = pieces;
  message.msg_iovlen = rest.count;
  const long r = sys::call(SYS_recvmsg, arguments_[0], sys::ptr(&message), MSG_DONTWAIT);
  if (r != -ENOTSOCK) return r;
  return sys::call(SYS_preadv2, arguments_[0], sys::ptr(pieces), rest.count, -1, -1, kNoWait);
}

// The vector of a transfer, of a message, or of process_vm_readv's other side.
Bytes Call::vector_at(unsigned argument) {
  std::uint64_t count = static_cast<std::uint64_t>(arguments_[argument + 1]);
  auto address = static_cast<std::uintptr_t>(arguments_[argument]);
  if (number_ == SYS_sendmsg) {
    msghdr m;
    if (!read_program(memory_, &m, {address, sizeof m})) return {};
    address = reinterpret_cast<std::uintptr_t>(m.msg_iov);
    count = m.msg_iovlen;
  }
  return {address, std::min(count, kMostVectors) * sizeof(iovec)};
}

long Call::go_on_vector(long done) {
  auto skipped = static_cast<std::size_t>(done);
  for_each_element(memory_, vector_at(Transfer::kBuffer), [&](Bytes element) {
    if (skipped >= element.length) {
      skipped -= element.length;
      return true;
    }
    const Bytes rest = element.after(skipped);
    const long more = transfer_more(rest, done);
    done += more;
    skipped = 0;
    return static_cast<std::size_t>(more) == rest.length;
  });
  return done;
}

}  // namespace buoy::gate
