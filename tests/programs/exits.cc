// exits WAY: ends in one of the ways a process can end.
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <string>

#include "check.h"

int main(int argc, char** argv) {
  CHECK(argc == 2);
  const std::string way = argv[1];
  auto* block = static_cast<char*>(std::malloc(1 << 20));
  std::memset(block, 1, 1 << 20);
  std::puts(way.c_str());
  std::fflush(stdout);
  if (way == "return") return block[5] + 10;
  if (way == "exit") std::exit(12);
  if (way == "_exit") _exit(13);
  if (way == "_Exit") std::_Exit(14);
  if (way == "quick_exit") std::quick_exit(15);
  if (way == "syscall") syscall(SYS_exit_group, 16);
  if (way == "pthread_exit") {
    pthread_t other{};
    CHECK(pthread_create(
              &other, nullptr, [](void*) -> void* { return nullptr; }, nullptr) == 0);
    CHECK(pthread_detach(other) == 0);
    pthread_exit(nullptr);
  }
  if (way == "abort") std::abort();
  if (way == "kill") raise(SIGKILL);
  if (way == "term") raise(SIGTERM);
  if (way == "segv") raise(SIGSEGV);
  if (way == "closed") {  // stderr is gone at the end
    close(2);
    std::exit(17);
  }
  std::fprintf(stderr, "exits: no way %s\n", way.c_str());
  return 99;
}
