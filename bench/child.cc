#include "child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <thread>

#include "machine.h"

namespace buoy::bench {
namespace {

constexpr int kHighestPriority = -20;
constexpr std::string_view kEndOfAnswer = "done\n";
using Clock = std::chrono::steady_clock;

Clock::time_point after(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

std::string own_path() { return std::filesystem::read_symlink("/proc/self/exe").string(); }

// What else runs here shall disturb neither side; without the right to it, so be it. The scheduler
// weighs sessions first (autogroup), then the processes of one.
void claim_the_processors() {
  setsid();
  (void)setpriority(PRIO_PROCESS, 0, kHighestPriority);
  try {
    write_file("/proc/self/autogroup", std::to_string(kHighestPriority));
  } catch (const Unavailable&) {
    return;
  }
}

// In the forked child: everything that must be so before the first page of the program.
[[noreturn]] void become(const Command& command, int input, int output) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  claim_the_processors();
  dup2(input, STDIN_FILENO);
  dup2(output, STDOUT_FILENO);
  if (!command.join_cgroup.empty()) {
    const int fd = open(command.join_cgroup.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1) {
      fmt::print(stderr, "buoy-bench: {}\n", because_errno(command.join_cgroup));
      _exit(1);
    }
  }
  std::vector<char*> argv;
  for (const std::string& word : command.words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  fmt::print(stderr, "buoy-bench: {}\n", because_errno(argv[0]));
  _exit(127);
}

}  // namespace

std::string program_folder() { return std::filesystem::path(own_path()).parent_path().string(); }

Command side_command(const std::string& side, const Arguments& arguments,
                     const std::vector<std::string>& prefix) {
  Command command{prefix, ""};
  command.words.insert(command.words.end(), {own_path(), "--side", side});
  for (const auto& [key, value] : arguments) command.words.push_back(key + "=" + value);
  return command;
}

Child::Child(const Command& command) {
  std::array<int, 2> in{};
  std::array<int, 2> out{};
  if (pipe2(in.data(), O_CLOEXEC) != 0) throw Unavailable(because_errno("pipe"));
  if (pipe2(out.data(), O_CLOEXEC) != 0) {
    close(in[0]);
    close(in[1]);
    throw Unavailable(because_errno("pipe"));
  }
  pid_ = fork();
  if (pid_ == 0) become(command, in[0], out[1]);
  close(in[0]);
  close(out[1]);
  input_ = in[1];
  output_ = out[0];
  if (pid_ < 0) throw Unavailable(because_errno("fork"));
}

Child::~Child() {
  if (pid_ > 0) {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  if (input_ >= 0) close(input_);
  if (output_ >= 0) close(output_);
}

void Child::wait_for_end() {
  int status = 0;
  rusage use{};
  while (wait4(pid_, &status, 0, &use) < 0 && errno == EINTR) continue;
  pid_ = -1;
  major_faults_ = static_cast<std::uint64_t>(use.ru_majflt);
  peak_rss_bytes_ = static_cast<std::uint64_t>(use.ru_maxrss) * 1024;
  // A wrapper (`buoy run`, a shell) tells a death by signal N as 128 + N.
  const int signal = WIFSIGNALED(status)         ? WTERMSIG(status)
                     : WEXITSTATUS(status) > 128 ? WEXITSTATUS(status) - 128
                                                 : 0;
  if (signal == SIGKILL) throw OutOfMemory();
  if (signal != 0)
    throw Unavailable(fmt::format("killed by signal {} ({})", signal, strsignal(signal)));
  if (WEXITSTATUS(status) != 0)
    throw Unavailable(fmt::format("exit status {}", WEXITSTATUS(status)));
}

std::string_view Child::read_some(Clock::time_point deadline) {
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    pollfd wait = {output_, POLLIN, 0};
    const int ready = left <= 0 ? 0 : poll(&wait, 1, static_cast<int>(left));
    if (ready == 0) throw Unavailable("did not end in time");
    if (ready < 0) continue;
    const ssize_t n = read(output_, buffer_.data(), buffer_.size());
    if (n >= 0) return {buffer_.data(), static_cast<std::size_t>(n)};
    if (errno != EINTR) throw Unavailable(because_errno("reading from a child"));
  }
}

Sample Child::wait_for_answer(double seconds) {
  const auto deadline = after(seconds);
  std::string text;
  while (text.size() < kEndOfAnswer.size() ||
         text.compare(text.size() - kEndOfAnswer.size(), std::string::npos, kEndOfAnswer) != 0) {
    const std::string_view more = read_some(deadline);
    if (more.empty()) {
      wait_for_end();
      throw Unavailable("ended without an answer");
    }
    text += more;
  }
  std::istringstream in(text);
  Sample sample;
  std::string key;
  for (double value = 0; in >> key >> value;) sample[key] = value;
  return sample;
}

void Child::finish(double seconds) {
  if (input_ >= 0) close(input_);
  input_ = -1;
  const auto deadline = after(seconds);
  siginfo_t info{};
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0) {
    if (Clock::now() > deadline)
      throw Unavailable(fmt::format("did not end within {:.0f} s", seconds));
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  wait_for_end();
}

Ended Child::run_to_end(double seconds) {
  const auto deadline = after(seconds);
  Ended ended;
  ended.output_hash = 0xcbf29ce484222325U;  // FNV-1a
  for (std::string_view more = read_some(deadline); !more.empty(); more = read_some(deadline))
    for (const char c : more)
      ended.output_hash = (ended.output_hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  finish(seconds);
  ended.peak_rss_bytes = peak_rss_bytes_;
  ended.major_faults = major_faults_;
  return ended;
}

void answer(const Sample& sample) {
  std::string text;
  for (const auto& [key, value] : sample) text += fmt::format("{} {}\n", key, value);
  text += kEndOfAnswer;
  if (write(STDOUT_FILENO, text.data(), text.size()) != static_cast<ssize_t>(text.size())) _exit(1);
  char ignored = 0;
  while (read(STDIN_FILENO, &ignored, 1) > 0) continue;
}

const std::string& text_of(const Arguments& arguments, const std::string& key) {
  const auto found = arguments.find(key);
  if (found == arguments.end()) {
    fmt::print(stderr, "buoy-bench: this side needs {}=...\n", key);
    std::exit(2);
  }
  return found->second;
}

double number_of(const Arguments& arguments, const std::string& key) {
  return std::strtod(text_of(arguments, key).c_str(), nullptr);
}

}  // namespace buoy::bench
