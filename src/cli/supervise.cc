#include "cli/supervise.h"

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

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

// What has become of the child: its status for buoy, or -1 if it goes on.
int reap(pid_t child) {
  for (;;) {
    int status = 0;
    const pid_t pid = waitpid(child, &status, WNOHANG | WUNTRACED);
    if (pid != child) return -1;
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    if (WIFSIGNALED(status)) return kDeathBySignal + WTERMSIG(status);
    if (WIFSTOPPED(status)) stop_with(child);
  }
}

}  // namespace

int supervise(const ChildRequest& request) {
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
    return kCannotExecute;
  }
  if (child == 0) {
    sigaction(SIGCHLD, &child_action, nullptr);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    become_program(request, parent);
  }
  for (;;) {
    if (const int status = reap(child); status >= 0) return status;
    siginfo_t info{};
    const int signal = sigwaitinfo(&all, &info);
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
