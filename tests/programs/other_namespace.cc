// other_namespace: a second libc in a namespace of its own, which maps, allocates and forks, also
// from within its own children, beside the program's heap.
#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "check.h"

namespace {

constexpr std::size_t kBytes = 8 << 20;
char* heap = nullptr;
char* there = nullptr;

bool is_whole() {
  for (std::size_t i = 0; i < kBytes; i += kPage)
    if (heap[i] != 'h' || there[i / 8] != 't') return false;
  return true;
}

template <typename Fork>
int status_of_child(Fork fork_there, int generations) {
  const pid_t child = fork_there();
  CHECK(child >= 0);
  if (child == 0) {
    bool right = is_whole();
    heap[5] = 'h';
    if (right && generations > 1) right = status_of_child(fork_there, generations - 1) == 0;
    _exit(right ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  return status;
}

}  // namespace

int main() {
  heap = static_cast<char*>(std::malloc(kBytes));
  std::memset(heap, 'h', kBytes);
  for (int round = 0; round < 3; ++round) {
    void* other = dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW | RTLD_LOCAL);
    CHECK(other != nullptr);
    auto* allocate = reinterpret_cast<void* (*)(std::size_t)>(dlsym(other, "malloc"));
    auto* release = reinterpret_cast<void (*)(void*)>(dlsym(other, "free"));
    there = static_cast<char*>(allocate(kBytes / 8));
    std::memset(there, 't', kBytes / 8);
    for (const char* name : {"fork", "_Fork"}) {
      auto* fork_there = reinterpret_cast<pid_t (*)()>(dlsym(other, name));
      if (fork_there == nullptr) continue;  // before glibc 2.34
      CHECK(status_of_child(fork_there, 2) == 0);
    }
    CHECK(is_whole());
    release(there);
  }
  std::puts("children of another libc");
  return 0;
}
