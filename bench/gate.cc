// Benchmark `gate`: what system calls cost under `buoy run` in signal delivery, where they pass a
// gate, against the same calls natively; and what it costs to start a program there.
//
// Some calls are made past libc's functions, too: by its syscall(), whose number is not known ahead, so that it
// always enters the gate ("frame"); and by code made at run time, which is dispatched (a signal each).
//
// Each call is made by libc, on memory of the stack, of the program's static data (both the kernel's)
// and of a mapping (managed, and resident), in batches; the quickest batch counts, because what disturbs one only ever adds.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <new>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "bench.h"
#include "child.h"
#include "machine.h"
#include "report.h"
#include "samples.h"

namespace buoy::bench {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kLarge = std::size_t{64} << 10;
constexpr std::size_t kMappingBytes = std::size_t{1} << 20;
constexpr const char* kBudget = "268435456";
constexpr double kPatience = 120;  // seconds: only a hang takes so long

double nanoseconds_since(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

void check(bool is_right, const char* what) {
  if (!is_right) throw Unavailable(because_errno(what));
}

// What the calls are given: all of it in one place, the large buffer last, which leaves the others
// near the top of the stack, as those of a program are.
struct Operands {
  alignas(kPage) char small[64];
  iovec vector[2];
  epoll_event event;
  sigset_t set;
  sigset_t old_set;
  pthread_barrier_t barrier;
  std::uint64_t number;
  alignas(kPage) char large[kLarge];
};

// Descriptors that the calls work on; the process's end closes them.
class Descriptors {
 public:
  Descriptors() {
    file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    event = eventfd(0, EFD_CLOEXEC);
    poll = epoll_create1(EPOLL_CLOEXEC);
    check(file >= 0 && null >= 0 && event >= 0 && poll >= 0, "descriptors");
    epoll_event wanted = {EPOLLIN, {.fd = event}};
    check(epoll_ctl(poll, EPOLL_CTL_ADD, event, &wanted) == 0, "epoll_ctl");
    check(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagrams) == 0, "socketpair");
    check(pipe2(pipe, O_CLOEXEC) == 0, "pipe2");
  }
  int file;
  int null;
  int event;
  int poll;
  int datagrams[2];
  int pipe[2];
};

struct Operation {
  const char* name;
  std::function<void(Operands&, const Descriptors&)> once;
};

// One `once` is what is named, and is counted as one, also where it is several calls.
const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = {
      {"getppid", [](Operands&, const Descriptors&) { (void)getppid(); }},
      {"read 1 B of a file",
       [](Operands& o, const Descriptors& d) {
         check(pread(d.file, o.small, 1, 0) == 1, "pread");
       }},
      {"read 64 KiB of a file",
       [](Operands& o, const Descriptors& d) {
         check(pread(d.file, o.large, kLarge, 0) == kLarge, "pread");
       }},
      {"write 1 B to /dev/null",
       [](Operands& o, const Descriptors& d) { check(write(d.null, o.small, 1) == 1, "write"); }},
      {"write 64 KiB to /dev/null",
       [](Operands& o, const Descriptors& d) {
         check(write(d.null, o.large, kLarge) == kLarge, "write");
       }},
      {"write and read 1 B, pipe",
       [](Operands& o, const Descriptors& d) {
         check(write(d.pipe[1], o.small, 1) == 1, "write");
         check(read(d.pipe[0], o.small, 1) == 1, "read");
       }},
      {"writev to /dev/null",
       [](Operands& o, const Descriptors& d) {
         o.vector[0] = {o.small, 1};
         o.vector[1] = {o.small + 1, 1};
         check(writev(d.null, o.vector, 2) == 2, "writev");
       }},
      // A barrier of one thread wakes whoever might wait.
      {"futex wake",
       [](Operands& o, const Descriptors&) { (void)pthread_barrier_wait(&o.barrier); }},
      {"eventfd, epoll round trip",
       [](Operands& o, const Descriptors& d) {
         o.number = 1;
         check(write(d.event, &o.number, sizeof o.number) == sizeof o.number, "write");
         check(epoll_wait(d.poll, &o.event, 1, -1) == 1, "epoll_wait");
         check(read(d.event, &o.number, sizeof o.number) == sizeof o.number, "read");
       }},
      {"send and recv of a datagram",
       [](Operands& o, const Descriptors& d) {
         check(send(d.datagrams[0], o.small, 16, 0) == 16, "send");
         check(recv(d.datagrams[1], o.small, 16, 0) == 16, "recv");
       }},
      {"sigprocmask",
       [](Operands& o, const Descriptors&) {
         check(sigprocmask(SIG_SETMASK, &o.set, &o.old_set) == 0, "sigprocmask");
       }},
  };
  return all;
}

// As libc's syscall(): number and arguments; negative where it fails.
using RawCall = long (*)(long number, ...);

// Code that no loader has mapped.
RawCall made_at_run_time() {
  static constexpr unsigned char kCode[] = {
      0x48, 0x89, 0xf8,              // mov %rdi, %rax
      0x48, 0x89, 0xf7,              // mov %rsi, %rdi
      0x48, 0x89, 0xd6,              // mov %rdx, %rsi
      0x48, 0x89, 0xca,              // mov %rcx, %rdx
      0x4d, 0x89, 0xc2,              // mov %r8, %r10
      0x4d, 0x89, 0xc8,              // mov %r9, %r8
      0x4c, 0x8b, 0x4c, 0x24, 0x08,  // mov 8(%rsp), %r9
      0x0f, 0x05,                    // syscall
      0xc3,                          // ret
  };
  void* const code =
      mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(code != MAP_FAILED, "mmap");
  std::memcpy(code, kCode, sizeof kCode);
  check(mprotect(code, kPage, PROT_READ | PROT_EXEC) == 0, "mprotect");
  return reinterpret_cast<RawCall>(code);
}

constexpr const char* kFrame = "frame";
constexpr const char* kDispatched = "dispatched";

std::vector<Operation> raw_operations(RawCall call) {
  return {
      {"getppid",
       [call](Operands&, const Descriptors&) { (void)call(SYS_getppid, 0, 0, 0, 0, 0, 0); }},
      {"read 1 B of a file",
       [call](Operands& o, const Descriptors& d) {
         check(call(SYS_pread64, d.file, o.small, 1, 0, 0, 0) == 1, "pread64");
       }},
      {"read 64 KiB of a file",
       [call](Operands& o, const Descriptors& d) {
         check(call(SYS_pread64, d.file, o.large, kLarge, 0, 0, 0) == kLarge, "pread64");
       }},
      {"writev to /dev/null",
       [call](Operands& o, const Descriptors& d) {
         o.vector[0] = {o.small, 1};
         o.vector[1] = {o.small + 1, 1};
         check(call(SYS_writev, d.null, o.vector, 2, 0, 0, 0) == 2, "writev");
       }},
      {"futex wake",
       [call](Operands& o, const Descriptors&) {
         check(call(SYS_futex, &o.number, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0) == 0, "futex");
       }},
      {"eventfd, epoll round trip",
       [call](Operands& o, const Descriptors& d) {
         o.number = 1;
         check(call(SYS_write, d.event, &o.number, sizeof o.number, 0, 0, 0) == sizeof o.number,
               "write");
         check(call(SYS_epoll_wait, d.poll, &o.event, 1, -1, 0, 0) == 1, "epoll_wait");
         check(call(SYS_read, d.event, &o.number, sizeof o.number, 0, 0, 0) == sizeof o.number,
               "read");
       }},
  };
}

// Nanoseconds for each.
double quickest_batch(const Operation& operation, Operands& operands, const Descriptors& d) {
  constexpr double kBatchNanoseconds = 500'000;
  constexpr int kBatches = 60;
  unsigned n = 16;
  double quickest = 0;
  for (int batch = 0; batch < kBatches; ++batch) {
    const auto start = Clock::now();
    for (unsigned i = 0; i < n; ++i) operation.once(operands, d);
    const double took = nanoseconds_since(start);
    if (took < kBatchNanoseconds / 2 && batch < kBatches / 2) {
      n *= 2;  // still too short to be timed well
      quickest = 0;
    } else if (quickest == 0 || took / n < quickest) {
      quickest = took / n;
    }
  }
  return quickest;
}

std::string case_of(const Operation& operation, std::string_view where) {
  return fmt::format("{}, {}", operation.name, where);
}

// The name of a quantity of a sample has no spaces.
std::string quantity_of(const Operation& operation, std::string_view where) {
  std::string name = case_of(operation, where);
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

void measure_with(Operands& operands, const char* where, Sample& sample,
                  const std::vector<Operation>& measured = operations()) {
  std::memset(static_cast<void*>(&operands), 0, sizeof operands);
  sigemptyset(&operands.set);
  check(pthread_barrier_init(&operands.barrier, nullptr, 1) == 0, "pthread_barrier_init");
  const Descriptors descriptors;
  for (const Operation& operation : measured)
    sample[quantity_of(operation, where)] = quickest_batch(operation, operands, descriptors);
}

constexpr const char* kUnmanaged = "stack";
constexpr const char* kStatic = "static";
constexpr const char* kManaged = "managed";

// Beside this program, or installed.
std::string preload_library() {
  const std::string beside = program_folder() + "/libbuoy_preload.so";
  if (access(beside.c_str(), R_OK) == 0) return beside;
  return program_folder() + "/" BUOY_PRELOAD_FROM_BIN "/libbuoy_preload.so";
}

// Milliseconds from before it is executed until it has ended.
double time_of_true(char* const environment[]) {
  const char* const words[] = {"/bin/true", nullptr};
  const auto start = Clock::now();
  pid_t pid = -1;
  check(posix_spawn(&pid, words[0], nullptr, nullptr, const_cast<char* const*>(words),
                    environment) == 0,
        "posix_spawn");
  int status = -1;
  check(waitpid(pid, &status, 0) == pid && status == 0, "/bin/true");
  return nanoseconds_since(start) / 1e6;
}

}  // namespace

// threads=2: beside a thread that sleeps. A descriptor costs more then, in the kernel and in libc,
// and under `buoy run` there is always a second one.
BUOY_BENCH_SIDE(gate_calls) {
  if (text_of(arguments, "threads") == "2") std::thread([] { pause(); }).detach();
  Sample sample;
  {
    Operands on_stack;
    measure_with(on_stack, kUnmanaged, sample);
  }
  static Operands in_static_data;
  measure_with(in_static_data, kStatic, sample);
  void* const mapping =
      mmap(nullptr, kMappingBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  check(mapping != MAP_FAILED, "mmap");
  measure_with(*new (mapping) Operands, kManaged, sample);
  answer(sample);
}

// Past libc's functions, on the stack, beside a thread that sleeps. What is dispatched comes last: from
// then on it is paid for by each call that passes, too.
BUOY_BENCH_SIDE(gate_ways) {
  (void)arguments;
  std::thread([] { pause(); }).detach();
  Sample sample;
  Operands on_stack;
  measure_with(on_stack, kFrame, sample, raw_operations(&syscall));
  measure_with(on_stack, kDispatched, sample, raw_operations(made_at_run_time()));
  answer(sample);
}

// preload=1: with the library, in an environment as `buoy run` makes it.
BUOY_BENCH_SIDE(gate_start) {
  std::vector<std::string> variables = {"PATH=/usr/bin:/bin"};
  if (text_of(arguments, "preload") == "1")
    for (std::string variable :
         {"LD_PRELOAD=" + preload_library(), std::string("BUOY_BUDGET=") + kBudget,
          std::string("BUOY_BACKING_FILE=none"), std::string("BUOY_COMPRESSOR=lz4"),
          std::string("BUOY_FAULTS=signal"), std::string("BUOY_ON_EXHAUSTED=sigbus")})
      variables.push_back(std::move(variable));
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);
  constexpr std::size_t kStarts = 60;
  std::vector<double> times;
  for (std::size_t i = 0; i < kStarts; ++i) times.push_back(time_of_true(environment.data()));
  std::sort(times.begin(), times.end());
  answer({{"start", times[kStarts / 2]}});
}

BUOY_BENCH(gate,
           "system calls and start-up under `buoy run` in signal delivery: against natively") {
  constexpr const char* kPeer = "native";
  hold_machine();
  const auto side = [](const Command& command) {
    return [command] {
      Child child(command);
      Sample sample = child.wait_for_answer(kPatience);
      child.finish(kPatience);
      return sample;
    };
  };
  const std::vector<std::string> run = {
      program_folder() + "/buoy", "run", "--budget", kBudget, "--faults", "signal", "--"};
  const auto calls_side = [&side](const char* threads,
                                  const std::vector<std::string>& prefix = {}) {
    return side(side_command("gate_calls", {{"threads", threads}}, prefix));
  };
  const auto calls = run_interleaved({{"buoy", calls_side("1", run)},
                                      {"native, 2 threads", calls_side("2")},
                                      {kPeer, calls_side("1")}});
  for (const char* where : {kUnmanaged, kStatic, kManaged}) {
    for (const Operation& operation : operations()) {
      const std::string name = case_of(operation, where);
      if (!settings.wants(name)) continue;
      const std::string quantity = quantity_of(operation, where);
      report_pair(report, name, {"ns", Better::kLower}, calls[0], calls[2], quantity);
      report_pair(report, name + ", beside a thread", {"ns", Better::kLower}, calls[0], calls[1],
                  quantity);
    }
  }
  note_disturbance(report, calls);
  const auto ways = run_interleaved({{"buoy", side(side_command("gate_ways", {}, run))},
                                     {kPeer, side(side_command("gate_ways", {}))}});
  for (const char* way : {kFrame, kDispatched})
    for (const Operation& operation : raw_operations(nullptr))
      if (const std::string name = case_of(operation, way); settings.wants(name))
        report_pair(report, name, {"ns", Better::kLower}, ways[0], ways[1],
                    quantity_of(operation, way));
  note_disturbance(report, ways);
  if (!settings.wants("start-up")) return;
  const auto starts =
      run_interleaved({{"buoy", side(side_command("gate_start", {{"preload", "1"}}))},
                       {kPeer, side(side_command("gate_start", {{"preload", "0"}}))}});
  report_pair(report, "start-up of /bin/true", {"ms", Better::kLower}, starts[0], starts[1],
              "start");
  note_disturbance(report, starts);
}

}  // namespace buoy::bench
