// Is the table right? The kernel is asked: each harmless call of calls_testing.h is made with each of
// its operands in turn at the very end of what can be touched, or where it cannot be written.
//
//   as many bytes as the table says      the call does what it does on ordinary memory
//   one byte fewer                       EFAULT, or less comes
//   read-only memory                     the same for an input; EFAULT for an output
//   an output on two different fillings  every byte that the table says is new has been written, and
//                                        what had been there did not matter
//   not there, or not to be written, and then it is (kRetry): the second time the same as ever, and
//                                        no descriptor left over
//
// ctest: labels=no_sanitizer
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <map>
#include <optional>
#include <set>

#include "gate/calls_testing.h"
#include "gate/table.h"

namespace buoy::gate {
namespace {

using calls::Argument;
using calls::Call;
using calls::NamedCall;

constexpr std::size_t kPage = 4096, kRoom = 4 * kPage;
constexpr std::size_t kAside = 512;  // from an ordinary operand to the end of its memory

// Memory for one argument, with a page behind it that nobody may touch.
class Place {
 public:
  Place() {
    void* p = mmap(nullptr, kRoom + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    begin_ = static_cast<std::uint8_t*>(p);
    allow(PROT_READ | PROT_WRITE);
  }
  void allow(int protection) const { mprotect(begin_, kRoom, protection); }
  // The argument, with so many bytes that can be touched.
  [[nodiscard]] std::uint8_t* at(std::size_t visible) const { return begin_ + kRoom - visible; }

 private:
  std::uint8_t* begin_;
};

struct Trial {
  int argument = -1;                        // the one that is tried
  std::optional<std::size_t> visible = {};  // of it
  int protection = PROT_READ | PROT_WRITE;
  std::uint8_t filling = 0;  // of what is output only
};

struct Outcome {
  long result = 0;
  int error = 0;
  std::array<std::vector<std::uint8_t>, 6> after{};
};

// How many bytes an operand has as the table says: of those behind pointers, the first level.
std::size_t declared(const Operand& o, const Call& call) {
  const Argument& self = call.arguments[o.argument];
  const auto number = [&] { return static_cast<std::size_t>(call.arguments[o.by].number); };
  const auto word = [&](const Argument& a, std::size_t index) {
    std::uint32_t value = 0;
    std::memcpy(&value, a.bytes.data() + 4 * index, 4);
    return value;
  };
  switch (o.size) {
    case Size::kFixed:
      return o.bytes;
    case Size::kCounted:
      return number() * o.bytes;
    case Size::kCountedWord:
      return word(call.arguments[o.by], 0);
    case Size::kString:
      return std::strlen(reinterpret_cast<const char*>(self.bytes.data())) + 1;
    case Size::kBits:
      return (number() - o.bytes + 63) / 64 * 8;
    case Size::kVector:
      return 16 * number();
    case Size::kMessage:
      return 56;
    case Size::kMessages:
      return 64 * number();
    case Size::kStrings:
      return self.bytes.size();  // up to its null
    case Size::kPointers:
      return 8 * number();
    case Size::kSigsetPair:
      return 16;
    case Size::kSelfSized:
      return word(self, o.by) + o.bytes;
    case Size::kMsgbuf:
      return 8 + number();
    case Size::kWaiters:
      return 24 * (o.bytes != 0 ? o.bytes : number());
    case Size::kPages:
      return (number() + kPage - 1) / kPage;
    case Size::kIoctl:
    case Size::kByCommand:
      break;
  }
  return self.bytes.size();
}

// Which way the first level goes.
Direction first_level(const Operand& o) {
  switch (o.size) {
    case Size::kVector:
      return Direction::kIn;
    case Size::kMessages:
      return Direction::kInOut;
    case Size::kMessage:
      return o.direction == Direction::kIn ? o.direction : Direction::kInOut;
    default:
      return o.direction;
  }
}

// Tries one call; what is wrong is told in `complaints`.
class Examination {
 public:
  Examination(const Entry& entry, Call call) : entry_(entry), call_(std::move(call)) {}

  // False if it cannot be made here.
  bool run() {
    usual_ = make({});
    if (usual_.error == ENOSYS) return false;
    if (usual_.error == EFAULT) complain(-1, "answers EFAULT on ordinary memory");
    check_that_all_memory_is_known();
    for (unsigned i = 0; i < entry_.count; ++i) {
      const Operand& o = entry_.operands[i];
      if (o.size == Size::kByCommand || o.size == Size::kIoctl) continue;
      if (o.argument < call_.arguments.size() && call_.arguments[o.argument].memory) examine(o);
    }
    if (call_.inner != nullptr) examine_inner();
    return true;
  }
  [[nodiscard]] const std::string& complaints() const { return complaints_; }
  [[nodiscard]] int usual_error() const { return usual_.error; }

 private:
  void complain(int argument, const std::string& what) {
    complaints_ +=
        std::string(entry_.name) + ", argument " + std::to_string(argument) + ": " + what + "\n";
  }

  [[nodiscard]] bool is_output_only(std::size_t argument) const {
    for (unsigned i = 0; i < entry_.count; ++i) {
      const Operand& o = entry_.operands[i];
      if (o.argument == argument && o.size != Size::kByCommand)
        return first_level(o) == Direction::kOut;
    }
    return false;
  }

  // Where argument i lies in this trial, with its contents.
  std::uint8_t* place(std::size_t i, const Trial& trial) {
    const Argument& a = call_.arguments[i];
    std::size_t visible = a.bytes.size() + kAside;
    if (trial.argument == static_cast<int>(i) && trial.visible) visible = *trial.visible;
    std::uint8_t* p = places_[i].at(visible);
    const std::size_t held = std::min(visible, a.bytes.size());
    if (is_output_only(i)) {
      std::memset(p, trial.filling, held);
    } else if (held != 0) {
      std::memcpy(p, a.bytes.data(), held);
    }
    return p;
  }

  Outcome call_once(const Trial& trial) {
    long values[6] = {};
    std::uint8_t* memory[6] = {};
    for (std::size_t i = 0; i < call_.arguments.size(); ++i) {
      values[i] = call_.arguments[i].number;
      if (!call_.arguments[i].memory) continue;
      memory[i] = place(i, trial);
      values[i] = reinterpret_cast<long>(memory[i]);
    }
    const bool tried = trial.argument >= 0;
    if (tried) places_[trial.argument].allow(trial.protection);
    Outcome outcome;
    errno = 0;
    outcome.result =
        syscall(entry_.number, values[0], values[1], values[2], values[3], values[4], values[5]);
    outcome.error = outcome.result == -1 ? errno : 0;
    if (tried) places_[trial.argument].allow(PROT_READ | PROT_WRITE);
    for (std::size_t i = 0; i < call_.arguments.size(); ++i) {
      if (memory[i] == nullptr) continue;
      const std::uint8_t* end = places_[i].at(0);
      const auto held = std::min<std::size_t>(static_cast<std::size_t>(end - memory[i]),
                                              call_.arguments[i].bytes.size());
      outcome.after[i].assign(memory[i], memory[i] + held);
    }
    return outcome;
  }

  Outcome make(const Trial& trial) {
    if (call_.before) call_.before();
    Outcome outcome = call_once(trial);
    if (call_.after) call_.after(outcome.result);
    return outcome;
  }

  [[nodiscard]] bool as_usual(const Outcome& o) const {
    return o.error == usual_.error && (!call_.same_result || o.result == usual_.result);
  }

  void check_that_all_memory_is_known() {
    for (std::size_t i = 0; i < call_.arguments.size(); ++i) {
      bool known = !call_.arguments[i].memory;
      for (unsigned k = 0; k < entry_.count; ++k) known |= entry_.operands[k].argument == i;
      if (!known) complain(static_cast<int>(i), "is memory, of which the table does not know");
    }
  }

  // How much of it the kernel uses in this call.
  [[nodiscard]] std::size_t used(const Operand& o) const {
    if (o.size == Size::kMessages) return declared(o, call_) - 4;  // not the last one's padding
    if (o.size == Size::kVector || o.size == Size::kMessage || o.produced == Produced::kAll)
      return declared(o, call_);
    const std::size_t header = o.size == Size::kMsgbuf ? 8 : 0;
    return usual_.result < 0 ? 0 : header + static_cast<std::size_t>(usual_.result) * o.bytes;
  }

  void examine(const Operand& o) {
    const int a = o.argument;
    const std::size_t room = call_.arguments[o.argument].bytes.size();
    if (declared(o, call_) != room)
      complain(a, "has " + std::to_string(room) + " bytes, the table says " +
                      std::to_string(declared(o, call_)));
    const std::size_t enough = used(o);
    const bool strict = (call_.loose & (1U << a)) == 0 && enough != 0;
    check(make({.argument = a, .visible = enough}), true, a, "with just enough bytes");
    if (strict) check(make({.argument = a, .visible = enough - 1}), false, a, "with too few bytes");
    const bool input = first_level(o) == Direction::kIn;
    if (input || strict)
      check(make({.argument = a, .protection = PROT_READ}), input, a, "in read-only memory");
    if (strict && first_level(o) == Direction::kOut && usual_.error == 0) check_written(o, enough);
    if (entry_.kind != Class::kRetry) return;
    check_again(o, PROT_NONE, strict);
    check_again(o, PROT_READ, strict && !input);
  }

  void check(const Outcome& outcome, bool expect_usual, int argument, const char* where) {
    if (as_usual(outcome) == expect_usual) {
      if (expect_usual || outcome.error == EFAULT || outcome.result < usual_.result) return;
    }
    complain(argument, std::string(where) + " it returns " + std::to_string(outcome.result) + ", " +
                           strerror(outcome.error) + "; usual is " + std::to_string(usual_.result) +
                           ", " + strerror(usual_.error));
  }

  void check_written(const Operand& o, std::size_t enough) {
    const Outcome one = make({.filling = 0x5a}), other = make({.filling = 0xa5});
    check(one, true, o.argument, "on other contents");
    check(other, true, o.argument, "on other contents");
    const auto& a = one.after[o.argument];
    const auto& b = other.after[o.argument];
    for (std::size_t i = 0; i < a.size(); ++i) {
      const bool written = a[i] != 0x5a || b[i] != 0xa5;
      if (written == (i < enough)) continue;
      complain(o.argument, "byte " + std::to_string(i) + (written ? " is" : " is not") +
                               " written, of " + std::to_string(enough));
      return;
    }
  }

  // Which way goes what the structures among the arguments point at.
  [[nodiscard]] std::optional<Direction> inner_direction() const {
    for (unsigned i = 0; i < entry_.count; ++i) {
      const Operand& o = entry_.operands[i];
      switch (o.size) {
        case Size::kVector:
        case Size::kMessage:
        case Size::kMessages:
        case Size::kStrings:
        case Size::kSigsetPair:
        case Size::kWaiters:
        case Size::kByCommand:
          return o.direction;
        default:
          break;
      }
    }
    return {};
  }

  Outcome make_with_inner(int protection) {
    if (call_.before) call_.before();
    mprotect(call_.inner, kPage, protection);
    Outcome outcome = call_once({});
    mprotect(call_.inner, kPage, PROT_READ | PROT_WRITE);
    if (entry_.kind == Class::kRetry && outcome.error == EFAULT) {
      const Outcome again = call_once({});
      check(again, true, -1, "after what it points at was not there");
      if (call_.after) call_.after(again.result);
    } else if (call_.after) {
      call_.after(outcome.result);
    }
    return outcome;
  }

  void examine_inner() {
    const auto direction = inner_direction();
    if (!direction) return complain(-1, "points at memory, of which the table does not know");
    check(make_with_inner(PROT_NONE), false, -1, "with what it points at not there");
    check(make_with_inner(PROT_READ), *direction == Direction::kIn, -1,
          "with what it points at read-only");
  }

  static int next_descriptor() {
    const int fd = dup(2);
    close(fd);
    return fd;
  }

  // It fails first: nothing may have happened, so that a second call does all of it.
  void check_again(const Operand& o, int protection, bool fails) {
    if (call_.before) call_.before();
    const int next = next_descriptor();
    Outcome outcome = call_once({.argument = o.argument, .protection = protection});
    if (fails) check(outcome, false, o.argument, "without memory, or not allowed to write");
    if (outcome.error == EFAULT) {
      if (next_descriptor() != next) complain(o.argument, "leaves a descriptor when it fails");
      outcome = call_once({});
      check(outcome, true, o.argument, "after it had failed");
    }
    if (call_.after) call_.after(outcome.result);
  }

  const Entry& entry_;
  Call call_;
  std::array<Place, 6> places_{};
  Outcome usual_{};
  std::string complaints_{};
};

enum class Verdict { kExamined, kCannot, kWrong };

struct Report {
  Verdict verdict = Verdict::kWrong;
  std::string text{};
};

// In a child, which has to say something in ten seconds.
void examine_in_child(const NamedCall& named, const Entry& entry, int to) {
  alarm(10);
  std::string text;
  int status = 2;
  if (calls::forbid_harm()) {
    Examination examination(entry, named.make());
    status = !examination.run() ? 1 : examination.complaints().empty() ? 0 : 2;
    text = examination.complaints();
    if (status == 0 && examination.usual_error() != 0)
      text = std::string("refused: ") + strerror(examination.usual_error());
  } else {
    text = "no way to become an ordinary user with a folder\n";
  }
  (void)!write(to, text.data(), text.size());
  calls::leave_no_traces();
  _exit(status);
}

Report examine(const NamedCall& named, const Entry& entry) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  const pid_t child = fork();
  if (child == 0) examine_in_child(named, entry, ends[1]);
  close(ends[1]);
  Report report;
  char some[1024];
  for (ssize_t n = 0; (n = read(ends[0], some, sizeof some)) > 0;)
    report.text.append(some, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status)) report.text += "killed by signal " + std::to_string(WTERMSIG(status));
  if (WIFEXITED(status)) report.verdict = static_cast<Verdict>(WEXITSTATUS(status));
  return report;
}

TEST(TableCalls, KernelAgreesAboutOperands) {
  std::set<long> examined;
  std::string refused, absent;
  for (const NamedCall& named : calls::all_calls()) {
    const Report report = examine(named, entry_of(named.number));
    const std::string name = entry_of(named.number).name;
    if (report.verdict == Verdict::kWrong) ADD_FAILURE() << name << ":\n" << report.text;
    if (report.verdict == Verdict::kCannot) absent += " " + name;
    if (report.verdict == Verdict::kExamined) examined.insert(named.number);
    if (!report.text.empty() && report.verdict == Verdict::kExamined)
      refused += "  " + name + " " + report.text + "\n";
  }
  std::printf("%zu system calls examined; not here:%s\n%s", examined.size(), absent.c_str(),
              refused.c_str());
  EXPECT_GE(examined.size(), 120U);
}

// The same examination finds them out if the table says that they may be called again.
TEST(TableCalls, LossyOnesLose) {
  const std::set<std::string> known = {"accept",          "recvfrom", "wait4",
                                       "rt_sigtimedwait", "msgrcv",   "mq_timedreceive"};
  std::size_t tried = 0;
  for (const NamedCall& named : calls::all_calls()) {
    Entry entry = entry_of(named.number);
    if (!known.contains(entry.name)) continue;
    EXPECT_EQ(entry.kind, Class::kLossy) << entry.name;
    entry.kind = Class::kRetry;
    EXPECT_EQ(examine(named, entry).verdict, Verdict::kWrong) << entry.name;
    ++tried;
  }
  EXPECT_EQ(tried, known.size());
}

}  // namespace
}  // namespace buoy::gate
