// tree_family PROCESSES MIB ROUNDS [calm]: processes that each stamp MIB of memory and find the stamps
// again, by random reads and stores, in rounds of 2000; unless calm, they fork children that check a
// copy, and some are killed and begun anew. For a budget that all of them share, far smaller than what
// they hold. Prints the pages looked at and the time from when all have stamped to when all are done.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include "check.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned kLooks = 2000;

struct Family {
  unsigned processes;
  std::size_t pages;
  unsigned rounds;
  bool is_calm;
};

class Member {
 public:
  Member(std::uint64_t id, std::size_t pages) : id_(id), versions_(pages) {
    memory_ = static_cast<char*>(
        mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(memory_ != MAP_FAILED);
    for (std::size_t page = 0; page < pages; ++page) store(page);
  }
  // Most looks go to a quarter of the pages.
  void look(std::uint64_t random) {
    const std::size_t part = random >> 62 == 0 ? versions_.size() : versions_.size() / 4;
    const std::size_t page = random % part;
    check(page);
    if (random >> 40 & 1) store(page);
  }
  void check_some(std::size_t step) const {
    for (std::size_t page = 0; page < versions_.size(); page += step) check(page);
  }

 private:
  [[nodiscard]] std::uint64_t name(std::size_t page) const { return id_ << 32 | page; }
  void store(std::size_t page) { stamp(memory_ + page * kPage, name(page), ++versions_[page]); }
  void check(std::size_t page) const {
    check_stamp(memory_ + page * kPage, name(page), versions_[page]);
  }

  std::uint64_t id_;
  std::vector<std::uint64_t> versions_;
  char* memory_ = nullptr;
};

void work(const Family& family, std::uint64_t id, int ready) {
  Member member(id, family.pages);
  CHECK(write(ready, "r", 1) == 1);
  std::uint64_t random = id;
  for (unsigned round = 1; round <= family.rounds; ++round) {
    for (unsigned i = 0; i < kLooks; ++i) member.look(random = mix(random + i));
    if (family.is_calm || round % 8 != 0) continue;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      member.check_some(16);
      _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
  }
  member.check_some(16);
}

struct Child {
  pid_t pid = 0;
  int from = -1;
};

Child begin(const Family& family, std::uint64_t id) {
  int ends[2];
  CHECK(pipe(ends) == 0);
  const pid_t pid = fork();
  CHECK(pid >= 0);
  if (pid == 0) {
    close(ends[0]);
    work(family, id, ends[1]);
    _exit(0);
  }
  close(ends[1]);
  return {pid, ends[0]};
}

void wait_until_stamped(const Child& child) {
  char ready = 0;
  CHECK(read(child.from, &ready, 1) == 1);
}

void finish(const Child& child) {
  int status = 0;
  CHECK(waitpid(child.pid, &status, 0) == child.pid && status == 0);
  close(child.from);
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc >= 4);
  Family family{};
  family.processes = static_cast<unsigned>(std::stoul(argv[1]));
  family.pages = (std::stoul(argv[2]) << 20) / kPage;
  family.rounds = static_cast<unsigned>(std::stoul(argv[3]));
  family.is_calm = argc > 4 && std::string(argv[4]) == "calm";
  std::vector<Child> children;
  std::uint64_t id = 1;
  for (; id <= family.processes; ++id) children.push_back(begin(family, id));
  for (const Child& child : children) wait_until_stamped(child);
  const Clock::time_point began = Clock::now();
  for (unsigned turn = 0; !family.is_calm && turn < 3; ++turn) {
    usleep(300'000);
    Child& victim = children[turn % children.size()];
    kill(victim.pid, SIGKILL);
    CHECK(waitpid(victim.pid, nullptr, 0) == victim.pid);
    close(victim.from);
    victim = begin(family, id++);
    if (turn % 2 == 0) wait_until_stamped(victim);
  }
  for (const Child& child : children) finish(child);
  const std::chrono::duration<double> took = Clock::now() - began;
  std::printf("%u looks in %.2f s\n", family.processes * family.rounds * kLooks, took.count());
}
