// deep_bind PLUGIN: memory goes to and fro between a program and a library opened with
// RTLD_DEEPBIND. Compiled with -DPLUGIN -shared, it is that library (run_malloc.sh).
#include <dlfcn.h>
#include <malloc.h>
#include <sys/wait.h>
#include <unistd.h>

#include <initializer_list>

#include "check.h"

#ifdef PLUGIN

namespace {
char* line = nullptr;
std::size_t room = 0;

// Before the program has its hands on the library.
__attribute__((constructor)) void read_a_line() {
  FILE* from = std::fopen("/proc/self/status", "r");
  CHECK(getline(&line, &room, from) > 0);
  std::fclose(from);
  line = static_cast<char*>(std::realloc(line, 5000));
}
}  // namespace

extern "C" char* take_and_give(char* taken, char* (*program_gives)()) {
  std::free(line);
  char* printed = nullptr;
  CHECK(asprintf(&printed, "%0100000d", 7) == 100000 && malloc_usable_size(printed) > 100000);
  std::free(printed);
  CHECK(taken[99998] == 'p');
  std::free(taken);
  std::free(std::realloc(program_gives(), 100000));
  return static_cast<char*>(std::calloc(1, 50000));
}

extern "C" int child_sees(const char* memory, std::size_t bytes, char expected) {
  const pid_t child = fork();
  if (child == 0) {
    for (std::size_t i = 0; i < bytes; ++i)
      if (memory[i] != expected) _exit(1);
    _exit(0);
  }
  int status = -1;
  return waitpid(child, &status, 0) == child ? status : -1;
}

#else

int main(int argc, char** argv) {
  CHECK(argc > 1);
  for (const int binding : {RTLD_NOW | RTLD_LOCAL, RTLD_LAZY | RTLD_GLOBAL}) {
    void* plugin = dlopen(argv[1], binding | RTLD_DEEPBIND);
    if (plugin == nullptr) std::puts(dlerror());
    CHECK(plugin != nullptr);
    auto* take_and_give =
        reinterpret_cast<char* (*)(char*, char* (*)())>(dlsym(plugin, "take_and_give"));
    auto* child_sees =
        reinterpret_cast<int (*)(const char*, std::size_t, char)>(dlsym(plugin, "child_sees"));
    CHECK(take_and_give != nullptr && child_sees != nullptr);
    auto* given = static_cast<char*>(std::malloc(100000));
    std::memset(given, 'p', 100000);
    char* got = take_and_give(given, [] { return strdup("the program's"); });
    for (int i = 0; i < 50000; ++i) CHECK(got[i] == 0);
    got = static_cast<char*>(std::realloc(got, 6 << 20));
    std::memset(got, 'g', 6 << 20);
    CHECK(child_sees(got, 6 << 20, 'g') == 0);
    std::free(got);
    CHECK(dlclose(plugin) == 0);
  }
  std::puts("to and fro");
  return 0;
}

#endif
