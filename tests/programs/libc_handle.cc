// libc_handle: a program that looks up libc's functions in libc's own handle, as foreign-function
// interfaces do, and mixes them with those that it is linked with.
#include <dlfcn.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

namespace {

void* libc = nullptr;

template <typename Function>
Function* of_libc(const char* name) {
  auto* found = reinterpret_cast<Function*>(dlsym(libc, name));
  CHECK(found != nullptr && dlerror() == nullptr);
  return found;
}

// By version: not by dlsym.
template <typename Function>
Function* of_libc_by_version(const char* name) {
  return reinterpret_cast<Function*>(dlvsym(libc, name, "GLIBC_2.2.5"));
}

void mixed_with(void* (*allocate)(std::size_t), void* (*resize)(void*, std::size_t),
                void (*release)(void*), std::size_t (*usable)(void*)) {
  for (std::size_t size = 1; size < 3 << 20; size = size * 5 / 2 + 1) {
    auto* there = static_cast<char*>(allocate(size));
    std::memset(there, 't', size);
    CHECK(malloc_usable_size(there) >= size);
    there = static_cast<char*>(std::realloc(there, size * 2));
    CHECK(there[0] == 't' && there[size - 1] == 't');
    std::free(there);
    std::free(allocate(size));
    if (resize == nullptr) continue;
    auto* here = static_cast<char*>(std::malloc(size));
    std::memset(here, 'h', size);
    CHECK(usable(here) >= size);
    here = static_cast<char*>(resize(here, size * 3));
    CHECK(here[0] == 'h' && here[size - 1] == 'h');
    release(here);
    release(strdup("text of libc's"));
  }
}

}  // namespace

int main() {
  libc = dlopen("libc.so.6", RTLD_LAZY);
  CHECK(libc != nullptr);
  mixed_with(of_libc<void*(std::size_t)>("malloc"), of_libc<void*(void*, std::size_t)>("realloc"),
             of_libc<void(void*)>("free"), of_libc<std::size_t(void*)>("malloc_usable_size"));
  mixed_with(of_libc_by_version<void*(std::size_t)>("malloc"), nullptr, nullptr, nullptr);
  CHECK(dlsym(libc, "there_is_no_such_function") == nullptr && dlerror() != nullptr);
  CHECK(dlsym(RTLD_DEFAULT, "strlen") != nullptr && dlsym(RTLD_NEXT, "strlen") != nullptr);

  auto* mine = static_cast<char*>(std::malloc(4 << 20));
  std::memset(mine, 'm', 4 << 20);
  const pid_t child = of_libc<pid_t()>("fork")();
  if (child == 0) _exit(mine[3 << 20] == 'm' ? 0 : 1);
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  std::free(mine);
  std::puts("all of one malloc");
  return 0;
}
