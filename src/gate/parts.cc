#include "gate/parts.h"

#include <linux/aio_abi.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "gate/reach.h"

namespace buoy::gate {

namespace {

// What a command's structure may have, where only the command tells (fcntl, prctl, a futex's words).
constexpr std::size_t kCommandBytes = 64;
// Of an ioctl whose number does not say its size.
constexpr std::size_t kUnsizedIoctlBytes = 256;
constexpr std::size_t kLongestMessage = std::size_t{1} << 24;
constexpr std::size_t kMostStrings = std::size_t{1} << 16;
constexpr std::size_t kLongestString = std::size_t{128} << 10;  // MAX_ARG_STRLEN

Bytes at(long address, std::size_t length) {
  return {static_cast<std::uintptr_t>(address), address == 0 ? 0 : length};
}
Bytes at(const void* address, std::size_t length) {
  return {reinterpret_cast<std::uintptr_t>(address), address == nullptr ? 0 : length};
}

bool read_unmanaged(void* to, Bytes from) {
  if (is_within_reach(from)) {
    std::memcpy(to, from.pointer(), from.length);
    return true;
  }
  return sys::read_own(to, from.pointer(), from.length);
}

std::size_t product(std::uint64_t count, std::size_t each) {
  std::size_t bytes = 0;
  return __builtin_mul_overflow(count, each, &bytes) ? SIZE_MAX : bytes;
}

PinFor purpose_of(Direction d) { return d == Direction::kIn ? PinFor::kReading : PinFor::kWriting; }

// One walk over a call's memory.
class Walk {
 public:
  Walk(Memory& memory, PartBody body, void* context)
      : memory_(memory), body_(body), context_(context) {}

  bool operand(const Operand& o, const long* a) {
    const long pointer = a[o.argument];
    if (pointer == 0) return true;
    const PinFor purpose = purpose_of(o.direction);
    switch (o.size) {
      case Size::kString:
        return string(pointer);
      case Size::kVector:
        return vector(pointer, static_cast<std::uint64_t>(a[o.by]), purpose);
      case Size::kMessage:
        return message(pointer, purpose);
      case Size::kMessages:
        return messages(pointer, static_cast<std::uint64_t>(a[o.by]), purpose);
      case Size::kStrings:
        return strings(pointer);
      case Size::kPointers:
        return control_blocks(pointer, static_cast<std::uint64_t>(a[o.by]));
      case Size::kSigsetPair:
        return sigset_pair(pointer);
      case Size::kWaiters:
        return waiters(pointer, o.bytes != 0 ? o.bytes : static_cast<std::uint64_t>(a[o.by]));
      case Size::kByCommand:
      case Size::kIoctl:
        return guessed(bytes_of(memory_, o, a), purpose);
      default:
        return part(bytes_of(memory_, o, a), purpose);
    }
  }

 private:
  bool part(Bytes b, PinFor purpose) { return b.length == 0 || body_(b, purpose, context_); }

  // It may be less, and only be read.
  bool guessed(Bytes b, PinFor purpose) {
    if (b.length == 0 || !memory_.is_managed_at(b.address)) return part(b, purpose);
    const Bytes touchable = memory_.touchable(b, &purpose);
    return part(touchable, purpose);
  }

  // Up to its zero byte, page by page: what lies behind it need not exist.
  bool string(long pointer) {
    Bytes all = at(pointer, 0);
    while (all.length < kLongestString) {
      const std::uintptr_t next = all.address + all.length;
      const std::size_t in_page = kPageSize - next % kPageSize;
      if (!memory_.is_managed_at(next)) break;
      const Bytes more{next, in_page};
      if (!memory_.is_permitted(more, PinFor::kReading) ||
          memory_.bring_in(more, PinFor::kReading) > Had::kBroughtIn)
        return part({next, 1}, PinFor::kReading);
      const std::size_t length = strnlen(reinterpret_cast<const char*>(more.pointer()), in_page);
      all.length += std::min(length + 1, in_page);
      if (length < in_page) break;
    }
    return part(all, PinFor::kReading);
  }

  bool vector(long pointer, std::uint64_t count, PinFor purpose) {
    if (count == 0 || count > kMostVectors) return true;
    if (!part(at(pointer, product(count, sizeof(iovec))), PinFor::kReading)) return false;
    bool goes_on = true;
    for_each_element(memory_, at(pointer, count * sizeof(iovec)),
                     [&](Bytes element) { return goes_on = part(element.unless_null(), purpose); });
    return goes_on;
  }

  bool message(long pointer, PinFor purpose) {
    if (!part(at(pointer, sizeof(msghdr)), purpose)) return false;
    msghdr m;
    if (!read_program(memory_, &m, at(pointer, sizeof m))) return true;
    return part(at(m.msg_name, m.msg_namelen), purpose) &&
           part(at(m.msg_control, m.msg_controllen), purpose) &&
           vector(sys::ptr(m.msg_iov), m.msg_iovlen, purpose);
  }

  bool messages(long pointer, std::uint64_t count, PinFor purpose) {
    count = std::min<std::uint64_t>(count, kMostVectors);
    if (!part(at(pointer, product(count, sizeof(mmsghdr))), PinFor::kWriting)) return false;
    for (std::uint64_t i = 0; i < count; ++i)
      if (!message(pointer + static_cast<long>(i * sizeof(mmsghdr)), purpose)) return false;
    return true;
  }

  bool strings(long pointer) {
    for (std::size_t i = 0; i < kMostStrings; ++i) {
      const Bytes place = at(pointer + static_cast<long>(i * sizeof(char*)), sizeof(char*));
      if (!part(place, PinFor::kReading)) return false;
      long text = 0;
      if (!read_program(memory_, &text, place) || text == 0) return true;
      if (!string(text)) return false;
    }
    return true;
  }

  bool control_blocks(long pointer, std::uint64_t count) {
    count = std::min<std::uint64_t>(count, kMostVectors);
    if (!part(at(pointer, product(count, sizeof(std::uint64_t))), PinFor::kReading)) return false;
    for (std::uint64_t i = 0; i < count; ++i) {
      long block = 0;
      if (!read_program(memory_, &block,
                        at(pointer + static_cast<long>(i * sizeof block), sizeof block)))
        return true;
      if (!control_block(block)) return false;
    }
    return true;
  }

  bool control_block(long pointer) {
    if (!part(at(pointer, sizeof(iocb)), PinFor::kWriting)) return false;
    iocb b;
    if (!read_program(memory_, &b, at(pointer, sizeof b))) return true;
    const auto buffer = static_cast<long>(b.aio_buf);
    switch (b.aio_lio_opcode) {
      case IOCB_CMD_PREAD:
        return part(at(buffer, b.aio_nbytes), PinFor::kWriting);
      case IOCB_CMD_PWRITE:
        return part(at(buffer, b.aio_nbytes), PinFor::kReading);
      case IOCB_CMD_PREADV:
        return vector(buffer, b.aio_nbytes, PinFor::kWriting);
      case IOCB_CMD_PWRITEV:
        return vector(buffer, b.aio_nbytes, PinFor::kReading);
      default:
        return true;
    }
  }

  bool sigset_pair(long pointer) {
    struct Pair {
      long set;
      std::size_t size;
    } pair{};
    if (!part(at(pointer, sizeof pair), PinFor::kReading)) return false;
    if (!read_program(memory_, &pair, at(pointer, sizeof pair))) return true;
    return part(at(pair.set, std::min<std::size_t>(pair.size, sizeof(sigset_t))), PinFor::kReading);
  }

  bool waiters(long pointer, std::uint64_t count) {
    struct Waiter {
      std::uint64_t value, word;
      std::uint32_t flags, reserved;
    };
    constexpr std::uint64_t kMostWaiters = 128;
    count = std::min(count, kMostWaiters);
    if (!part(at(pointer, product(count, sizeof(Waiter))), PinFor::kReading)) return false;
    for (std::uint64_t i = 0; i < count; ++i) {
      Waiter w;
      if (!read_program(memory_, &w, at(pointer + static_cast<long>(i * sizeof w), sizeof w)))
        return true;
      if (!part(at(static_cast<long>(w.word), sizeof w.value), PinFor::kReading)) return false;
    }
    return true;
  }

  Memory& memory_;
  PartBody body_;
  void* context_;
};

std::size_t ioctl_bytes(unsigned long command) {
  const std::size_t size = _IOC_SIZE(command);
  return _IOC_DIR(command) == _IOC_NONE || size == 0 ? kUnsizedIoctlBytes : size;
}

// A structure that says its size, cut to a page: no kernel knows longer ones.
Bytes self_sized(Memory& memory, const Operand& o, long pointer) {
  constexpr std::size_t kFirstVersion = 64;
  std::uint32_t words[2] = {};
  const std::size_t read = (o.by + 1U) * sizeof words[0];
  if (pointer == 0 || o.by > 1 || !read_program(memory, words, at(pointer, read))) return {};
  const std::size_t length = words[o.by] == 0 ? kFirstVersion : std::size_t{words[o.by]} + o.bytes;
  return at(pointer, std::clamp(length, read, kPageSize));
}

}  // namespace

bool read_program(Memory& memory, void* to, Bytes from) {
  if (from.length == 0) return true;
  if (!memory.is_managed(from)) return read_unmanaged(to, from);
  if (!memory.is_permitted(from, PinFor::kReading) ||
      memory.bring_in(from, PinFor::kReading) > Had::kBroughtIn)
    return false;
  std::memcpy(to, from.pointer(), from.length);
  return true;
}

bool write_program(Memory& memory, Bytes to, const void* from) {
  const bool is_managed = memory.is_managed(to);
  if (is_managed && !memory.is_permitted(to, PinFor::kWriting)) return false;
  if (!is_managed && !is_within_reach(to)) return sys::write_own(to.pointer(), from, to.length);
  // These pages and no more: a store into memory that was never touched brings in what lies around it.
  if (is_managed) (void)memory.bring_in(to, PinFor::kWriting);
  std::memcpy(to.pointer(), from, to.length);
  return true;
}

Bytes bytes_of(Memory& memory, const Operand& o, const long* a) {
  const long pointer = a[o.argument];
  const auto by = static_cast<std::uint64_t>(a[o.by]);
  switch (o.size) {
    case Size::kFixed:
      return at(pointer, o.bytes);
    case Size::kCounted:
      return at(pointer, product(by, o.bytes));
    case Size::kCountedWord: {
      std::uint32_t length = 0;
      if (pointer == 0 || by == 0 || !read_program(memory, &length, at(a[o.by], sizeof length)))
        return {};
      return at(pointer, length);
    }
    case Size::kBits:
      return at(pointer, by > (1U << 20) ? 0 : (by + 63) / 64 * sizeof(std::uint64_t));
    case Size::kMsgbuf:
      return at(pointer, by > kLongestMessage ? 0 : sizeof(long) + by);
    case Size::kPages:
      return at(pointer, PageCount::covering(by).value());
    case Size::kSelfSized:
      return self_sized(memory, o, pointer);
    case Size::kIoctl:
      return at(pointer, ioctl_bytes(static_cast<unsigned long>(a[1])));
    case Size::kByCommand:
      return at(pointer, kCommandBytes);
    default:
      return {};
  }
}

void for_each_part(Memory& memory, const Entry& entry, const long* arguments, PartBody body,
                   void* context) {
  Walk walk(memory, body, context);
  if (entry.kind == Class::kUnknown) {
    for (unsigned k = 0; k < 6; ++k)
      if (memory.is_managed_at(static_cast<std::uintptr_t>(arguments[k])) &&
          !body(at(arguments[k], kUnsizedIoctlBytes), PinFor::kWriting, context))
        return;
    return;
  }
  for (unsigned k = 0; k < entry.count; ++k)
    if (!walk.operand(entry.operands[k], arguments)) return;
}

}  // namespace buoy::gate
