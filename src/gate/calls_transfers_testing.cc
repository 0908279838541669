// Calls that move data through descriptors, wait for them or make them; asynchronous ones.
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>

#include "gate/calls_testing.h"

namespace buoy::gate::calls {
namespace {

constexpr std::size_t kSome = 100;
constexpr long kNearEnd = 5000 - 70;  // of the file: less comes than there is room for

struct Pipe {
  int reads, writes;
};

Pipe new_pipe() {
  int ends[2];
  if (pipe2(ends, O_NONBLOCK) != 0) return {-1, -1};
  return {ends[0], ends[1]};
}
void fill(Pipe p) {
  static const std::array<char, kSome> data{};
  (void)!write(p.writes, data.data(), data.size());
}
void drain(Pipe p) {
  char data[4096];
  while (read(p.reads, data, sizeof data) > 0) {
  }
}

int a_file() { return open("file", O_RDWR); }

Call read_file() {
  const int fd = a_file();
  return {{fd, room(kSome), kSome}, [fd] { lseek(fd, kNearEnd, SEEK_SET); }};
}
Call write_pipe() {
  const Pipe p = new_pipe();
  return {{p.writes, room(kSome), kSome}, {}, [p](long) { drain(p); }};
}
Call read_at() { return {{a_file(), room(kSome), kSome, kNearEnd}}; }
Call write_at() { return {{a_file(), room(kSome), kSome, 10}}; }

// Two parts, at the end of a page.
Argument vector_of_two(std::uint8_t* page) {
  std::uint8_t* data = page + kPageBytes - kSome;
  return copy_of(std::array<iovec, 2>{iovec{data, 60}, iovec{data + 60, 40}});
}

NamedCall vector_at(long number, bool of_flags) {
  return {number, [=] {
            std::uint8_t* page = own_page();
            Call c{.arguments = {a_file(), vector_of_two(page), 2, 0, 0}, .inner = page};
            if (of_flags) c.arguments.emplace_back(0);
            return c;
          }};
}

Call read_vector() {
  const int fd = a_file();
  std::uint8_t* page = own_page();
  return {.arguments = {fd, vector_of_two(page), 2},
          .before = [fd] { lseek(fd, 0, SEEK_SET); },
          .inner = page};
}
Call write_vector() {
  const Pipe p = new_pipe();
  std::uint8_t* page = own_page();
  return {.arguments = {p.writes, vector_of_two(page), 2},
          .after = [p](long) { drain(p); },
          .inner = page};
}
Call lend_vector() {
  Call c = write_vector();
  c.arguments.emplace_back(0);
  return c;
}

Argument offset() { return copy_of(std::int64_t{10}); }

Call send_file() {
  const Pipe p = new_pipe();
  return {{p.writes, a_file(), offset(), kSome}, {}, [p](long) { drain(p); }};
}
Call splice_out_of_file() {
  const Pipe p = new_pipe();
  return {{a_file(), offset(), p.writes, 0, kSome, 0}, {}, [p](long) { drain(p); }};
}
Call splice_into_file() {
  const Pipe p = new_pipe();
  return {{p.reads, 0, a_file(), offset(), kSome, 0}, [p] { fill(p); }, [p](long) { drain(p); }};
}
Call copy_range() {
  const int to = open("copy", O_RDWR | O_CREAT, 0600);
  return {{a_file(), offset(), to, offset(), kSome, 0}};
}

NamedCall simple(long number, std::vector<Argument> arguments,
                 std::function<void(long)> after = {}) {
  return {number, [=] { return Call{arguments, {}, after}; }};
}

Call wait_in_poll(bool with_mask) {
  const Pipe p = new_pipe();
  fill(p);
  Argument fds =
      copy_of(std::array<pollfd, 2>{pollfd{p.reads, POLLIN, 0}, pollfd{p.writes, POLLOUT, 0}});
  if (!with_mask) return {{fds, 2, 1000}};
  // The time that is left: not written back, and nothing said.
  return {{fds, 2, copy_of(timespec{1, 0}), room(8), 8}, {}, {}, 1U << 2};
}

Argument set_of(int fd) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  Argument a = room(8 * static_cast<std::size_t>(fd / 64 + 1));
  std::memcpy(a.bytes.data(), &set, a.bytes.size());
  return a;
}

Call wait_in_select() {
  const Pipe p = new_pipe();
  fill(p);
  // The time that is left: not written back, and nothing said.
  return {
      {p.writes + 1, set_of(p.reads), set_of(p.writes), set_of(p.writes), copy_of(timeval{1, 0})},
      {},
      {},
      1U << 4};
}

struct SigsetPair {
  const void* set;
  std::size_t size;
};

Argument sigset_pair(std::uint8_t* page) { return copy_of(SigsetPair{page + kPageBytes - 8, 8}); }

Call wait_in_pselect() {
  Call c = wait_in_select();
  c.arguments[4] = copy_of(timespec{1, 0});
  std::uint8_t* page = own_page();
  c.arguments.push_back(sigset_pair(page));
  c.inner = page;
  return c;
}

struct Epoll {
  int fd;
  Pipe pipe;
};

Epoll ready_epoll() {
  const Epoll e{epoll_create1(0), new_pipe()};
  fill(e.pipe);
  epoll_event event{.events = EPOLLIN, .data = {.u64 = 7}};
  epoll_ctl(e.fd, EPOLL_CTL_ADD, e.pipe.reads, &event);
  event.events = EPOLLOUT;
  epoll_ctl(e.fd, EPOLL_CTL_ADD, e.pipe.writes, &event);
  return e;
}

Call wait_in_epoll() { return {{ready_epoll().fd, room(36), 3, 1000}}; }
Call wait_in_epoll_with_mask() { return {{ready_epoll().fd, room(36), 3, 1000, room(8), 8}}; }
Call wait_in_epoll_by_timespec() {
  return {{ready_epoll().fd, room(36), 3, copy_of(timespec{1, 0}), room(8), 8}};
}
Call change_epoll() {
  const Epoll e = ready_epoll();
  return {{e.fd, EPOLL_CTL_MOD, e.pipe.reads, copy_of(epoll_event{.events = EPOLLIN, .data = {}})}};
}

// ---------------------------------------------------------------- asynchronous

unsigned long new_context() {
  unsigned long context = 0;
  syscall(SYS_io_setup, 8, &context);
  return context;
}

void submit_one(unsigned long context) {
  static char data[64];
  static const int fd = a_file();
  iocb block{};
  block.aio_lio_opcode = IOCB_CMD_PREAD;
  block.aio_fildes = static_cast<std::uint32_t>(fd);
  block.aio_buf = reinterpret_cast<std::uintptr_t>(data);
  block.aio_nbytes = sizeof data;
  iocb* blocks[] = {&block};
  syscall(SYS_io_submit, context, 1, blocks);
}

void drain_events(unsigned long context) {
  io_event events[8];
  timespec now{};
  while (syscall(SYS_io_getevents, context, 0, 8, events, &now) > 0) {
  }
}

Call io_events(bool with_mask) {
  const unsigned long context = new_context();
  Call c{{context, 1, 2, room(64), copy_of(timespec{1, 0})},
         [=] { submit_one(context); },
         [=](long) { drain_events(context); }};
  if (!with_mask) return c;
  std::uint8_t* page = own_page();
  c.arguments.push_back(sigset_pair(page));
  c.inner = page;
  return c;
}

Call io_submission() {
  auto* block = lasting(iocb{});
  block->aio_lio_opcode = IOCB_CMD_PREAD;
  block->aio_fildes = static_cast<std::uint32_t>(a_file());
  block->aio_buf = reinterpret_cast<std::uintptr_t>(lasting(std::array<char, 64>{}));
  block->aio_nbytes = 64;
  return {{new_context(), 1, copy_of(std::array<iocb*, 1>{block})}};
}

Call io_cancellation() {
  // Of the block only a word within is read; the event is never written.
  return {{new_context(), room(64), room(32)}, {}, {}, 3U << 1};
}

}  // namespace

Calls transfer_calls() {
  return {
      {0, read_file},
      {1, write_pipe},
      {7, [] { return wait_in_poll(false); }},
      {17, read_at},
      {18, write_at},
      {19, read_vector},
      {20, write_vector},
      simple(22, {room(8)}),
      {23, wait_in_select},
      {40, send_file},
      simple(206, {1, room(8)}),
      {208, [] { return io_events(false); }},
      {209, io_submission},
      {210, io_cancellation},
      {232, wait_in_epoll},
      {233, change_epoll},
      {270, wait_in_pselect},
      {271, [] { return wait_in_poll(true); }},
      {275, splice_out_of_file},
      {275, splice_into_file},
      {278, lend_vector},
      {281, wait_in_epoll_with_mask},
      simple(282, {-1, room(8), 8}, close_result),
      simple(289, {-1, room(8), 8, 0}, close_result),
      simple(293, {room(8), O_CLOEXEC}),
      vector_at(295, false),
      vector_at(296, false),
      simple(319, {text("name"), 0}, close_result),
      {326, copy_range},
      vector_at(327, true),
      vector_at(328, true),
      {333, [] { return io_events(true); }},
      simple(425, {4, room(120)}, close_result),
      {441, wait_in_epoll_by_timespec},
  };
}

}  // namespace buoy::gate::calls
