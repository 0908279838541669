// disk_tree BOUND_MIB: for `buoy run --budget 16M --backing-file-size BOUND`. Children store more than
// fits, one after the other, under a bound that has room for one of them: what all backing files take on
// the disk, as the kernel says, never passes the bound; who finds no room ends by SIGBUS and nobody else
// loses anything; and the room of who was killed comes back, once nobody reads its file any more.
#include <dirent.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kPages = (30U << 20) / kPage;

std::uint64_t noise(std::uint64_t owner, std::size_t page, std::size_t i) {
  return mix(owner << 48 | page << 16 | i);
}
void fill(std::uint64_t* memory, std::uint64_t owner) {
  for (std::size_t p = 0; p < kPages; ++p)
    for (std::size_t i = 0; i < kPage / 8; ++i) memory[p * kPage / 8 + i] = noise(owner, p, i);
}
void check(const std::uint64_t* memory, std::uint64_t owner) {
  for (std::size_t p = 0; p < kPages; ++p)
    for (std::size_t i = 0; i < kPage / 8; ++i)
      CHECK(memory[p * kPage / 8 + i] == noise(owner, p, i));
}

// Disk that unlinked files take which the process has open, by what they are.
using Files = std::set<std::pair<dev_t, ino_t>>;
std::uint64_t disk_of(pid_t pid, Files& seen) {
  const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
  DIR* const list = opendir(folder.c_str());
  if (list == nullptr) return 0;  // it has just ended
  std::uint64_t bytes = 0;
  while (const dirent* entry = readdir(list)) {
    const std::string path = folder + "/" + entry->d_name;
    char target[64] = {};
    struct stat st {};
    if (readlink(path.c_str(), target, sizeof target - 1) < 0 || stat(path.c_str(), &st) != 0)
      continue;
    if (!S_ISREG(st.st_mode) || st.st_nlink != 0 || std::string(target).rfind("/memfd:", 0) == 0)
      continue;
    if (seen.insert({st.st_dev, st.st_ino}).second)
      bytes += static_cast<std::uint64_t>(st.st_blocks) * 512;
  }
  closedir(list);
  return bytes;
}

// A process that does as it is told, one letter at a time, and says that it is done.
class Worker {
 public:
  explicit Worker(std::uint64_t owner) {
    int down[2];
    int up[2];
    CHECK(pipe(down) == 0 && pipe(up) == 0);
    pid_ = fork();
    CHECK(pid_ >= 0);
    if (pid_ == 0) {
      close(down[1]);
      close(up[0]);
      obey(owner, down[0], up[1]);
    }
    close(down[0]);
    close(up[1]);
    tell_ = down[1];
    hear_ = up[0];
  }
  void tell(char what) const { CHECK(write(tell_, &what, 1) == 1); }
  // Its answer, or 0 if it ended.
  [[nodiscard]] pid_t answer() const {
    pid_t said = 0;
    return read(hear_, &said, sizeof said) == sizeof said ? said : 0;
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  [[nodiscard]] int hear() const { return hear_; }
  [[nodiscard]] int end() const {
    int status = 0;
    close(tell_);
    CHECK(waitpid(pid_, &status, 0) == pid_);
    close(hear_);
    return status;
  }

 private:
  [[noreturn]] static void obey(std::uint64_t owner, int from, int to) {
    auto* const memory = static_cast<std::uint64_t*>(
        mmap(nullptr, kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(memory != MAP_FAILED);
    char what = 0;
    while (read(from, &what, 1) == 1) {
      pid_t said = getpid();
      if (what == 'f') fill(memory, owner);
      if (what == 'c') check(memory, owner);
      // A child that takes over: it hears the next letters, while its parent sleeps.
      if (what == 'p' && (said = fork()) != 0)
        for (;;) pause();
      if (what == 'p') said = getpid();
      CHECK(write(to, &said, sizeof said) == sizeof said);
    }
    _exit(0);
  }
  pid_t pid_ = 0;
  int tell_ = -1;
  int hear_ = -1;
};

}  // namespace

int main(int argc, char** argv) {
  const std::uint64_t bound = argument(argc, argv, 1, 24) << 20;
  signal(SIGPIPE, SIG_IGN);
  std::uint64_t most = 0;
  const auto measure = [&](const std::vector<pid_t>& pids) {
    Files seen;
    std::uint64_t sum = disk_of(getpid(), seen);
    for (const pid_t pid : pids) sum += disk_of(pid, seen);
    if (sum > most) most = sum;
  };
  // Does the letter, measured all the while; the answer.
  const auto do_measured = [&](const Worker& worker, char what, std::vector<pid_t> pids) {
    pids.push_back(worker.pid());
    worker.tell(what);
    pollfd heard{worker.hear(), POLLIN, 0};
    do {
      measure(pids);
    } while (poll(&heard, 1, 2) == 0);
    const pid_t answer = worker.answer();
    measure(pids);
    return answer;
  };
  const auto is_full = [](const Worker& worker) {
    const int status = worker.end();
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS;
  };

  const Worker first(1);
  CHECK(do_measured(first, 'f', {}) != 0);
  const std::uint64_t first_has = most;
  CHECK(first_has > bound / 3);  // else nothing is shown
  const Worker second(2);
  CHECK(do_measured(second, 'f', {first.pid()}) == 0);
  CHECK(is_full(second));
  CHECK(do_measured(first, 'c', {}) != 0);

  // The first is killed while a child of its reads its file.
  const pid_t heir = do_measured(first, 'p', {});
  CHECK(heir != 0 && kill(first.pid(), SIGKILL) == 0);
  CHECK(waitpid(first.pid(), nullptr, 0) == first.pid());
  const Worker third(3);
  CHECK(do_measured(third, 'f', {heir}) == 0);
  CHECK(is_full(third));
  CHECK(do_measured(first, 'c', {heir}) == heir);
  CHECK(kill(heir, SIGKILL) == 0);
  while (kill(heir, 0) == 0 && first.answer() != 0) {
  }

  const Worker fourth(4);
  CHECK(do_measured(fourth, 'f', {}) != 0);
  CHECK(do_measured(fourth, 'c', {}) != 0);
  CHECK(fourth.end() == 0);
  std::printf("within the bound: %s\n", most <= bound ? "yes" : "no");
  CHECK(most <= bound);
  return 0;
}
