#include "preload/runtime.h"

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/signals.h"
#include "base/sys.h"
#include "gate/gate.h"
#include "mmu/uffd_source.h"
#include "preload/environment.h"
#include "preload/exec_environment.h"
#include "preload/fork_catcher.h"
#include "preload/lease.h"
#include "preload/member.h"
#include "preload/memory_locks.h"
#include "preload/route.h"
#include "preload/shown_budget.h"
#include "preload/stats_at_exit.h"
#include "preload/trace_file.h"
#include "swap/disk_ledger.h"

namespace buoy::preload {

constinit std::atomic<Pool*> detail::the_pool{nullptr};

namespace {

using detail::the_pool;

enum : std::uint32_t { kNone, kCreating, kReady };

// Plain zero-initialised data: used before constructors run, and in signal handlers.
constinit std::atomic<std::uint32_t> state{kNone};
constinit std::atomic<int> own_pid{0};
constinit Settings the_settings{};
constinit swap::DiskLedger disk_ledger;

[[noreturn]] void end_process() {
  for (;;) sys::call(SYS_exit_group, 2);
}

// Valgrind's own library stands in front of ours then. It knows neither userfaultfd nor some of our
// instructions, and would end its program by SIGILL.
bool is_in_valgrind() {
  const char* const preloaded = initial_environment("LD_PRELOAD");
  return preloaded != nullptr && std::strstr(preloaded, "/vgpreload_") != nullptr;
}

// With the gate, which signal delivery needs.
Result<Pool*> make_pool_with_gate(gate::OutOfReach others) {
  PoolOptions options = the_settings.pool;
  options.faults = Faults::kSignal;
  // Whoever makes the kernel hold pages does so by a system call: see gate/pinners.h.
  options.pins_are_known = true;
  const Result<Pool*> made = Pool::create(options);
  if (!made) return made;
  const Status gate = gate::install((*made)->vm(), &route, others);
  if (gate) return made;
  (void)Pool::destroy(*made);
  return gate.error();
}

Result<Pool*> make_pool_with_threads() {
  PoolOptions options = the_settings.pool;
  options.faults = Faults::kThread;
  options.pins_are_known = false;
  return Pool::create(options);
}

// By signal where every system call can be made to pass; else by threads, if that may be; else by
// signal, as far as it goes.
Result<Pool*> make_pool() {
  switch (the_settings.pool.faults) {
    case Faults::kSignal:
      return make_pool_with_gate(gate::OutOfReach::kAllowed);
    case Faults::kThread:
    case Faults::kThreadWhateverRights:  // not a program's system calls, which know no pins
      return make_pool_with_threads();
    case Faults::kAuto:
      break;
  }
  const Result<Pool*> by_signal = make_pool_with_gate(gate::OutOfReach::kRefused);
  if (by_signal) return by_signal;
  if (const Result<Pool*> by_thread = make_pool_with_threads()) return by_thread;
  return by_signal.code() == ENOEXEC ? make_pool_with_gate(gate::OutOfReach::kAllowed) : by_signal;
}

void accept_disk_ledger(PoolOptions& options) {
  const char* const text = initial_environment(environment::kDiskLedger);
  if (text == nullptr || options.backing_file == nullptr) return;
  if (const auto ledger = swap::DiskLedger::accept(text); ledger) {
    disk_ledger = *ledger;
    options.disk_ledger = &disk_ledger;
    return;
  }
  options.backing_file = nullptr;
  sys::complain(
      "the bound of the run's backing files is gone (a program closed its descriptor): this "
      "process "
      "goes without a file");
}

void create_pool() {
  if (is_in_valgrind()) {
    sys::Line()
        .text("valgrind cannot run a program in a budget; run it without `buoy run`")
        .complain();
    end_process();
  }
  const char* what = nullptr;
  const Result<Settings> read = read_settings(&what);
  if (!read) {
    sys::Line()
        .text("libbuoy_preload.so is loaded by `buoy run`: ")
        .text(what)
        .text(" is missing or wrong")
        .complain();
    end_process();
  }
  the_settings = *read;
  keep_environment_for_exec();
  if (const char* device = initial_environment(environment::kDevice))
    (void)mmu::uffd_source::accept(device);  // closed since: then there may be other ways
  if (const ByteSize budget = find_run(); budget != 0) {
    the_settings.pool.budget = budget;
  } else if (the_settings.scope == BudgetScope::kTree) {
    if (!lease::is_in_tree())
      sys::complain(
          "libbuoy_preload.so: the run's shared memory is not to be found, so there is no budget "
          "to "
          "take part in (its descriptor was closed)");
    end_process();
  }
  accept_disk_ledger(the_settings.pool);
  the_settings.pool.heartbeat = &beat_in_run;
  if (lease::is_in_tree()) the_settings.pool.more_room = &lease::find_more_room;
  const Result<Pool*> made = make_pool();
  if (!made) {
    const char* name = strerrordesc_np(made.code());
    sys::Line line;
    line.text("cannot set up a pool of ")
        .number(the_settings.pool.budget)
        .text(" bytes: ")
        .text(name != nullptr ? name : "unknown error")
        .text(" (see `buoy info`)");
    const std::uint64_t limit = sys::most_address_space();
    if (made.code() == ENOMEM && limit != UINT64_MAX)
      line.text("; the limit on address space or data (`ulimit -v`, `ulimit -d`) lets it have ")
          .number(limit >> 20)
          .text(" MiB at most");
    line.complain();
    end_process();
  }
  own_pid.store(static_cast<int>(sys::call(SYS_getpid)), std::memory_order_relaxed);
  prepare_stats_at_exit();
  start_trace(**made);
  the_pool.store(*made, std::memory_order_release);
  show_budget();
}

}  // namespace

Pool& pool() {
  Pool* p = the_pool.load(std::memory_order_acquire);
  if (__builtin_expect(p != nullptr, 1)) return *p;
  {
    // A handler of the program that interrupted the creation would wait for itself.
    const SignalBlock block;
    std::uint32_t seen = kNone;
    if (state.compare_exchange_strong(seen, kCreating)) {
      create_pool();
      state.store(kReady, std::memory_order_release);
      sys::futex_wake(&state, INT32_MAX);
      join_run_if_stats_are_wanted();
    }
  }
  while (state.load(std::memory_order_acquire) != kReady) sys::futex_wait(&state, kCreating);
  return *the_pool.load(std::memory_order_acquire);
}

const Settings& settings() { return the_settings; }

bool is_own_process() {
  return own_pid.load(std::memory_order_relaxed) == static_cast<int>(sys::call(SYS_getpid));
}

int own_process() { return own_pid.load(std::memory_order_relaxed); }

Status before_fork() {
  if (const Status s = lease::before_fork(); !s) return s;
  if (const Status s = pool().before_fork(); !s) {
    lease::after_fork_in_parent(-1);
    const char* name = strerrordesc_np(s.code());
    sys::Line()
        .text("fork refused: the child would have no userfaultfd (")
        .text(name != nullptr ? name : "unknown error")
        .text(")")
        .complain();
    return s;
  }
  pool().wait_for_handlers();
  return {};
}

void after_fork_in_parent(long child) {
  pool().after_fork_in_parent();
  lease::after_fork_in_parent(child);
}

void after_fork_in_child() {
  own_pid.store(static_cast<int>(sys::call(SYS_getpid)), std::memory_order_relaxed);
  stats_at_exit_after_fork_in_child();
  trace_after_fork_in_child();
  member_after_fork_in_child();
  fork_catcher_after_fork_in_child();
  gate::after_fork_in_child();
  if (const Status s = pool().after_fork_in_child(); !s) {
    const char* name = strerrordesc_np(s.code());
    sys::Line()
        .text("a fork child cannot set up its memory: ")
        .text(name != nullptr ? name : "unknown error")
        .complain();
    end_process();
  }
  memory_locks::after_fork_in_child();
}

}  // namespace buoy::preload
