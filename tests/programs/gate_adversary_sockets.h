// The adversary's calls on sockets of every kind, and on other descriptors whose bytes are gone once
// they were read: events, timers, signals, terminals, notifications, message queues.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <mqueue.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <pty.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

#include <string>

#include "gate_places.h"

namespace gate_testing {

class SocketCalls {
 public:
  SocketCalls(Places& places, const Reference& reference) : p_(places), r_(reference) {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, stream_) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, datagram_) == 0);
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packet_) == 0);
    for (const int fd :
         {stream_[0], stream_[1], datagram_[0], datagram_[1], packet_[0], packet_[1]})
      for (const int option : {SO_SNDBUF, SO_RCVBUF}) {
        const int bytes = 1 << 20;
        CHECK(setsockopt(fd, SOL_SOCKET, option, &bytes, sizeof bytes) == 0);
      }
    udp_[0] = bound(SOCK_DGRAM, &udp_name_);
    udp_[1] = bound(SOCK_DGRAM, &udp_other_);
    CHECK(connect(udp_[1], name(udp_name_), sizeof udp_name_) == 0);
    listener_ = bound(SOCK_STREAM, &tcp_name_);
    CHECK(listen(listener_, 16) == 0);
    tcp_[1] = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(tcp_[1], name(tcp_name_), sizeof tcp_name_) == 0);
    tcp_[0] = accept(listener_, nullptr, nullptr);
    CHECK(tcp_[0] >= 0);
    netlink_ = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    CHECK(netlink_ >= 0);
    event_ = eventfd(0, 0);
    timer_ = timerfd_create(CLOCK_MONOTONIC, 0);
    sigset_t usr2;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    signals_ = signalfd(-1, &usr2, 0);
    termios raw{};
    CHECK(openpty(&master_, &slave_, nullptr, nullptr, nullptr) == 0);
    CHECK(tcgetattr(slave_, &raw) == 0);
    cfmakeraw(&raw);
    CHECK(tcsetattr(slave_, TCSANOW, &raw) == 0);
    watched_ = "/tmp/gate_watched." + std::to_string(getpid());
    CHECK(mkdir(watched_.c_str(), 0700) == 0);
    notifier_ = inotify_init1(0);
    CHECK(inotify_add_watch(notifier_, watched_.c_str(), IN_CREATE) >= 0);
    epoll_ = epoll_create1(0);
    epoll_event e{};
    e.events = EPOLLIN | EPOLLET;
    e.data.u64 = 0x1234567890ULL;
    CHECK(epoll_ctl(epoll_, EPOLL_CTL_ADD, event_, &e) == 0);
    queue_ = msgget(IPC_PRIVATE, 0600);
    const std::string mq = "/gate." + std::to_string(getpid());
    mq_attr attributes{};
    attributes.mq_maxmsg = 4;
    attributes.mq_msgsize = 8192;
    posix_queue_ = mq_open(mq.c_str(), O_RDWR | O_CREAT, 0600, &attributes);
    mq_unlink(mq.c_str());
  }
  ~SocketCalls() {
    rmdir(watched_.c_str());
    if (queue_ >= 0) msgctl(queue_, IPC_RMID, nullptr);
  }
  SocketCalls(const SocketCalls&) = delete;
  SocketCalls& operator=(const SocketCalls&) = delete;

  // Datagrams of every kind, by every call: each arrives once, whole, with its sender.
  void datagrams() {
    struct Pair {
      int to, from;
      std::size_t most;
    };
    const Pair pairs[] = {{udp_[0], udp_[1], 60000},
                          {datagram_[0], datagram_[1], 65536},
                          {packet_[0], packet_[1], 65536}};
    const Pair& pair = pairs[p_.random().below(3)];
    const std::size_t n = p_.random().between(1, p_.random().one_in(3) ? pair.most : 3000);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    const char* const sent = p_.in(r_.at(from), n);
    const bool is_by_write = p_.random().one_in(2);
    EXPECT((is_by_write ? write(pair.from, sent, n) : send(pair.from, sent, n, 0)) ==
           signed_size(n));
    const std::size_t room = p_.random().one_in(4) ? n : std::min(Places::kMost, n + 5000);
    char* const to = p_.out(room);
    ssize_t got = 0;
    switch (p_.random().below(4)) {
      case 0:
        got = read(pair.to, to, room);
        break;
      case 1:
        got = recv(pair.to, to, room, 0);
        break;
      case 2: {
        auto* const sender = p_.out<sockaddr_in>();
        auto* const length = p_.in(socklen_t{sizeof(sockaddr_in)});
        got = recvfrom(pair.to, to, room, 0, name(*sender), length);
        if (pair.to == udp_[0])
          EXPECT(*length == sizeof(sockaddr_in) && sender->sin_port == udp_other_.sin_port);
        break;
      }
      default: {
        const std::size_t first = p_.random().below(room);
        char* const second = p_.out(room - first);
        iovec v[2] = {{to, first}, {second, room - first}};
        const auto* const vector = reinterpret_cast<iovec*>(p_.in(v, sizeof v));
        got = readv(pair.to, vector, 2);
        const std::size_t in_first = std::min(first, n);
        EXPECT(same(to, from, in_first) && same(second, from + in_first, n - in_first));
        EXPECT(got == signed_size(n));
        is_empty(pair.to);
        return;
      }
    }
    EXPECT(got == signed_size(n) && same(to, from, n));
    is_empty(pair.to);
  }

  // Cut short: the rest is gone, and that is said.
  void cut_datagrams() {
    const std::size_t n = p_.random().between(100, 3000);
    EXPECT(send(udp_[1], p_.in(r_.at(0), n), n, 0) == signed_size(n));
    char* const to = p_.out(50);
    EXPECT(recv(udp_[0], to, 50, MSG_PEEK | MSG_TRUNC) == signed_size(n) && same(to, 0, 50));
    char* const again = p_.out(60);
    EXPECT(recv(udp_[0], again, 50, MSG_TRUNC) == signed_size(n) && same(again, 0, 50));
    EXPECT(std::string(again + 50, 10) == std::string(10, '\xa5'));
    is_empty(udp_[0]);
  }

  void streams() {
    const bool is_tcp = p_.random().one_in(2);
    const int to = is_tcp ? tcp_[0] : stream_[0];
    const int from_fd = is_tcp ? tcp_[1] : stream_[1];
    const std::size_t n = p_.random().between(1, 65536);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    const std::size_t first = p_.random().below(n);
    iovec v[2] = {{p_.in(r_.at(from), first + 1), first},
                  {p_.in(r_.at(from + first), n - first), n - first}};
    msghdr m{};
    m.msg_iov = reinterpret_cast<iovec*>(p_.in(v, sizeof v));
    m.msg_iovlen = 2;
    switch (p_.random().below(4)) {
      case 0:
        EXPECT(write(from_fd, p_.in(r_.at(from), n), n) == signed_size(n));
        break;
      case 1:
        EXPECT(send(from_fd, p_.in(r_.at(from), n), n, MSG_NOSIGNAL) == signed_size(n));
        break;
      case 2:
        EXPECT(writev(from_fd, m.msg_iov, 2) == signed_size(n));
        break;
      default:
        EXPECT(sendmsg(from_fd, p_.in(m), MSG_NOSIGNAL) == signed_size(n));
        break;
    }
    std::size_t done = 0;
    while (done < n) {
      char* const buffer = p_.out(n - done);
      const ssize_t got = receive(to, buffer, n - done);
      if (!EXPECT(got > 0)) return;
      EXPECT(same(buffer, from + done, static_cast<std::size_t>(got)));
      done += static_cast<std::size_t>(got);
    }
    is_empty(to);
  }

  // Descriptors that are handed over arrive, all of them.
  void control_data() {
    constexpr int kHanded = 3;
    int fds[kHanded];
    for (int i = 0; i < kHanded; ++i) fds[i] = eventfd(static_cast<unsigned>(i) + 5, EFD_NONBLOCK);
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fds)] = {};
    const std::size_t n = p_.random().between(1, 5000);
    iovec v{p_.in(r_.at(9), n), n};
    msghdr m{};
    m.msg_iov = p_.in(v);
    m.msg_iovlen = 1;
    m.msg_control = control;
    m.msg_controllen = sizeof control;
    cmsghdr* const c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fds);
    std::memcpy(CMSG_DATA(c), fds, sizeof fds);
    m.msg_control = p_.in(control, sizeof control);
    const bool is_stream = p_.random().one_in(2);
    EXPECT(sendmsg(is_stream ? stream_[1] : packet_[1], p_.in(m), 0) == signed_size(n));
    for (const int fd : fds) close(fd);
    v = {p_.out(n), n};
    m.msg_iov = p_.in(v);
    m.msg_control = p_.out(sizeof control);
    auto* const received = p_.in(m);
    EXPECT(recvmsg(is_stream ? stream_[0] : packet_[0], received, MSG_CMSG_CLOEXEC) ==
           signed_size(n));
    EXPECT(same(v.iov_base, 9, n));
    EXPECT((received->msg_flags & (MSG_CTRUNC | MSG_TRUNC)) == 0);
    EXPECT(received->msg_controllen == sizeof control || received->msg_controllen == c->cmsg_len);
    const cmsghdr* const got = CMSG_FIRSTHDR(received);
    if (!EXPECT(got != nullptr && got->cmsg_len == CMSG_LEN(sizeof fds))) return;
    std::memcpy(fds, CMSG_DATA(got), sizeof fds);
    for (int i = 0; i < kHanded; ++i) {
      auto* const value = p_.out<std::uint64_t>();
      EXPECT(read(fds[i], value, sizeof *value) == 8 && *value == static_cast<unsigned>(i) + 5);
      EXPECT(close(fds[i]) == 0);
    }
  }

  // Many messages a call, each with its name.
  void many_messages() {
    const auto count = static_cast<unsigned>(p_.random().between(1, 24));
    const std::size_t n = p_.random().between(1, 2500);
    mmsghdr m[24] = {};
    for (unsigned i = 0; i < count; ++i) {
      const iovec v{p_.in(r_.at(i * 8), n), n};
      m[i].msg_hdr.msg_iov = kept(i, v);
      m[i].msg_hdr.msg_iovlen = 1;
    }
    auto* const sent = reinterpret_cast<mmsghdr*>(p_.in(m, sizeof m));
    EXPECT(sendmmsg(udp_[1], sent, count, 0) == static_cast<int>(count));
    for (unsigned i = 0; i < count; ++i) EXPECT(sent[i].msg_len == n);
    page_out(vectors_, kVectorBytes);
    auto* const senders = reinterpret_cast<sockaddr_in*>(p_.out(sizeof(sockaddr_in) * 24));
    char* const room = p_.out(std::size_t{24} * 2600);
    for (unsigned i = 0; i < count; ++i) {
      m[i].msg_hdr.msg_iov = kept(i, {room + std::size_t{2600} * i, 2600});
      m[i].msg_hdr.msg_name = senders + i;
      m[i].msg_hdr.msg_namelen = sizeof(sockaddr_in);
    }
    auto* const received = reinterpret_cast<mmsghdr*>(p_.in(m, sizeof m));
    page_out(vectors_, kVectorBytes);
    auto* const timeout = p_.in(timespec{5, 0});
    EXPECT(recvmmsg(udp_[0], received, count, MSG_WAITFORONE, timeout) == static_cast<int>(count));
    for (unsigned i = 0; i < count; ++i)
      EXPECT(received[i].msg_len == n && same(room + std::size_t{2600} * i, i * 8, n) &&
             received[i].msg_hdr.msg_namelen == sizeof(sockaddr_in) &&
             senders[i].sin_port == udp_other_.sin_port);
    is_empty(udp_[0]);
  }

  void connections() {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT(connect(fd, name(*p_.in(tcp_name_)), sizeof tcp_name_) == 0);
    auto* const peer = p_.out<sockaddr_in>();
    auto* const length = p_.in(socklen_t{sizeof(sockaddr_in)});
    const int other = p_.random().one_in(2) ? accept(listener_, name(*peer), length)
                                            : accept4(listener_, name(*peer), length, SOCK_CLOEXEC);
    EXPECT(other >= 0 && *length == sizeof(sockaddr_in) && peer->sin_family == AF_INET);
    auto* const own = p_.out<sockaddr_in>();
    auto* const own_length = p_.in(socklen_t{sizeof(sockaddr_in)});
    EXPECT(getsockname(fd, name(*own), own_length) == 0 && own->sin_port == peer->sin_port);
    auto* const option = p_.out<int>();
    auto* const option_length = p_.in(socklen_t{sizeof(int)});
    EXPECT(getsockopt(fd, SOL_SOCKET, SO_TYPE, option, option_length) == 0 &&
           *option == SOCK_STREAM && *option_length == sizeof(int));
    EXPECT(setsockopt(fd, SOL_SOCKET, SO_LINGER, p_.in(linger{1, 0}), sizeof(linger)) == 0);
    close(fd);
    // A reset, which is told once.
    pollfd ready{other, POLLIN, 0};
    EXPECT(poll(&ready, 1, 5000) == 1);
    auto* const error = p_.out<int>();
    auto* const error_length = p_.in(socklen_t{sizeof(int)});
    EXPECT(getsockopt(other, SOL_SOCKET, SO_ERROR, error, error_length) == 0 &&
           *error == ECONNRESET);
    EXPECT(getsockopt(other, SOL_SOCKET, SO_ERROR, error, error_length) == 0 && *error == 0);
    close(other);
  }

  void netlink() {
    struct {
      nlmsghdr header;
      rtgenmsg message;
    } request{};
    request.header.nlmsg_len = sizeof request;
    request.header.nlmsg_type = RTM_GETLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.header.nlmsg_seq = ++sequence_;
    request.message.rtgen_family = AF_UNSPEC;
    EXPECT(send(netlink_, p_.in(request), sizeof request, 0) == signed_size(sizeof request));
    bool is_done = false;
    unsigned links = 0;
    while (!is_done) {
      constexpr std::size_t kRoom = 32768;
      char* const buffer = p_.out(kRoom);
      const ssize_t n =
          p_.random().one_in(2) ? recv(netlink_, buffer, kRoom, 0) : read(netlink_, buffer, kRoom);
      if (!EXPECT(n > 0)) return;
      auto left = static_cast<unsigned>(n);
      for (auto* h = reinterpret_cast<nlmsghdr*>(buffer); NLMSG_OK(h, left);
           h = NLMSG_NEXT(h, left)) {
        EXPECT(h->nlmsg_seq == sequence_);
        is_done = is_done || h->nlmsg_type == NLMSG_DONE;
        links += h->nlmsg_type == RTM_NEWLINK ? 1 : 0;
      }
    }
    EXPECT(links >= 1);
  }

  void events() {
    const std::uint64_t value = p_.random().between(1, 1000);
    EXPECT(write(event_, p_.in(value), 8) == 8);
    auto* const ready = reinterpret_cast<epoll_event*>(p_.out(sizeof(epoll_event) * 4));
    EXPECT(epoll_wait(epoll_, ready, 4, 5000) == 1 && ready->data.u64 == 0x1234567890ULL);
    EXPECT(epoll_wait(epoll_, ready, 4, 0) == 0);
    const std::size_t room = p_.random().one_in(2) ? 8 : p_.random().between(8, 65536);
    char* const got = p_.out(room);
    EXPECT(read(event_, got, room) == 8 && std::memcmp(got, &value, 8) == 0);
    itimerspec soon{};
    soon.it_value.tv_nsec = 1;
    EXPECT(timerfd_settime(timer_, 0, p_.in(soon), nullptr) == 0);
    auto* const expired = p_.out<std::uint64_t>();
    EXPECT(read(timer_, expired, 8) == 8 && *expired == 1);
    itimerspec late{};
    late.it_value.tv_sec = 1000;
    EXPECT(timerfd_settime(timer_, 0, p_.in(late), nullptr) == 0);
    auto* const old = p_.out<itimerspec>();
    EXPECT(timerfd_settime(timer_, 0, p_.in(soon), old) == 0 && old->it_value.tv_sec >= 900);
    EXPECT(read(timer_, p_.out<std::uint64_t>(), 8) == 8);
    EXPECT(raise(SIGUSR2) == 0);
    constexpr std::size_t kRoom = sizeof(signalfd_siginfo) * 3;
    auto* const info = reinterpret_cast<signalfd_siginfo*>(p_.out(kRoom));
    EXPECT(read(signals_, info, kRoom) == sizeof *info && info->ssi_signo == SIGUSR2 &&
           info->ssi_pid == static_cast<unsigned>(getpid()));
    epoll_event control{};
    control.events = EPOLLOUT;
    const int other = eventfd(0, 0);
    EXPECT(epoll_ctl(epoll_, EPOLL_CTL_ADD, other, p_.in(control)) == 0);
    close(other);
  }

  void notifications() {
    const std::string file = watched_ + "/created";
    close(open(file.c_str(), O_CREAT | O_WRONLY, 0600));
    constexpr std::size_t kRoom = 4096;
    auto* const event = reinterpret_cast<inotify_event*>(p_.out(kRoom));
    EXPECT(read(notifier_, event, kRoom) > 0 && event->mask == IN_CREATE &&
           std::strcmp(event->name, "created") == 0);
    unlink(file.c_str());
  }

  void terminals() {
    const std::size_t n = p_.random().between(1, 2000);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    const bool is_to_slave = p_.random().one_in(2);
    const int to = is_to_slave ? slave_ : master_;
    EXPECT(write(is_to_slave ? master_ : slave_, p_.in(r_.at(from), n), n) == signed_size(n));
    std::size_t done = 0;
    while (done < n) {
      const std::size_t room = p_.random().between(n - done, 8192);
      char* const buffer = p_.out(room);
      const ssize_t got = read(to, buffer, room);
      if (!EXPECT(got > 0)) return;
      EXPECT(same(buffer, from + done, static_cast<std::size_t>(got)));
      done += static_cast<std::size_t>(got);
    }
  }

  void device_commands() {
    EXPECT(write(stream_[1], p_.in(r_.at(0), 321), 321) == 321);
    auto* const queued = p_.out<int>();
    EXPECT(ioctl(stream_[0], FIONREAD, queued) == 0 && *queued == 321);
    EXPECT(receive(stream_[0], p_.out(321), 321) == 321);
    auto* const settings = p_.out<termios>();
    EXPECT(tcgetattr(slave_, settings) == 0 && (settings->c_lflag & ICANON) == 0);
    winsize size{};
    size.ws_row = static_cast<unsigned short>(p_.random().between(1, 500));
    EXPECT(ioctl(master_, TIOCSWINSZ, p_.in(size)) == 0);
    auto* const got = p_.out<winsize>();
    EXPECT(ioctl(slave_, TIOCGWINSZ, got) == 0 && got->ws_row == size.ws_row);
    ifconf list{};
    constexpr int kRoom = 4096;
    list.ifc_len = kRoom;
    list.ifc_buf = p_.out(kRoom);
    auto* const asked = p_.in(list);
    EXPECT(ioctl(udp_[0], SIOCGIFCONF, asked) == 0 &&
           asked->ifc_len >= static_cast<int>(sizeof(ifreq)));
    EXPECT(asked->ifc_req[0].ifr_addr.sa_family == AF_INET);
    // What a structure points at, wherever that lies.
    list.ifc_len = kRoom;
    list.ifc_buf = p_.out(kRoom);
    EXPECT(ioctl(udp_[0], SIOCGIFCONF, &list) == 0 &&
           list.ifc_len >= static_cast<int>(sizeof(ifreq)));
    EXPECT(list.ifc_req[0].ifr_addr.sa_family == AF_INET);
    const sock_filter all_pass[] = {BPF_STMT(BPF_RET | BPF_K, 0xffffffffU)};
    const sock_fprog filter{1, reinterpret_cast<sock_filter*>(p_.in(all_pass, sizeof all_pass))};
    EXPECT(setsockopt(udp_[0], SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);
    const int none = 0;
    EXPECT(setsockopt(udp_[0], SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof none) == 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    auto* const flags = p_.in(request);
    EXPECT(ioctl(udp_[0], SIOCGIFFLAGS, flags) == 0 && (flags->ifr_flags & IFF_LOOPBACK) != 0);
    int on = 1;
    EXPECT(ioctl(stream_[0], FIONBIO, p_.in(on)) == 0);
    on = 0;
    EXPECT(ioctl(stream_[0], FIONBIO, p_.in(on)) == 0);
  }

  void waits() {
    pollfd fds[3] = {{stream_[0], POLLIN | POLLOUT, 0}, {event_, POLLIN, 0}, {-1, POLLIN, 0}};
    auto* const polled = reinterpret_cast<pollfd*>(p_.in(fds, sizeof fds));
    EXPECT(poll(polled, 3, 0) == 1 && polled[0].revents == POLLOUT && polled[1].revents == 0);
    sigset_t none;
    sigemptyset(&none);
    auto* const again = reinterpret_cast<pollfd*>(p_.in(fds, sizeof fds));
    EXPECT(ppoll(again, 3, p_.in(timespec{1, 0}), p_.in(none)) == 1 && again[0].fd == stream_[0] &&
           again[0].revents == POLLOUT);
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(stream_[0], &readable);
    FD_SET(event_, &readable);
    auto* const r = p_.in(readable);
    auto* const w = p_.in(readable);
    auto* const tv = p_.in(timeval{2, 0});
    const int most = std::max(stream_[0], event_) + 1;
    EXPECT(select(most, r, w, nullptr, tv) == 2);
    EXPECT(!FD_ISSET(stream_[0], r) && FD_ISSET(stream_[0], w) && FD_ISSET(event_, w));
    auto* const w2 = p_.in(readable);
    EXPECT(pselect(most, nullptr, w2, nullptr, p_.in(timespec{2, 0}), p_.in(none)) == 2 &&
           FD_ISSET(event_, w2));
    auto* const ready = reinterpret_cast<epoll_event*>(p_.out(sizeof(epoll_event) * 2));
    EXPECT(epoll_pwait(epoll_, ready, 2, 0, p_.in(none)) == 0);
  }

  void queues() {
    struct Message {
      long type;
      char text[4096];
    } message{};
    const std::size_t n = p_.random().between(1, sizeof message.text);
    message.type = static_cast<long>(p_.random().between(1, 9));
    std::memcpy(message.text, r_.at(3), n);
    if (queue_ >= 0) {
      EXPECT(msgsnd(queue_, p_.in(message), n, 0) == 0);
      auto* const got = p_.out<Message>();
      EXPECT(msgrcv(queue_, got, sizeof got->text, 0, 0) == signed_size(n) &&
             got->type == message.type && same(got->text, 3, n));
    }
    if (posix_queue_ < 0) return;
    EXPECT(mq_send(posix_queue_, p_.in(message.text, n), n, 3) == 0);
    char* const got = p_.out(8192);
    auto* const priority = p_.out<unsigned>();
    auto* const until = p_.in(timespec{1L << 33, 0});
    EXPECT(mq_timedreceive(posix_queue_, got, 8192, priority, until) == signed_size(n) &&
           *priority == 3 && same(got, 3, n));
    auto* const old = p_.out<mq_attr>();
    EXPECT(mq_getattr(posix_queue_, old) == 0 && old->mq_msgsize == 8192 && old->mq_curmsgs == 0);
  }

 private:
  static constexpr std::size_t kVectorBytes = std::size_t{64} << 10;

  static ssize_t signed_size(std::size_t n) { return static_cast<ssize_t>(n); }
  static sockaddr* name(sockaddr_in& a) { return reinterpret_cast<sockaddr*>(&a); }
  bool same(const void* got, std::size_t from, std::size_t n) const {
    return std::memcmp(got, r_.at(from), n) == 0;
  }
  static int bound(int type, sockaddr_in* a) {
    const int fd = socket(AF_INET, type, 0);
    a->sin_family = AF_INET;
    a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof *a;
    CHECK(bind(fd, name(*a), length) == 0 && getsockname(fd, name(*a), &length) == 0);
    return fd;
  }
  void is_empty(int fd) {
    char c = 0;
    EXPECT(recv(fd, &c, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
  }
  ssize_t receive(int fd, char* to, std::size_t n) {
    pollfd filled{fd, POLLIN, 0};
    if (poll(&filled, 1, 2000) != 1) return 0;
    switch (p_.random().below(3)) {
      case 0:
        return read(fd, to, n);
      case 1:
        return recv(fd, to, n, 0);
      default: {
        msghdr m{};
        const iovec v{to, n};
        m.msg_iov = p_.in(v);
        m.msg_iovlen = 1;
        return recvmsg(fd, p_.in(m), 0);
      }
    }
  }
  // An iovec of its own for each message, in memory that leaves.
  iovec* kept(unsigned i, const iovec& v) {
    iovec* const at = vectors_ + std::size_t{i} * 100;
    *at = v;
    return at;
  }

  Places& p_;
  const Reference& r_;
  int stream_[2] = {}, datagram_[2] = {}, packet_[2] = {}, udp_[2] = {}, tcp_[2] = {};
  int listener_ = -1, netlink_ = -1, event_ = -1, timer_ = -1, signals_ = -1, notifier_ = -1;
  int master_ = -1, slave_ = -1, epoll_ = -1, queue_ = -1;
  mqd_t posix_queue_ = -1;
  sockaddr_in udp_name_{}, udp_other_{}, tcp_name_{};
  std::string watched_;
  unsigned sequence_ = 0;
  iovec* vectors_ = reinterpret_cast<iovec*>(map(kVectorBytes));
};

}  // namespace gate_testing
