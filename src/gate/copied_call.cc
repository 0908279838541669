#include "gate/copied_call.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/sys.h"
#include "gate/parts.h"

namespace buoy::gate {

namespace {

Bytes bytes_at(const void* p, std::size_t length) {
  return {reinterpret_cast<std::uintptr_t>(p), p == nullptr ? 0 : length};
}

// At most what can be copied: a receiver may be given less room. SIZE_MAX: it cannot be read.
std::size_t total_of(Memory& memory, Bytes vector, bool* is_managed) {
  std::size_t total = 0;
  *is_managed = false;
  const bool could = for_each_element(memory, vector, [&](Bytes element) {
    element = element.unless_null();
    if (__builtin_add_overflow(total, element.length, &total)) total = SIZE_MAX;
    *is_managed = *is_managed || memory.is_managed(element);
    return total != SIZE_MAX;
  });
  return could && total != SIZE_MAX ? std::min(total, Scratch::kMost) : SIZE_MAX;
}

// To the program's memory; false where it may not be stored to.
bool store(Memory& memory, Bytes to, const void* from, std::size_t length) {
  to = to.first(length);
  memory.count(Event::gate_bounced_bytes, to.length);
  return to.length == 0 || write_program(memory, to, from);
}

}  // namespace

bool CopiedCall::can_copy(const Entry& entry) {
  for (unsigned k = 0; k < entry.count; ++k) {
    switch (entry.operands[k].size) {
      case Size::kFixed:
      case Size::kCounted:
      case Size::kCountedWord:
      case Size::kBits:
      case Size::kMsgbuf:
      case Size::kPages:
      case Size::kVector:
      case Size::kMessage:
      case Size::kString:
      case Size::kSigsetPair:
        break;
      default:
        return false;
    }
  }
  return true;
}

CopiedCall::CopiedCall(Memory& memory, long number, const long* arguments)
    : memory_(memory), number_(number), theirs_(arguments), entry_(entry_of(number)) {
  std::memcpy(arguments_, arguments, sizeof arguments_);
}

long CopiedCall::make() {
  memory_.count(Event::gate_copy);
  for (unsigned k = 0; k < entry_.count; ++k)
    if (const long error = prepare(entry_.operands[k]); error != 0) return error;
  const long* a = arguments_;
  long result = 0;
  // Strings and signal sets are not copied: they are read before anything happens.
  constexpr unsigned kTries = 4;
  for (unsigned tries = 0; tries < kTries; ++tries) {
    result = sys::call(number_, a[0], a[1], a[2], a[3], a[4], a[5]);
    if (result != -EFAULT) break;
    bool brought_in = false;
    for_each_part(memory_, entry_, a, [&](Bytes part, PinFor purpose) {
      brought_in |= memory_.bring_in(part.first(kPageSize), purpose) == Had::kBroughtIn;
      return true;
    });
    if (!brought_in) break;
  }
  bool could = true;
  for (unsigned k = 0; k < count_; ++k) could = put_back(copies_[k], result) && could;
  if (scattered_.buffer != nullptr && result > 0) could = put_back_vector(result) && could;
  if (message_.theirs.length != 0 && result >= 0) could = put_back_message() && could;
  return could ? result : -EFAULT;
}

void* CopiedCall::copy_of(Bytes theirs, Contents contents) {
  if (!memory_.is_managed(theirs)) return theirs.pointer();
  std::byte* const ours = scratch_.take(theirs.length);
  if (ours != nullptr && contents == Contents::kCopied) {
    memory_.count(Event::gate_bounced_bytes, theirs.length);
    std::memcpy(ours, theirs.pointer(), theirs.length);
  }
  return ours;
}

long CopiedCall::prepare(const Operand& o) {
  if (theirs_[o.argument] == 0) return 0;
  if (o.size == Size::kString || o.size == Size::kSigsetPair) return 0;
  if (o.size == Size::kVector) return prepare_vector(o);
  if (o.size == Size::kMessage) return prepare_message(o);
  Bytes b = bytes_of(memory_, o, theirs_);
  if (!memory_.is_managed(b)) return 0;
  // A receiver may always be given less room; no message is that long.
  if (b.length > Scratch::kMost && o.size == Size::kCounted && o.produced == Produced::kResult) {
    arguments_[o.by] = static_cast<long>(Scratch::kMost / std::max<std::size_t>(o.bytes, 1));
    b = b.first(Scratch::kMost);
  }
  const PinFor purpose = o.direction == Direction::kIn ? PinFor::kReading : PinFor::kWriting;
  if (!memory_.is_permitted(b, purpose)) return 0;  // the kernel will say so
  // Of an output that may be written in part, what is not written must be what it was.
  const bool has_contents = o.direction != Direction::kOut || o.produced == Produced::kAll;
  auto* const ours =
      static_cast<std::byte*>(copy_of(b, has_contents ? Contents::kCopied : Contents::kNone));
  if (ours == nullptr) return -ENOMEM;
  copies_[count_++] = {b, ours, &o};
  arguments_[o.argument] = sys::ptr(ours);
  return 0;
}

bool CopiedCall::put_back(const Copy& copy, long result) {
  const Operand& o = *copy.operand;
  if (o.direction == Direction::kIn) return true;
  std::size_t length = copy.theirs.length;
  if (o.produced == Produced::kResult)
    length = result <= 0 ? 0 : static_cast<std::size_t>(result) * std::max<std::size_t>(o.bytes, 1);
  // The type stands in front of the text, which may be empty.
  if (o.size == Size::kMsgbuf && result >= 0) length += sizeof(long);
  if (o.size == Size::kCountedWord) {
    // The word may be a copy as well.
    std::uint32_t word = 0;
    if (result < 0 ||
        !read_program(memory_, &word, {static_cast<std::uintptr_t>(arguments_[o.by]), sizeof word}))
      return true;
    length = word;
  }
  return store(memory_, copy.theirs, copy.ours, length);
}

// The elements in one piece, if any of them is managed.
long CopiedCall::prepare_vector(const Operand& o) {
  const auto count = static_cast<std::uint64_t>(theirs_[o.by]);
  if (count == 0 || count > kMostVectors) return 0;
  scattered_.vector = {static_cast<std::uintptr_t>(theirs_[o.argument]), count * sizeof(iovec)};
  bool is_managed = false;
  const std::size_t total = total_of(memory_, scattered_.vector, &is_managed);
  if (total == SIZE_MAX || total == 0) return 0;
  if (!is_managed && !memory_.is_managed(scattered_.vector)) return 0;
  scattered_.buffer = scratch_.take(total);
  if (scattered_.buffer == nullptr) return -ENOMEM;
  scattered_.length = total;
  const iovec one{scattered_.buffer, total};
  std::memcpy(scattered_.one, &one, sizeof one);
  arguments_[o.argument] = sys::ptr(scattered_.one);
  arguments_[o.by] = 1;
  return 0;
}

bool CopiedCall::put_back_vector(long result) {
  const std::byte* from = scattered_.buffer;
  auto left = std::min(static_cast<std::size_t>(result), scattered_.length);
  bool could = true;
  for_each_element(memory_, scattered_.vector, [&](Bytes element) {
    element = element.unless_null();
    const std::size_t n = std::min(left, element.length);
    could = store(memory_, element, from, n) && could;
    from += n;
    left -= n;
    return left != 0;
  });
  return could;
}

long CopiedCall::prepare_message(const Operand& o) {
  const Bytes header{static_cast<std::uintptr_t>(theirs_[o.argument]), sizeof(msghdr)};
  msghdr m;
  static_assert(sizeof m == sizeof message_.header && sizeof(iovec) == sizeof scattered_.one);
  if (!read_program(memory_, &m, header)) return 0;
  message_.theirs = header;
  const std::size_t vector_bytes =
      std::min<std::uint64_t>(m.msg_iovlen, kMostVectors) * sizeof(iovec);
  scattered_.vector = bytes_at(m.msg_iov, vector_bytes);
  bool is_managed = false;
  const std::size_t total = total_of(memory_, scattered_.vector, &is_managed);
  if (total == SIZE_MAX || m.msg_iovlen > kMostVectors) {
    message_.theirs = {};
    return 0;
  }
  if (total != 0 && (is_managed || memory_.is_managed(scattered_.vector))) {
    scattered_.buffer = scratch_.take(total);
    if (scattered_.buffer == nullptr) return -ENOMEM;
    scattered_.length = total;
    const iovec one{scattered_.buffer, total};
    std::memcpy(scattered_.one, &one, sizeof one);
    m.msg_iov = reinterpret_cast<iovec*>(scattered_.one);
    m.msg_iovlen = 1;
  }
  const Bytes name = bytes_at(m.msg_name, m.msg_namelen);
  const Bytes control = bytes_at(m.msg_control, m.msg_controllen);
  m.msg_name = copy_of(name, Contents::kNone);
  m.msg_control = copy_of(control, Contents::kCopied);
  if ((m.msg_name == nullptr && name.length != 0) ||
      (m.msg_control == nullptr && control.length != 0))
    return -ENOMEM;
  std::memcpy(message_.header, &m, sizeof m);
  arguments_[o.argument] = sys::ptr(message_.header);
  return 0;
}

// What the kernel tells: lengths and flags, and what they are of.
bool CopiedCall::put_back_message() {
  msghdr ours;
  msghdr theirs;
  std::memcpy(&ours, message_.header, sizeof ours);
  if (!read_program(memory_, &theirs, message_.theirs)) return false;
  bool could = true;
  if (theirs.msg_name != nullptr && ours.msg_name != theirs.msg_name)
    could = store(memory_, bytes_at(theirs.msg_name, theirs.msg_namelen), ours.msg_name,
                  ours.msg_namelen);
  if (theirs.msg_control != nullptr && ours.msg_control != theirs.msg_control)
    could = store(memory_, bytes_at(theirs.msg_control, theirs.msg_controllen), ours.msg_control,
                  ours.msg_controllen) &&
            could;
  theirs.msg_namelen = ours.msg_namelen;
  theirs.msg_controllen = ours.msg_controllen;
  theirs.msg_flags = ours.msg_flags;
  return store(memory_, message_.theirs, &theirs, sizeof theirs) && could;
}

long write_by_copy(Memory& memory, const long* a, bool is_vector) {
  constexpr std::size_t kSmall = 4096;
  std::byte small[kSmall];
  std::size_t length = 0;
  if (is_vector) {
    const auto count = static_cast<std::uint64_t>(a[2]);
    if (count == 0 || count > kMostVectors) return -E2BIG;
    const Bytes vector{static_cast<std::uintptr_t>(a[1]), count * sizeof(iovec)};
    bool is_managed = false;
    if (total_of(memory, vector, &is_managed) > kSmall) return -E2BIG;
    bool could = true;
    could = for_each_element(memory, vector,
                             [&](Bytes element) {
                               element = element.unless_null();
                               could = could && read_program(memory, small + length, element);
                               length += element.length;
                               return could;
                             }) &&
            could;
    if (!could) return -E2BIG;
  } else {
    length = static_cast<std::size_t>(a[2]);
    if (length > kSmall ||
        !read_program(memory, small, {static_cast<std::uintptr_t>(a[1]), length}))
      return -E2BIG;
  }
  memory.count(Event::gate_bounced_bytes, length);
  return sys::call(SYS_write, a[0], sys::ptr(small), static_cast<long>(length));
}

}  // namespace buoy::gate
