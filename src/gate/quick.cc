#include "gate/quick.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "base/sys.h"
#include "gate/descriptor_kinds.h"
#include "gate/gate.h"
#include "gate/pinners.h"
#include "gate/reach.h"
#include "gate/signal_mask.h"
#include "gate/transfer.h"

namespace buoy::gate {

namespace {

constexpr std::uintptr_t kPage = 4096;
// What is looked at of what goes out and of what comes in: as much as Call brings in first.
constexpr std::size_t kLookedAtOut = std::size_t{1} << 20;
constexpr std::size_t kLookedAtIn = std::size_t{16} << 10;
// What a pipe or a log takes as one: see Call::is_atomic_over_pages().
constexpr std::size_t kAtomic = 4096;
// Copies on the stack.
constexpr std::size_t kSmall = 1024;
constexpr unsigned kMostVectors = 16;

Bytes at(long address, std::size_t length) {
  return {static_cast<std::uintptr_t>(address), length};
}

// Vector registers are not used, as memcpy's are.
void copy_bytes(void* to, const void* from, std::size_t length) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
}

bool are_ready(const Memory& memory, Bytes b, PinFor purpose) {
  if (b.length == 0) return true;
  const std::uintptr_t last = b.address + b.length - 1;
  if (last < b.address) return false;
  for (std::uintptr_t page = b.address & ~(kPage - 1); page <= last; page += kPage)
    if (!memory.is_page_ready(page, purpose)) return false;
  return true;
}

// For the kernel, at once: what is not managed is its own matter.
bool is_fit(const Memory& memory, Bytes b, PinFor purpose) {
  return !memory.is_managed(b) || are_ready(memory, b, purpose);
}

// For us.
bool is_readable(const Memory& memory, Bytes b) {
  if (!memory.is_managed(b)) return is_within_reach(b);
  return are_ready(memory, b, PinFor::kReading) && memory.may_touch(b, PinFor::kReading);
}
bool is_writable(const Memory& memory, Bytes b) {
  if (!memory.is_managed(b)) return is_within_reach(b);
  return are_ready(memory, b, PinFor::kWriting) && memory.may_store(b);
}

// Where the kernel may be given memory of this call's own: not on a stack whose pages may leave.
bool is_on_firm_stack(const Memory& memory) {
  return !memory.is_managed_at(reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0)));
}

// ---- One buffer -------------------------------------------------------------------------------

bool loses_nothing(const Frame& f) {
  const DescriptorKind kind = descriptor_kinds.known(static_cast<int>(f.arguments[0]));
  return kind == DescriptorKind::kFile || kind == DescriptorKind::kStream;
}

Quickly read_by_copy(Memory& memory, Frame& f) {
  const Bytes to = at(f.arguments[1], static_cast<std::size_t>(f.arguments[2]));
  if (to.length > kSmall || !is_on_firm_stack(memory) || !memory.is_managed(to) ||
      !are_ready(memory, to, PinFor::kWriting))
    return Quickly::kNot;
  std::byte ours[kSmall];
  f.result = sys::call(f.result, f.arguments[0], sys::ptr(ours), f.arguments[2], f.arguments[3],
                       f.arguments[4], f.arguments[5]);
  if (f.result <= 0) return Quickly::kDone;
  const std::size_t length = std::min(static_cast<std::size_t>(f.result), to.length);
  // It may have waited long. What came is lost then, as natively.
  if (!memory.may_store(to.first(length))) {
    f.result = -EFAULT;
    return Quickly::kDone;
  }
  copy_bytes(to.pointer(), ours, length);
  memory.count(Event::gate_bounced_bytes, length);
  return Quickly::kDone;
}

Quickly transfer(Memory& memory, Frame& f) {
  const bool reads = f.result == SYS_read || f.result == SYS_pread64;
  const Bytes buffer = at(f.arguments[1], static_cast<std::size_t>(f.arguments[2]));
  if (!memory.is_managed(buffer)) return Quickly::kInPlace;
  if (f.result == SYS_read && !loses_nothing(f)) {
    const bool is_known =
        descriptor_kinds.known(static_cast<int>(f.arguments[0])) != DescriptorKind::kUnknown;
    return is_known ? read_by_copy(memory, f) : Quickly::kNot;
  }
  const bool is_one_page = buffer.length <= kPage - buffer.address % kPage;
  if (f.result == SYS_write && !is_one_page && buffer.length <= kAtomic) return Quickly::kNot;
  const Bytes first = buffer.first(reads ? kLookedAtIn : kLookedAtOut);
  return are_ready(memory, first, reads ? PinFor::kWriting : PinFor::kReading) ? Quickly::kInPlace
                                                                               : Quickly::kNot;
}

// recvfrom(2), where nobody asks for the sender.
Quickly receive(Memory& memory, Frame& f) {
  return f.arguments[4] == 0 ? read_by_copy(memory, f) : Quickly::kNot;
}

// send(2), on a connected socket.
Quickly send(const Memory& memory, const Frame& f) {
  const Bytes buffer = at(f.arguments[1], static_cast<std::size_t>(f.arguments[2]));
  const bool is_plain =
      f.arguments[4] == 0 && is_fit(memory, buffer.first(kLookedAtIn), PinFor::kReading);
  return is_plain ? Quickly::kInPlace : Quickly::kNot;
}

// ---- Vectors ----------------------------------------------------------------------------------

// The elements, as they are at this moment: the kernel reads them again.
struct Elements {
  iovec all[kMostVectors];
  unsigned count = 0;
  bool is_known = false;  // the vector could be read
  bool is_fit = true;     // each of them is
  bool is_managed = false;
  bool is_one_page = true;  // all of them lie in one page
  std::size_t total = 0;
};

Bytes bytes_of(const iovec& v) { return {reinterpret_cast<std::uintptr_t>(v.iov_base), v.iov_len}; }

void look_at(const Memory& memory, Bytes vector, PinFor purpose, Elements* e) {
  e->count = static_cast<unsigned>(vector.length / sizeof(iovec));
  if (e->count > kMostVectors || !is_readable(memory, vector)) return;
  e->is_known = true;
  const std::size_t looked_at = purpose == PinFor::kWriting ? kLookedAtIn : kLookedAtOut;
  std::uintptr_t page = 0;
  for (unsigned i = 0; i < e->count; ++i) {
    e->all[i] = reinterpret_cast<const iovec*>(vector.pointer())[i];
    const Bytes b = bytes_of(e->all[i]);
    if (b.length == 0) continue;
    const std::uintptr_t first = b.address & ~(kPage - 1);
    e->is_one_page =
        e->is_one_page && (page == 0 || page == first) && b.length <= kPage - b.address % kPage;
    page = first;
    if (__builtin_add_overflow(e->total, b.length, &e->total)) e->total = SIZE_MAX;
    if (!memory.is_managed(b)) continue;
    e->is_managed = true;
    e->is_fit = e->is_fit && are_ready(memory, b.first(looked_at), purpose);
  }
}

Bytes vector_bytes(std::int64_t address, std::int64_t count) {
  constexpr std::int64_t kTooMany = kMostVectors + 1;
  const std::int64_t taken = count < 0 || count > kTooMany ? kTooMany : count;
  return at(address, static_cast<std::size_t>(taken) * sizeof(iovec));
}

// As one: what lies in two pages could be seen to come in two pieces.
Quickly write_vector(Memory& memory, Frame& f) {
  Elements e;
  look_at(memory, vector_bytes(f.arguments[1], f.arguments[2]), PinFor::kReading, &e);
  if (!e.is_known) return Quickly::kNot;
  if (!e.is_managed || (e.is_one_page && e.is_fit)) return Quickly::kInPlace;
  if (!e.is_fit || e.total > kSmall || !is_on_firm_stack(memory)) return Quickly::kNot;
  std::byte ours[kSmall];
  std::size_t length = 0;
  for (const iovec* v = e.all; v != e.all + e.count; ++v) {
    if (!is_readable(memory, bytes_of(*v))) return Quickly::kNot;
    copy_bytes(ours + length, v->iov_base, v->iov_len);
    length += v->iov_len;
  }
  f.result = sys::call(SYS_write, f.arguments[0], sys::ptr(ours), static_cast<long>(length));
  memory.count(Event::gate_bounced_bytes, length);
  return Quickly::kDone;
}

Quickly transfer_vector(const Memory& memory, const Frame& f, bool reads) {
  Elements e;
  look_at(memory, vector_bytes(f.arguments[1], f.arguments[2]),
          reads ? PinFor::kWriting : PinFor::kReading, &e);
  if (!e.is_known || !e.is_fit) return Quickly::kNot;
  const bool is_positioned = f.result == SYS_preadv || !reads;
  if (!is_positioned && e.is_managed && !loses_nothing(f)) return Quickly::kNot;
  return Quickly::kInPlace;
}

const msghdr* message_at(const Memory& memory, std::int64_t address) {
  const Bytes header = at(address, sizeof(msghdr));
  return is_readable(memory, header) ? reinterpret_cast<const msghdr*>(header.pointer()) : nullptr;
}

Bytes vector_of(const msghdr& m) {
  return vector_bytes(sys::ptr(m.msg_iov), static_cast<std::int64_t>(m.msg_iovlen));
}

Quickly send_message(const Memory& memory, const Frame& f) {
  const msghdr* const m = message_at(memory, f.arguments[1]);
  if (m == nullptr) return Quickly::kNot;
  const Bytes name = at(sys::ptr(m->msg_name), m->msg_namelen).unless_null();
  const Bytes control = at(sys::ptr(m->msg_control), m->msg_controllen).unless_null();
  if (!is_fit(memory, name, PinFor::kReading) || !is_fit(memory, control, PinFor::kReading))
    return Quickly::kNot;
  Elements e;
  look_at(memory, vector_of(*m), PinFor::kReading, &e);
  return e.is_known && e.is_fit ? Quickly::kInPlace : Quickly::kNot;
}

// Nothing is left to do of a vector that is not managed, or of which all has gone.
bool is_vector_done(const Memory& memory, const Frame& f) {
  Elements e;
  if (f.info->number == SYS_sendmsg) {
    const msghdr* const m = message_at(memory, f.arguments[1]);
    if (m == nullptr) return false;
    look_at(memory, vector_of(*m), PinFor::kReading, &e);
  } else {
    look_at(memory, vector_bytes(f.arguments[1], f.arguments[2]), PinFor::kReading, &e);
  }
  return e.is_known && (!e.is_managed || e.total == static_cast<std::size_t>(f.result));
}

// ---- Others -----------------------------------------------------------------------------------

Quickly change_mask(const Memory& memory, Frame& f) {
  const std::int64_t* const a = f.arguments;
  constexpr std::size_t kBytes = sizeof(std::uint64_t);
  const bool is_ours = a[3] == kBytes && is_on_firm_stack(memory) &&
                       (a[1] == 0 || is_readable(memory, at(a[1], kBytes))) &&
                       (a[2] == 0 || is_writable(memory, at(a[2], kBytes)));
  if (!is_ours) return Quickly::kNot;
  const std::uint64_t set =
      a[1] == 0 ? 0 : *reinterpret_cast<const std::uint64_t*>(at(a[1], kBytes).pointer());
  std::uint64_t old = 0;
  f.result = signals::change_mask(a[0], a[1] != 0 ? &set : nullptr, a[2] != 0 ? &old : nullptr);
  if (f.result == 0 && a[2] != 0)
    *reinterpret_cast<std::uint64_t*>(at(a[2], kBytes).pointer()) = old;
  return Quickly::kDone;
}

// With no mask of its own.
Quickly wait_for_events(const Memory& memory, const Frame& f) {
  const bool has_timeout = f.result == SYS_epoll_pwait2 && f.arguments[3] != 0;
  const Bytes events =
      at(f.arguments[1],
         static_cast<std::size_t>(static_cast<unsigned>(f.arguments[2])) * sizeof(epoll_event));
  const bool is_plain = f.arguments[4] == 0 && !has_timeout &&
                        is_fit(memory, events.first(kLookedAtIn), PinFor::kWriting);
  return is_plain ? Quickly::kInPlace : Quickly::kNot;
}

// What it is given lies where no page can be missing, and the kernel keeps nothing of it.
Quickly control(const Memory& memory, const Frame& f) {
  constexpr std::size_t kLargest = std::size_t{1} << 14;  // that a command can say
  const bool is_plain = pinners::is_copying(static_cast<unsigned long>(f.arguments[1])) &&
                        !memory.is_managed(at(f.arguments[2], kLargest));
  return is_plain ? Quickly::kInPlace : Quickly::kNot;
}

constexpr long kDirect = 040000;  // O_DIRECT
constexpr long kSetFlags = 4;     // F_SETFL

Quickly in_place_if(bool is_plain) { return is_plain ? Quickly::kInPlace : Quickly::kNot; }

constinit bool are_opens_routed = false;

Quickly open_with(long flags) {
  constexpr long kToRead = 0;  // O_RDONLY of O_ACCMODE
  constexpr long kAccess = 3;
  return in_place_if((flags & kDirect) == 0 && !(are_opens_routed && (flags & kAccess) == kToRead));
}

Quickly by_number(Memory& memory, Frame& f) {
  switch (f.result) {
    case SYS_read:
    case SYS_pread64:
    case SYS_write:
    case SYS_pwrite64:
      return transfer(memory, f);
    case SYS_sendto:
      return send(memory, f);
    case SYS_recvfrom:
      return receive(memory, f);
    case SYS_writev:
      return write_vector(memory, f);
    case SYS_readv:
    case SYS_preadv:
    case SYS_preadv2:
      return transfer_vector(memory, f, true);
    case SYS_pwritev:
    case SYS_pwritev2:
      return transfer_vector(memory, f, false);
    case SYS_sendmsg:
      return send_message(memory, f);
    case SYS_rt_sigprocmask:
      return change_mask(memory, f);
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
      return wait_for_events(memory, f);
    case SYS_ioctl:
      return control(memory, f);
    case SYS_open:
      return open_with(f.arguments[1]);
    case SYS_openat:
      return open_with(f.arguments[2]);
    case SYS_fcntl:
      return in_place_if(f.arguments[1] != kSetFlags);
    default:
      return Quickly::kNot;
  }
}

}  // namespace

void route_opens() { are_opens_routed = true; }

Quickly quickly(Memory& memory, Frame& f) {
  signals::watch_for_handlers();
  const Quickly answer = by_number(memory, f);
  const bool is_settled = f.info->is_in_place && f.info->has_behind;
  return answer == Quickly::kInPlace && !is_settled ? Quickly::kNot : answer;
}

bool is_done(const Memory& memory, const Frame& f) {
  if (f.result <= 0) return false;
  if (transfer_of(f.info->number).kind == Transfer::Kind::kVector) return is_vector_done(memory, f);
  // The next piece that a stream may have had is copied whole or not at all.
  const auto next = static_cast<std::uintptr_t>(f.arguments[1] + f.result);
  const std::uintptr_t last =
      std::min(next + kPage, static_cast<std::uintptr_t>(f.arguments[1] + f.arguments[2])) - 1;
  return f.info->number == SYS_read &&
         descriptor_kinds.known(static_cast<int>(f.arguments[0])) == DescriptorKind::kStream &&
         memory.is_page_ready(next, PinFor::kWriting) &&
         memory.is_page_ready(last, PinFor::kWriting);
}

}  // namespace buoy::gate
