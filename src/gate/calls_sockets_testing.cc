// Calls on sockets, POSIX and System V messages and semaphores.
#include <fcntl.h>
#include <linux/filter.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <memory>

#include "gate/calls_testing.h"

namespace buoy::gate::calls {
namespace {

constexpr std::size_t kSome = 100;

sockaddr_in loopback(int fd) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof a);
  socklen_t size = sizeof a;
  getsockname(fd, reinterpret_cast<sockaddr*>(&a), &size);
  return a;
}

// A socket whose datagrams come back to it.
struct Echo {
  int fd;
  sockaddr_in address;
};

Echo new_echo() {
  const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  return {fd, loopback(fd)};
}
void send_one(const Echo& e) {
  const std::array<char, kSome> data{};
  sendto(e.fd, data.data(), data.size(), 0, reinterpret_cast<const sockaddr*>(&e.address),
         sizeof e.address);
}
void drain(int fd) {
  char data[4096];
  while (recv(fd, data, sizeof data, MSG_DONTWAIT) >= 0) {
  }
}

const Argument kAddressSize = copy_of(std::uint32_t{sizeof(sockaddr_in)});

Call bind_one() {
  // Bound already, which is seen after the address: EINVAL, every time.
  const Echo e = new_echo();
  return {{e.fd, copy_of(e.address), sizeof(sockaddr_in)}};
}
Call connect_one() {
  const Echo e = new_echo();
  return {{e.fd, copy_of(e.address), sizeof(sockaddr_in)}};
}

Call accept_one(bool with_flags) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  const sockaddr_in address = loopback(listener);
  listen(listener, 50);
  Call c{{listener, room(sizeof address), kAddressSize},
         [=] {
           const int fd = socket(AF_INET, SOCK_STREAM, 0);
           connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
           close(fd);
         },
         [=](long fd) {
           close_result(fd);
           while ((fd = accept(listener, nullptr, nullptr)) >= 0) close_result(fd);
         }};
  if (with_flags) c.arguments.emplace_back(SOCK_CLOEXEC);
  c.same_result = false;
  return c;
}

Call send_to() {
  const Echo e = new_echo();
  return {{e.fd, room(kSome), kSome, 0, copy_of(e.address), sizeof(sockaddr_in)}, {}, [=](long) {
            drain(e.fd);
          }};
}
Call receive_from() {
  const Echo e = new_echo();
  return {{e.fd, room(2 * kSome), 2 * kSome, 0, room(sizeof(sockaddr_in)), kAddressSize},
          [=] { send_one(e); },
          [=](long) { drain(e.fd); }};
}

// With its data, and only that, at the end of the page.
msghdr message_of(std::uint8_t* page, const sockaddr_in* address) {
  msghdr m{};
  m.msg_iov = lasting(iovec{page + kPageBytes - kSome, kSome});
  m.msg_iovlen = 1;
  if (address != nullptr) {
    m.msg_name = lasting(*address);
    m.msg_namelen = sizeof *address;
  }
  return m;
}

Call send_message() {
  const Echo e = new_echo();
  std::uint8_t* page = own_page();
  return {.arguments = {e.fd, copy_of(message_of(page, &e.address)), 0},
          .after = [=](long) { drain(e.fd); },
          .inner = page};
}
Call receive_message() {
  const Echo e = new_echo();
  std::uint8_t* page = own_page();
  return {.arguments = {e.fd, copy_of(message_of(page, nullptr)), 0},
          .before = [=] { send_one(e); },
          .after = [=](long) { drain(e.fd); },
          .inner = page};
}
Call send_messages() {
  const Echo e = new_echo();
  std::uint8_t* page = own_page();
  const mmsghdr one{message_of(page, &e.address), 0};
  return {.arguments = {e.fd, copy_of(std::array<mmsghdr, 2>{one, one}), 2, 0},
          .after = [=](long) { drain(e.fd); },
          .inner = page};
}
Call receive_messages() {
  const Echo e = new_echo();
  std::uint8_t* page = own_page();
  const mmsghdr one{message_of(page, nullptr), 0};
  return {
      .arguments = {e.fd, copy_of(std::array<mmsghdr, 2>{one, one}), 2, 0, copy_of(timespec{1, 0})},
      .before =
          [=] {
            send_one(e);
            send_one(e);
          },
      .after = [=](long) { drain(e.fd); },
      .inner = page};
}

Call own_name() { return {{new_echo().fd, room(sizeof(sockaddr_in)), kAddressSize}}; }
Call peer_name() {
  const Echo e = new_echo();
  connect(e.fd, reinterpret_cast<const sockaddr*>(&e.address), sizeof e.address);
  return {{e.fd, room(sizeof(sockaddr_in)), kAddressSize}};
}
Call set_option() {
  return {{new_echo().fd, SOL_SOCKET, SO_LINGER, copy_of(linger{0, 3}), sizeof(linger)}};
}
// A filter that takes everything.
Call attach_filter() {
  std::uint8_t* page = own_page();
  const sock_filter all{BPF_RET | BPF_K, 0, 0, 0xffff};
  auto* at = page + kPageBytes - sizeof all;
  std::memcpy(at, &all, sizeof all);
  const sock_fprog program{1, reinterpret_cast<sock_filter*>(at)};
  return {
      .arguments = {new_echo().fd, SOL_SOCKET, SO_ATTACH_FILTER, copy_of(program), sizeof program},
      .inner = page};
}
Call get_option() {
  return {{new_echo().fd, SOL_SOCKET, SO_LINGER, room(sizeof(linger)),
           copy_of(std::uint32_t{sizeof(linger)})}};
}

// ---------------------------------------------------------------- queues and semaphores

int g_queue_number = 0;

mqd_t new_queue() {
  mq_attr form{};
  form.mq_maxmsg = 4;
  form.mq_msgsize = kSome;
  const std::string name =
      "/buoy-calls-" + std::to_string(getpid()) + "-" + std::to_string(++g_queue_number);
  const mqd_t q = mq_open(name.c_str(), O_RDWR | O_CREAT | O_NONBLOCK, 0600, &form);
  mq_unlink(name.c_str());
  return q;
}
void drain_queue(mqd_t q) {
  char data[kSome];
  while (mq_receive(q, data, sizeof data, nullptr) >= 0) {
  }
}
Argument far_away() { return copy_of(timespec{1LL << 33, 0}); }

Call open_queue() {
  mq_attr form{};
  form.mq_maxmsg = 4;
  form.mq_msgsize = kSome;
  const std::string name = "buoy-calls-" + std::to_string(getpid());
  return {{text(name), O_RDWR | O_CREAT, 0600, copy_of(form)}, {}, [=](long fd) {
            close_result(fd);
            syscall(SYS_mq_unlink, name.c_str());
          }};
}
Call remove_queue() { return {{text("buoy-calls-none")}}; }
Call send_to_queue() {
  const mqd_t q = new_queue();
  return {{q, room(kSome), kSome, 0, far_away()}, {}, [q](long) { drain_queue(q); }};
}
Call receive_from_queue() {
  const mqd_t q = new_queue();
  return {{q, room(2 * kSome), 2 * kSome, room(4), far_away()},
          [q] {
            const std::array<char, kSome> data{};
            mq_send(q, data.data(), data.size(), 0);
          },
          [q](long) { drain_queue(q); }};
}
Call be_notified() {
  const mqd_t q = new_queue();
  sigevent event{};
  event.sigev_notify = SIGEV_NONE;
  return {{q, copy_of(event)}, {}, [q](long) { mq_notify(q, nullptr); }};
}
Call queue_attributes() { return {{new_queue(), room(64), room(64)}}; }

struct Letter {
  long type = 1;
  char data[kSome] = {};
};

int new_letter_box() { return msgget(IPC_PRIVATE, 0600 | IPC_CREAT); }
void empty_box(int box) {
  Letter letter;
  while (msgrcv(box, &letter, sizeof letter.data, 0, IPC_NOWAIT) >= 0) {
  }
}
// The box goes with the last use of it.
std::shared_ptr<int> letter_box() {
  return {new int(new_letter_box()), [](int* box) {
            msgctl(*box, IPC_RMID, nullptr);
            delete box;
          }};
}
std::shared_ptr<int> semaphore() {
  return {new int(semget(IPC_PRIVATE, 1, 0600 | IPC_CREAT)), [](int* semaphores) {
            semctl(*semaphores, 0, IPC_RMID);
            delete semaphores;
          }};
}

Argument letter_of(const Letter& letter) {
  Argument a = room(8 + kSome);
  std::memcpy(a.bytes.data(), &letter, a.bytes.size());
  return a;
}

Call send_letter() {
  const auto box = letter_box();
  return {{*box, letter_of(Letter{}), kSome, IPC_NOWAIT}, {}, [box](long) { empty_box(*box); }};
}
Call receive_letter() {
  const auto box = letter_box();
  return {{*box, room(8 + kSome), kSome, 0, IPC_NOWAIT},
          [box] {
            const Letter letter;
            msgsnd(*box, &letter, sizeof letter.data, 0);
          },
          [box](long) { empty_box(*box); }};
}
Call operate(bool with_time) {
  const auto set = semaphore();
  Call c{{*set, copy_of(std::array<sembuf, 2>{sembuf{0, 1, 0}, sembuf{0, -1, 0}}), 2},
         {},
         [set](long) {}};
  if (with_time) c.arguments.push_back(copy_of(timespec{1, 0}));
  return c;
}

}  // namespace

Calls socket_calls() {
  return {
      {42, connect_one},
      {43, [] { return accept_one(false); }},
      {44, send_to},
      {45, receive_from},
      {46, send_message},
      {47, receive_message},
      {49, bind_one},
      {51, own_name},
      {52, peer_name},
      {53,
       [] {
         return Call{{AF_UNIX, SOCK_STREAM, 0, room(8)}};
       }},
      {54, set_option},
      {54, attach_filter},
      {55, get_option},
      {65, [] { return operate(false); }},
      {69, send_letter},
      {70, receive_letter},
      {220, [] { return operate(true); }},
      {240, open_queue},
      {241, remove_queue},
      {242, send_to_queue},
      {243, receive_from_queue},
      {244, be_notified},
      {245, queue_attributes},
      {288, [] { return accept_one(true); }},
      {299, receive_messages},
      {307, send_messages},
  };
}

}  // namespace buoy::gate::calls
