#include "cli/supervise.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <optional>

#include "cli/outcome.h"

namespace buoy::cli {
namespace {

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> list;
  list.reserve(strings.size() + 1);
  for (const std::string& s : strings) list.push_back(const_cast<char*>(s.c_str()));
  list.push_back(nullptr);
  return list;
}

[[noreturn]] void become_program(const ChildRequest& request, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(kDeathBySignal + SIGKILL);  // it died before we asked
  std::vector<std::string> environment = request.environment;
  environment.push_back(request.pid_variable + "=" + std::to_string(getpid()));
  const std::vector<char*> arguments = pointers(request.arguments);
  const std::vector<char*> variables = pointers(environment);
  execve(request.path.c_str(), arguments.data(), variables.data());
  int error = errno;
  if (error == ENOEXEC) {
    // A script without `#!`, which a shell and execvp hand to the shell.
    std::vector<std::string> with_shell = {"/bin/sh", request.path};
    with_shell.insert(with_shell.end(), request.arguments.begin() + 1, request.arguments.end());
    execve("/bin/sh", pointers(with_shell).data(), variables.data());
    error = errno;
  }
  say(request.path + ": " + std::strerror(error));
  _exit(error == ENOENT ? kNotFound : kCannotExecute);
}

// Was the signal meant for buoy alone? Those of the terminal and the kernel go to the whole group.
bool is_sent_by_a_process(const siginfo_t& info) {
  return info.si_code == SI_USER || info.si_code == SI_QUEUE || info.si_code == SI_TKILL;
}

// Stops like the program did; returns when somebody continues us, and continues it, too.
void stop_with(pid_t child) {
  raise(SIGSTOP);
  kill(child, SIGCONT);
}

// What has become of the child; nothing if it goes on.
std::optional<Ending> reap(pid_t child) {
  for (;;) {
    int status = 0;
    const pid_t pid = waitpid(child, &status, WNOHANG | WUNTRACED);
    if (pid != child) return std::nullopt;
    if (WIFEXITED(status)) return Ending{child, WEXITSTATUS(status), 0};
    if (WIFSIGNALED(status))
      return Ending{child, kDeathBySignal + WTERMSIG(status), WTERMSIG(status)};
    if (WIFSTOPPED(status)) stop_with(child);
  }
}

// Waits for signals, and for input on a descriptor if there is one.
class Watch {
 public:
  static constexpr int kInput = 0;

  Watch(const sigset_t& signals, int descriptor) : signals_(signals), descriptor_(descriptor) {
    // Where no more descriptors can be had, nothing but signals is waited for.
    if (descriptor_ >= 0) signal_fd_ = signalfd(-1, &signals_, SFD_CLOEXEC);
  }
  ~Watch() {
    if (signal_fd_ >= 0) close(signal_fd_);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  // The signal that came, or kInput, or -1: neither.
  [[nodiscard]] int wait(siginfo_t* info) const {
    if (signal_fd_ < 0) return sigwaitinfo(&signals_, info);
    pollfd both[2] = {{signal_fd_, POLLIN, 0}, {descriptor_, POLLIN, 0}};
    if (poll(both, 2, -1) < 0) return -1;
    if (both[0].revents == 0) return kInput;
    constexpr timespec kAtOnce{};
    return sigtimedwait(&signals_, info, &kAtOnce);
  }

 private:
  sigset_t signals_;
  int descriptor_;
  int signal_fd_ = -1;
};

}  // namespace

Ending supervise(const ChildRequest& request) {
  // Every signal is taken by sigwaitinfo, which tells who sent it. The child gets back what we had.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before);
  struct sigaction child_action {};
  struct sigaction plain {};
  plain.sa_handler = SIG_DFL;
  sigaction(SIGCHLD, &plain, &child_action);  // an ignored SIGCHLD would take the status away

  const pid_t parent = getpid();
  const pid_t child = fork();
  if (child == -1) {
    say(std::string("cannot start a process: ") + std::strerror(errno));
    return {0, kCannotExecute, 0};
  }
  if (child == 0) {
    sigaction(SIGCHLD, &child_action, nullptr);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    become_program(request, parent);
  }
  const Watch watch(all, request.when_started ? request.when_started() : -1);
  for (;;) {
    if (const std::optional<Ending> ending = reap(child)) return *ending;
    siginfo_t info{};
    const int signal = watch.wait(&info);
    if (signal == Watch::kInput) request.when_readable();
    if (signal <= 0 || signal == SIGCHLD) continue;
    if (is_sent_by_a_process(info) || signal >= SIGRTMIN) {
      if (info.si_code == SI_QUEUE) {
        sigqueue(child, signal, info.si_value);
      } else {
        kill(child, signal);
      }
    }
  }
}

}  // namespace buoy::cli
