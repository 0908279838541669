// gate_adversary [CHECKS] [SEED] [plain]: system calls of every kind on memory that another thread pages out
// without a pause. Each result, and each byte, must be what it is on memory that stays. `plain` leaves out the futex
// operations that store in the kernel, which a handler thread cannot serve.
#include "gate_adversary_files.h"
#include "gate_adversary_process.h"
#include "gate_adversary_sockets.h"

using namespace gate_testing;

namespace {

int open_descriptors() {
  int count = 0;
  for (int fd = 0; fd < 256; ++fd) count += fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
  return count;
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t wanted = argument(argc, argv, 1, 100000);
  const std::size_t seed = argument(argc, argv, 2, 1);
  const bool is_plain = argc > 3 && std::strcmp(argv[3], "plain") == 0;
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGUSR1);
  sigaddset(&blocked, SIGUSR2);
  CHECK(pthread_sigmask(SIG_BLOCK, &blocked, nullptr) == 0);
  static const Reference reference;
  Places places(seed);
  static FileCalls files(places, reference);
  static SocketCalls sockets(places, reference);
  static ProcessCalls processes(places, reference);
  const int descriptors = open_descriptors();
  {
    const Evictor evictor(places.arena(), Places::kBytes);
    for (std::size_t round = 0; checks < wanted; ++round) {
      files.reads();
      files.writes();
      files.pipes();
      files.between_descriptors();
      files.names();
      files.entries();
      files.locks();
      files.proc_files();
      for (int i = 0; i < 4; ++i) sockets.datagrams();
      sockets.cut_datagrams();
      for (int i = 0; i < 3; ++i) sockets.streams();
      for (int i = 0; i < 2; ++i) sockets.control_data();
      sockets.many_messages();
      sockets.connections();
      sockets.netlink();
      sockets.events();
      sockets.notifications();
      sockets.terminals();
      sockets.device_commands();
      sockets.waits();
      sockets.queues();
      processes.signals();
      processes.sleeps();
      processes.limits();
      processes.locks();
      processes.futexes();
      if (!is_plain) processes.atomic_futexes();
      processes.own_memory();
      if (round % 8 == 0) processes.children();
      if (round % 64 == 0) processes.execution();
    }
  }
  EXPECT(open_descriptors() == descriptors);
  return result("gate_adversary");
}
