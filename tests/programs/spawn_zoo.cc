// spawn_zoo [MIB]: processes that share our memory until they exec, and what they run gets its own
// budget; dlopen and dlclose on the side.
#include <dlfcn.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

void expect_success(pid_t child) {
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

std::string read_all(FILE* pipe) {
  std::string text;
  char buffer[512];
  while (const std::size_t n = std::fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
  return text;
}

void spawn_all_ways(const std::string& word) {
  std::vector<std::string> words = {"sh", "-c", "test \"$1\" = \"$2\"", "sh", word, word};
  std::vector<char*> arguments;
  for (auto& w : words) arguments.push_back(w.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  CHECK(posix_spawnp(&child, "sh", nullptr, nullptr, arguments.data(), environ) == 0);
  expect_success(child);
  CHECK(posix_spawn(&child, "/nonexistent", nullptr, nullptr, arguments.data(), environ) == ENOENT);

  child = vfork();
  if (child == 0) {
    execvp("sh", arguments.data());
    _exit(1);
  }
  expect_success(child);
  child = vfork();
  if (child == 0) _exit(0);
  expect_success(child);

  CHECK(std::system(("test " + word + " = " + word).c_str()) == 0);
  FILE* pipe = popen(("echo " + word).c_str(), "r");
  CHECK(pipe != nullptr);
  CHECK(read_all(pipe) == word + "\n");
  CHECK(pclose(pipe) == 0);

  child = fork();
  if (child == 0) {
    execvp("sh", arguments.data());
    _exit(1);
  }
  expect_success(child);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t bytes = argument(argc, argv, 1, 128) << 20;
  auto* pages = static_cast<char*>(
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(pages != MAP_FAILED);
  for (int round = 0; round < 4; ++round) {
    for (std::size_t i = 0; i < bytes / kPage; ++i)
      stamp(pages + i * kPage, i, static_cast<unsigned>(round));
    std::thread other([&] {
      for (std::size_t i = 0; i < bytes / kPage; i += 3)
        check_stamp(pages + i * kPage, i, static_cast<unsigned>(round));
    });
    spawn_all_ways("word" + std::to_string(round));
    void* library = dlopen("libm.so.6", RTLD_NOW | RTLD_LOCAL);
    CHECK(library != nullptr);
    auto* cosine = reinterpret_cast<double (*)(double)>(dlsym(library, "cos"));
    CHECK(cosine != nullptr && cosine(0) > 0.99);
    CHECK(dlclose(library) == 0);
    other.join();
    for (std::size_t i = 0; i < bytes / kPage; ++i)
      check_stamp(pages + i * kPage, i, static_cast<unsigned>(round));
  }
  std::puts("OK spawn_zoo");
}
