// The adversary's calls on processes, signals, time, limits, futexes, and memory by other ways.
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <semaphore.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <string>

#include "gate_places.h"

namespace gate_testing {

class ProcessCalls {
 public:
  ProcessCalls(Places& places, const Reference& reference)
      : p_(places), r_(reference), shared_(new (map(kSharedBytes)) Shared) {
    struct sigaction action {};
    action.sa_handler = [](int) {};  // no SA_RESTART
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    CHECK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
    CHECK(pthread_mutex_init(&shared_->inheriting, &attributes) == 0);
    CHECK(sem_init(&shared_->wake, 0, 0) == 0);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    partner_ = std::thread([this] { serve(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  ~ProcessCalls() {
    stop_ = true;
    sem_post(&shared_->wake);
    partner_.join();
  }
  ProcessCalls(const ProcessCalls&) = delete;
  ProcessCalls& operator=(const ProcessCalls&) = delete;

  void signals() {
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    auto* const old = p_.out<sigset_t>();
    EXPECT(sigprocmask(SIG_BLOCK, p_.in(usr1), old) == 0 && sigismember(old, SIGUSR2) == 1 &&
           sigismember(old, SIGHUP) == 0);
    sigval value{};
    value.sival_int = static_cast<int>(p_.random().below(100000));
    EXPECT(sigqueue(getpid(), SIGUSR1, value) == 0);
    auto* const pending = p_.out<sigset_t>();
    EXPECT(sigpending(pending) == 0 && sigismember(pending, SIGUSR1) == 1);
    auto* const info = p_.out<siginfo_t>();
    EXPECT(sigtimedwait(p_.in(usr1), info, p_.in(timespec{1, 0})) == SIGUSR1 &&
           info->si_value.sival_int == value.sival_int && info->si_code == SI_QUEUE);
    EXPECT(sigtimedwait(p_.in(usr1), nullptr, p_.in(timespec{0, 0})) == -1 && errno == EAGAIN);
    // What was set is what is read back.
    struct sigaction fresh {};
    fresh.sa_handler = [](int) {};
    sigfillset(&fresh.sa_mask);
    fresh.sa_flags = SA_RESTART;
    EXPECT(sigaction(SIGWINCH, p_.in(fresh), nullptr) == 0);
    auto* const read_back = p_.out<struct sigaction>();
    EXPECT(sigaction(SIGWINCH, nullptr, read_back) == 0 &&
           read_back->sa_handler == fresh.sa_handler &&
           sigismember(&read_back->sa_mask, SIGBUS) == 1);
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    auto* const stack = p_.out<stack_t>();
    EXPECT(sigaltstack(p_.in(none), stack) == 0 && (stack->ss_flags & SS_DISABLE) != 0);
  }

  void sleeps() {
    // Again and again: the first may come before the sleep.
    itimerval soon{};
    soon.it_value.tv_usec = 200;
    soon.it_interval.tv_usec = 3000;
    EXPECT(setitimer(ITIMER_REAL, p_.in(soon), nullptr) == 0);
    auto* const rest = p_.out<timespec>();
    EXPECT(nanosleep(p_.in(timespec{100, 0}), rest) == -1 && errno == EINTR && rest->tv_sec >= 90 &&
           rest->tv_sec <= 100);  // timers have slack
    EXPECT(clock_nanosleep(CLOCK_MONOTONIC, 0, p_.in(timespec{100, 0}), rest) == EINTR &&
           rest->tv_sec >= 90 && rest->tv_sec <= 100);
    EXPECT(setitimer(ITIMER_REAL, p_.in(itimerval{}), nullptr) == 0);
    EXPECT(nanosleep(p_.in(timespec{0, 1000}), nullptr) == 0);
    itimerval late{};
    late.it_value.tv_sec = 1000;
    EXPECT(setitimer(ITIMER_REAL, p_.in(late), nullptr) == 0);
    auto* const old = p_.out<itimerval>();
    EXPECT(setitimer(ITIMER_REAL, p_.in(itimerval{}), old) == 0 && old->it_value.tv_sec >= 900);
    auto* const now = p_.out<itimerval>();
    EXPECT(getitimer(ITIMER_REAL, now) == 0 && now->it_value.tv_sec == 0);
    auto* const time = p_.out<timespec>();
    EXPECT(syscall(SYS_clock_gettime, CLOCK_REALTIME, time) == 0 && time->tv_sec > 1000000000);
  }

  void limits() {
    rlimit limit{};
    EXPECT(getrlimit(RLIMIT_CORE, p_.in(limit)) == 0);
    getrlimit(RLIMIT_CORE, &limit);
    const rlimit before = limit;
    limit.rlim_cur = limit.rlim_cur == 0 ? 0 : limit.rlim_cur - 1;
    auto* const old = p_.out<rlimit>();
    EXPECT(syscall(SYS_prlimit64, 0, RLIMIT_CORE, p_.in(limit), old) == 0 &&
           old->rlim_cur == before.rlim_cur && old->rlim_max == before.rlim_max);
    auto* const changed = p_.out<rlimit>();
    EXPECT(syscall(SYS_prlimit64, 0, RLIMIT_CORE, p_.in(before), changed) == 0 &&
           changed->rlim_cur == limit.rlim_cur);
    auto* const usage = p_.out<rusage>();
    EXPECT(getrusage(RUSAGE_SELF, usage) == 0 && usage->ru_maxrss > 0 &&
           usage->ru_maxrss < 1 << 30);
    auto* const system = p_.out<struct sysinfo>();
    EXPECT(sysinfo(system) == 0 && system->totalram > 0);
    auto* const ticks = p_.out<tms>();
    EXPECT(times(ticks) != static_cast<clock_t>(-1) && ticks->tms_utime >= 0);
    auto* const cpus = p_.out<cpu_set_t>();
    EXPECT(syscall(SYS_sched_getaffinity, 0, sizeof *cpus, cpus) > 0);
    char name[16] = "adversary";
    EXPECT(prctl(PR_SET_NAME, p_.in(name, sizeof name)) == 0);
    char* const got = p_.out(16);
    EXPECT(prctl(PR_GET_NAME, got) == 0 && std::strcmp(got, "adversary") == 0);
    char* const bytes = p_.out(600);
    EXPECT(syscall(SYS_getrandom, bytes, 600, 0) == 600 &&
           std::memcmp(bytes, bytes + 300, 300) != 0);
    auto* const groups = reinterpret_cast<gid_t*>(p_.out(65536 * sizeof(gid_t)));
    EXPECT(getgroups(65536, groups) >= 0);
    auto* const ids = reinterpret_cast<uid_t*>(p_.out(3 * sizeof(uid_t)));
    EXPECT(getresuid(ids, ids + 1, ids + 2) == 0 && ids[1] == geteuid());
  }

  void children() {
    const int wanted = static_cast<int>(p_.random().below(256));
    pid_t pid = vfork();
    if (pid == 0) _exit(wanted);
    auto* const status = p_.out<int>();
    auto* const usage = p_.out<rusage>();
    EXPECT(pid > 0 && wait4(pid, status, 0, usage) == pid && WIFEXITED(*status) &&
           WEXITSTATUS(*status) == wanted && usage->ru_utime.tv_sec < 100);
    EXPECT(waitpid(pid, status, WNOHANG) == -1 && errno == ECHILD);
    pid = vfork();
    if (pid == 0) _exit(wanted);
    auto* const info = p_.out<siginfo_t>();
    EXPECT(waitid(P_PID, static_cast<id_t>(pid), info, WEXITED) == 0 && info->si_pid == pid &&
           info->si_status == wanted && info->si_code == CLD_EXITED);
  }

  // Programs whose names, arguments and environment are paged out.
  void execution() {
    const std::string text = "exit " + std::to_string(p_.random().below(200));
    const int wanted = std::stoi(text.substr(5));
    char* arguments[] = {p_.string("sh"), p_.string("-c"), p_.string(text.c_str()), nullptr};
    auto* const argv = reinterpret_cast<char**>(p_.in(arguments, sizeof arguments));
    char* variables[] = {p_.string("PATH=/usr/bin:/bin"), p_.string("GATE=adversary"), nullptr};
    auto* const env = reinterpret_cast<char**>(p_.in(variables, sizeof variables));
    auto* const status = p_.out<int>();
    pid_t pid = 0;
    EXPECT(posix_spawn(&pid, p_.string("/bin/sh"), nullptr, nullptr, argv, env) == 0);
    EXPECT(waitpid(pid, status, 0) == pid && WIFEXITED(*status) && WEXITSTATUS(*status) == wanted);
    const char* const program = p_.string("/bin/sh");
    pid = vfork();
    if (pid == 0) {
      execve(program, argv, env);
      _exit(127);
    }
    EXPECT(waitpid(pid, status, 0) == pid && WIFEXITED(*status) && WEXITSTATUS(*status) == wanted);
  }

  void locks() {
    const std::uint64_t turn = shared_->turn;
    EXPECT(sem_post(&shared_->wake) == 0);
    timespec until{};
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    auto* const limit = p_.in(until);
    int error = pthread_mutex_lock(&shared_->mutex);
    while (shared_->turn == turn && error == 0)
      error = pthread_cond_timedwait(&shared_->turned, &shared_->mutex, limit);
    EXPECT(error == 0 && shared_->turn == turn + 1);
    EXPECT(pthread_mutex_unlock(&shared_->mutex) == 0);
    for (int i = 0; i < 10; ++i) {
      EXPECT(pthread_mutex_lock(&shared_->inheriting) == 0);
      ++shared_->under_inheriting;
      EXPECT(pthread_mutex_unlock(&shared_->inheriting) == 0);
    }
  }

  void futexes() {
    auto* const word = p_.in(7U);
    auto* const other = p_.in(9U);
    EXPECT(futex(word, FUTEX_WAIT_PRIVATE, 8, nullptr) == -1 && errno == EAGAIN);
    EXPECT(futex(word, FUTEX_WAIT_PRIVATE, 7, p_.in(timespec{0, 20000})) == -1 &&
           errno == ETIMEDOUT);
    EXPECT(futex(word, FUTEX_WAIT, 7, p_.in(timespec{0, 20000})) == -1 && errno == ETIMEDOUT);
    EXPECT(futex(word, FUTEX_WAKE_PRIVATE, 1, nullptr) == 0);
    EXPECT(syscall(SYS_futex, word, FUTEX_CMP_REQUEUE_PRIVATE, 1, 1, other, 7) == 0);
    EXPECT(syscall(SYS_futex, word, FUTEX_CMP_REQUEUE_PRIVATE, 1, 1, other, 6) == -1 &&
           errno == EAGAIN);
    EXPECT(*other == 9 && *word == 7);
  }

  // The kernel changes the word itself.
  void atomic_futexes() {
    auto* const word = p_.in(7U);
    auto* const other = p_.in(9U);
    EXPECT(syscall(SYS_futex, word, FUTEX_WAKE_OP_PRIVATE, 1, 1, other,
                   FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 9)) == 0);
    EXPECT(*other == 14 && *word == 7);
    auto* const lock = p_.in(0U);
    EXPECT(futex(lock, FUTEX_LOCK_PI_PRIVATE, 0, nullptr) == 0 &&
           *lock == static_cast<unsigned>(gettid()));
    page_out(lock, sizeof *lock);
    EXPECT(futex(lock, FUTEX_UNLOCK_PI_PRIVATE, 0, nullptr) == 0 && *lock == 0);
  }

  // Reads and writes of itself.
  void own_memory() {
    const std::size_t n = p_.random().between(1, 65536);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    char* const source = p_.in(r_.at(from), n);
    char* const to = p_.out(n);
    const iovec local{to, n};
    const iovec remote{source, n};
    EXPECT(process_vm_readv(getpid(), p_.in(local), 1, p_.in(remote), 1, 0) ==
           static_cast<ssize_t>(n));
    EXPECT(std::memcmp(to, r_.at(from), n) == 0);
    char* const target = p_.out(n);
    const iovec out{target, n};
    EXPECT(process_vm_writev(getpid(), p_.in(remote), 1, p_.in(out), 1, 0) ==
           static_cast<ssize_t>(n));
    EXPECT(std::memcmp(target, r_.at(from), n) == 0);
  }

 private:
  static constexpr std::size_t kSharedBytes = std::size_t{64} << 10;
  // Paged out by the partner at every turn, besides.
  struct Shared {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
    alignas(4096) pthread_mutex_t inheriting;
    std::uint64_t under_inheriting = 0;
    alignas(4096) sem_t wake;
    alignas(4096) std::uint64_t turn = 0;
  };

  static long futex(unsigned* word, int operation, unsigned value, const timespec* timeout) {
    return syscall(SYS_futex, word, operation, value, timeout, nullptr, 0);
  }

  void serve() {
    for (;;) {
      page_out(shared_, sizeof *shared_);
      while (sem_wait(&shared_->wake) != 0) CHECK(errno == EINTR);
      if (stop_) return;
      CHECK(pthread_mutex_lock(&shared_->mutex) == 0);
      ++shared_->turn;
      CHECK(pthread_cond_signal(&shared_->turned) == 0);
      CHECK(pthread_mutex_unlock(&shared_->mutex) == 0);
      CHECK(pthread_mutex_lock(&shared_->inheriting) == 0);
      page_out(shared_, sizeof *shared_);
      ++shared_->under_inheriting;
      CHECK(pthread_mutex_unlock(&shared_->inheriting) == 0);
    }
  }

  Places& p_;
  const Reference& r_;
  Shared* shared_;
  std::atomic<bool> stop_{false};
  std::thread partner_;
};

}  // namespace gate_testing
