#include "gate/copied_messages.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/parts.h"
#include "gate/scratch.h"

namespace buoy::gate {

namespace {

constexpr std::uint64_t kMostMessages = 1024;  // UIO_MAXIOV, at which the kernel cuts as well
constexpr std::size_t kAlignment = 16;

Bytes at(std::uintptr_t address, std::size_t length) { return {address, length}; }
Bytes at(const void* p, std::size_t length) {
  return {reinterpret_cast<std::uintptr_t>(p), length};
}

std::size_t aligned(std::size_t n) { return (n + kAlignment - 1) & ~(kAlignment - 1); }

// The program's messages, and where the copies of each of them lie.
class Received {
 public:
  Received(Memory& memory, const long* a)
      : memory_(memory),
        theirs_(static_cast<std::uintptr_t>(a[1])),
        count_(std::min<std::uint64_t>(static_cast<std::uint32_t>(a[2]), kMostMessages)) {}

  // 0 or an error.
  long prepare() {
    std::size_t bytes = aligned(count_ * sizeof(mmsghdr));
    for (std::uint64_t i = 0; i < count_; ++i) {
      mmsghdr m;
      if (!read(i, &m)) return -EFAULT;
      const Room room = room_of(m.msg_hdr);
      // Fewer messages than asked for may always come.
      if (i != 0 && (room.is_bad || bytes + room.all() > Scratch::kMost)) {
        count_ = i;
        break;
      }
      if (room.is_bad) return -EMSGSIZE;
      bytes += room.all();
    }
    std::byte* const ours = scratch_.take(bytes);
    if (ours == nullptr) return -ENOMEM;
    copies_ = reinterpret_cast<mmsghdr*>(ours);
    std::byte* next = ours + aligned(count_ * sizeof(mmsghdr));
    for (std::uint64_t i = 0; i < count_; ++i)
      if (!fill(i, ours + bytes, &next)) return -EFAULT;
    return 0;
  }

  [[nodiscard]] long ours() const { return sys::ptr(copies_); }
  [[nodiscard]] std::uint64_t count() const { return count_; }

  void put_back(std::uint64_t received) {
    for (std::uint64_t i = 0; i < received; ++i) {
      mmsghdr m;
      if (!read(i, &m)) return;
      const mmsghdr& copy = copies_[i];
      const msghdr& ours = copy.msg_hdr;
      scatter(m.msg_hdr, ours.msg_iov->iov_base, copy.msg_len);
      if (m.msg_hdr.msg_name != nullptr)
        put(m.msg_hdr.msg_name, ours.msg_name, m.msg_hdr.msg_namelen, ours.msg_namelen);
      if (m.msg_hdr.msg_control != nullptr)
        put(m.msg_hdr.msg_control, ours.msg_control, m.msg_hdr.msg_controllen, ours.msg_controllen);
      m.msg_hdr.msg_namelen = ours.msg_namelen;
      m.msg_hdr.msg_controllen = ours.msg_controllen;
      m.msg_hdr.msg_flags = ours.msg_flags;
      m.msg_len = copy.msg_len;
      (void)write_program(memory_, at(theirs_ + i * sizeof m, sizeof m), &m);
    }
  }

 private:
  struct Room {
    std::size_t name = 0, control = 0, data = 0;
    bool is_bad = false;
    [[nodiscard]] std::size_t all() const {
      return sizeof(iovec) + aligned(name) + aligned(control) + aligned(data);
    }
  };

  bool read(std::uint64_t i, mmsghdr* m) {
    return read_program(memory_, m, at(theirs_ + i * sizeof *m, sizeof *m));
  }

  Room room_of(const msghdr& m) {
    Room room;
    room.name = m.msg_name == nullptr ? 0 : m.msg_namelen;
    room.control = m.msg_control == nullptr ? 0 : m.msg_controllen;
    if (m.msg_iovlen > kMostVectors) return {0, 0, 0, true};
    for (std::uint64_t k = 0; k < m.msg_iovlen; ++k) {
      iovec v;
      if (!read_program(memory_, &v, at(m.msg_iov + k, sizeof v))) return {0, 0, 0, true};
      // No message is longer.
      room.data = std::min(room.data + std::min(v.iov_len, Scratch::kMost), Scratch::kMost / 2);
    }
    room.name = std::min<std::size_t>(room.name, sizeof(sockaddr_storage));
    room.is_bad = room.control > Scratch::kMost / 4;
    return room;
  }

  bool fill(std::uint64_t i, const std::byte* end, std::byte** next) {
    mmsghdr m;
    if (!read(i, &m)) return false;
    const Room room = room_of(m.msg_hdr);
    // Somebody else has made it longer meanwhile.
    if (room.is_bad || room.all() > static_cast<std::size_t>(end - *next)) return false;
    msghdr& ours = copies_[i].msg_hdr;
    ours = m.msg_hdr;
    const auto take = [&](std::size_t bytes) {
      std::byte* const p = *next;
      *next += aligned(bytes);
      return p;
    };
    auto* const vector = reinterpret_cast<iovec*>(take(sizeof(iovec)));
    if (m.msg_hdr.msg_name != nullptr) ours.msg_name = take(room.name);
    if (m.msg_hdr.msg_control != nullptr) {
      ours.msg_control = take(room.control);
      if (!read_program(memory_, ours.msg_control, at(m.msg_hdr.msg_control, room.control)))
        return false;
    }
    *vector = {take(room.data), room.data};
    ours.msg_iov = vector;
    ours.msg_iovlen = 1;
    copies_[i].msg_len = 0;
    return true;
  }

  void put(void* to, const void* from, std::size_t room, std::size_t length) {
    (void)write_program(memory_, at(to, std::min(room, length)), from);
  }

  void scatter(const msghdr& m, const void* data, std::size_t length) {
    const auto* from = static_cast<const std::byte*>(data);
    for (std::uint64_t k = 0; k < m.msg_iovlen && length != 0; ++k) {
      iovec v;
      if (!read_program(memory_, &v, at(m.msg_iov + k, sizeof v))) return;
      const std::size_t n = std::min(v.iov_len, length);
      if (n != 0) (void)write_program(memory_, at(v.iov_base, n), from);
      memory_.count(Event::gate_bounced_bytes, n);
      from += n;
      length -= n;
    }
  }

  Memory& memory_;
  std::uintptr_t theirs_;
  std::uint64_t count_;
  Scratch scratch_;
  mmsghdr* copies_ = nullptr;
};

}  // namespace

long receive_messages(Memory& memory, const long* a) {
  memory.count(Event::gate_copy);
  Received received(memory, a);
  if (const long error = received.prepare(); error != 0) return error;
  timespec timeout;
  const Bytes told = at(static_cast<std::uintptr_t>(a[4]), sizeof timeout);
  if (a[4] != 0 && !read_program(memory, &timeout, told)) return -EFAULT;
  const long result =
      sys::call(SYS_recvmmsg, a[0], received.ours(), static_cast<long>(received.count()), a[3],
                a[4] != 0 ? sys::ptr(&timeout) : 0);
  if (result <= 0) return result;
  received.put_back(static_cast<std::uint64_t>(result));
  if (a[4] != 0) (void)write_program(memory, told, &timeout);
  return result;
}

long send_messages(Memory& memory, const long* a) {
  const auto count = std::min<std::uint64_t>(static_cast<std::uint32_t>(a[2]), kMostMessages);
  std::uint64_t sent = 0;
  while (sent < count) {
    const auto message = static_cast<std::uintptr_t>(a[1]) + sent * sizeof(mmsghdr);
    const long r = call(SYS_sendmsg, a[0], static_cast<long>(message), a[3]);
    if (r < 0) return sent == 0 ? r : static_cast<long>(sent);
    const auto length = static_cast<unsigned>(r);
    const Bytes told = at(message + offsetof(mmsghdr, msg_len), sizeof length);
    if (!write_program(memory, told, &length)) return sent == 0 ? -EFAULT : static_cast<long>(sent);
    ++sent;
  }
  return static_cast<long>(sent);
}

}  // namespace buoy::gate
