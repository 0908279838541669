#include "pool_testing.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <utility>

#include "base/mix_testing.h"

namespace buoy::testing {

double stress_seconds(double otherwise) {
  const char* text = std::getenv("BUOY_STRESS_SECONDS");
  return text == nullptr ? otherwise : std::atof(text);
}

std::string name_of(Delivery delivery) {
  return delivery == Delivery::kSignal ? "Signal" : "Thread";
}

// ---- TestPool ---------------------------------------------------------------------------------

TestPool::TestPool(Delivery delivery, std::size_t budget, int on_exhausted) {
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = budget;
  options.faults = static_cast<int>(delivery);
  options.on_exhausted = on_exhausted;
  if (buoy_pool_create(&options, &pool_) != 0) {
    pool_ = nullptr;
    why_not_ = name_of(delivery) + " delivery is not available: " + std::strerror(errno);
  }
}

TestPool::~TestPool() {
  if (pool_ == nullptr) return;
  EXPECT_EQ(destroy(), 0);
}

int TestPool::destroy() {
  const int error = buoy_pool_destroy(pool_) == 0 ? 0 : errno;
  if (error == 0) pool_ = nullptr;
  return error;
}

std::uint64_t TestPool::stat(const char* name) const {
  std::uint64_t value = 0;
  EXPECT_EQ(buoy_pool_stat(pool_, name, &value), 0) << name;
  return value;
}

std::uint64_t TestPool::populated_bytes() const {
  Context& context = engine().context();
  return (context.mmu->populated_pages() + context.arena->taken()).bytes();
}

void TestPool::validate() const {
  // The background reclaimer may be inside the arena: it rests meanwhile.
  engine().vm().reclaimer().stop_background();
  engine().validate();
  EXPECT_TRUE(engine().vm().reclaimer().start_background().ok());
}

// ---- Stamps -----------------------------------------------------------------------------------

namespace {
std::uint64_t word_of(std::uint64_t owner, std::uint64_t version, std::size_t i) {
  if (version == 0) return 0;
  return i % 4 == 0 ? mix(owner * 1000003 + version * 31 + i) : owner << 32 | version;
}
constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);
}  // namespace

void stamp_page(std::byte* page, std::uint64_t owner, std::uint64_t version) {
  auto* words = reinterpret_cast<std::uint64_t*>(page);
  for (std::size_t i = 0; i < kWords; ++i) words[i] = word_of(owner, version, i);
}

bool holds_stamp(const std::byte* page, std::uint64_t owner, std::uint64_t version) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(page);
  for (std::size_t i = 0; i < kWords; ++i)
    if (words[i] != word_of(owner, version, i)) return false;
  return true;
}

// ---- Children ---------------------------------------------------------------------------------

Child::Child(const std::function<void()>& body) {
  int fds[2];
  EXPECT_EQ(pipe(fds), 0);
  pid_ = fork();
  if (pid_ == 0) {
    dup2(fds[1], STDERR_FILENO);
    alarm(30);
    body();
    _exit(0);
  }
  close(fds[1]);
  stderr_ = fds[0];
}

Ended Child::wait() {
  Ended ended;
  char buffer[4096];
  for (ssize_t n; (n = read(stderr_, buffer, sizeof buffer)) > 0;)
    ended.said.append(buffer, static_cast<std::size_t>(n));
  close(stderr_);
  EXPECT_EQ(waitpid(pid_, &ended.status, 0), pid_);
  return ended;
}

Ended run_in_child(const std::function<void()>& body) { return Child(body).wait(); }

std::thread started_thread(std::function<void()> body) {
  std::promise<void> started;
  std::future<void> has_started = started.get_future();
  std::thread thread([body = std::move(body), started = std::move(started)]() mutable {
    started.set_value();
    body();
  });
  has_started.wait();
  return thread;
}

void must(bool good, const char* what) {
  if (good) return;
  dprintf(STDERR_FILENO, "not so: %s (errno %d)\n", what, errno);
  _exit(1);
}

// ---- OutsideObserver --------------------------------------------------------------------------

namespace {
std::size_t rss_anon(int pid) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/status", pid);
  char text[8192];
  const long size = sys::read_file(path, text, sizeof text - 1);
  if (size <= 0) return 0;
  text[size] = 0;
  const char* line = std::strstr(text, "RssAnon:");
  return line == nullptr ? 0 : std::strtoull(line + 8, nullptr, 10) * 1024;
}

[[noreturn]] void sample(int parent, int commands, int results) {
  const std::size_t before = rss_anon(parent);
  std::size_t peak = before;
  pollfd waits{commands, POLLIN, 0};
  while (poll(&waits, 1, 10) == 0) {
    const std::size_t now = rss_anon(parent);
    if (now > peak) peak = now;
  }
  const std::size_t growth = peak - before;
  const bool told = write(results, &growth, sizeof growth) == sizeof growth;
  _exit(told ? 0 : 1);
}
}  // namespace

OutsideObserver::OutsideObserver() {
  int commands[2];
  int results[2];
  if (pipe2(commands, O_CLOEXEC) != 0 || pipe2(results, O_CLOEXEC) != 0) std::abort();
  const int parent = getpid();
  child_ = fork();
  if (child_ == 0) {
    close(commands[1]);
    close(results[0]);
    sample(parent, commands[0], results[1]);
  }
  close(commands[0]);
  close(results[1]);
  to_child_ = commands[1];
  from_child_ = results[0];
}

OutsideObserver::~OutsideObserver() {
  if (child_ > 0) (void)peak_growth();
}

std::size_t OutsideObserver::peak_growth() {
  std::size_t growth = 0;
  close(to_child_);
  EXPECT_EQ(read(from_child_, &growth, sizeof growth), static_cast<ssize_t>(sizeof growth));
  close(from_child_);
  int status = 0;
  EXPECT_EQ(waitpid(child_, &status, 0), child_);
  EXPECT_EQ(status, 0);
  child_ = -1;
  return growth;
}

}  // namespace buoy::testing
