#include "undo.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "machine.h"

namespace buoy::bench {
namespace {

struct Guardian {
  pid_t pid = -1;
  int pipe = -1;
};
Guardian g_guardian;

constexpr std::array<const char*, 4> kWords = {"swapoff", "write", "rmdir", "unlink"};

void kill_members(const std::string& cgroup) {
  std::ifstream members(cgroup + "/cgroup.procs");
  for (pid_t pid = 0; members >> pid;) kill(pid, SIGKILL);
}

// Some of these succeed only when dying processes are gone: tries for about five seconds.
template <typename Attempt>
void insist(Attempt attempt) {
  for (int i = 0; i < 250 && !attempt(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

void undo(const std::string& line) {
  const auto space = line.find(' ');
  const std::string word = line.substr(0, space);
  const std::string argument = line.substr(space + 1);
  if (word == kWords[static_cast<int>(Undo::kSwapOff)]) {
    insist([&] { return swapoff(argument.c_str()) == 0 || errno == EINVAL || errno == ENOENT; });
  } else if (word == kWords[static_cast<int>(Undo::kWriteFile)]) {
    const auto end = argument.find(' ');
    insist([&] {
      try {
        write_file(argument.substr(0, end), argument.substr(end + 1));
      } catch (const Unavailable&) {
        return errno != EBUSY && errno != EAGAIN;
      }
      return true;
    });
  } else if (word == kWords[static_cast<int>(Undo::kRemoveDir)]) {
    insist([&] {
      kill_members(argument);
      return rmdir(argument.c_str()) == 0 || errno == ENOENT;
    });
  } else if (word == kWords[static_cast<int>(Undo::kRemoveFile)]) {
    unlink(argument.c_str());
  }
}

[[noreturn]] void guard(int pipe) {
  setsid();
  close(STDIN_FILENO);  // whoever reads our output must not wait for the guardian
  close(STDOUT_FILENO);
  std::string text;
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t n = read(pipe, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    text.append(buffer.data(), static_cast<std::size_t>(n));
  }
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) undo(*line);
  _exit(0);
}

void start_guardian() {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw Unavailable(because_errno("pipe"));
  const pid_t pid = fork();
  if (pid < 0) throw Unavailable(because_errno("fork"));
  if (pid == 0) {
    close(ends[1]);
    guard(ends[0]);
  }
  close(ends[0]);
  g_guardian = {pid, ends[1]};
}

}  // namespace

void undo_at_end(Undo action, const std::string& argument) {
  if (g_guardian.pid < 0) start_guardian();
  const std::string line =
      std::string(kWords[static_cast<std::size_t>(action)]) + " " + argument + "\n";
  if (write(g_guardian.pipe, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    throw Unavailable(because_errno("the guardian process"));
}

void undo_all() {
  if (g_guardian.pid < 0) return;
  close(g_guardian.pipe);
  while (waitpid(g_guardian.pid, nullptr, 0) < 0 && errno == EINTR) continue;
  g_guardian = {};
}

}  // namespace buoy::bench
