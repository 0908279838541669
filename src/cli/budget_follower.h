// BudgetFollower: keeps the budgets of a run's processes at what `--budget auto` or `auto:pressure`
// asks for, while the run lasts.
//
//   every half second, and when the kernel tells of pressure (PSI):
//     the processes say what is resident;  the cgroup or the machine says what is free
//     budget of each = what is resident of it + its part of what is free
//
// So the budgets add up to what lies neither outside of them nor in the cushion, and a process that
// does not grow keeps nothing from the others for long. With auto:pressure a process has no more
// than NeedSeeker lets it have.
//
// A thread of its own. A budget that was set through the control socket ends it: what a person says
// counts more.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "cli/budget_request.h"
#include "cli/run_members.h"

namespace buoy::cli {

// What each process may have, of `free` bytes beside what is resident of each. No less than the
// floor, even where that is more than there is.
[[nodiscard]] std::vector<ByteSize> share_out(const std::vector<ByteSize>& resident, ByteSize free,
                                              ByteSize cushion, ByteSize floor);

// Finds the smallest budget with which a process has to wait for no more than so many faults a
// second: down by a part of what is left while it waits for fewer, up as it waits for more.
class NeedSeeker {
 public:
  struct Seen {
    ByteSize resident = 0;
    ByteSize most = 0;               // what it may have at all
    std::uint64_t faults = 0;        // that it has waited for, since it began
    std::chrono::milliseconds at{};  // of a steady clock
  };
  explicit NeedSeeker(unsigned faults_per_second) : target_(faults_per_second) {}
  // The budget from now on.
  [[nodiscard]] ByteSize next(const Seen& seen, ByteSize floor);
  // The budget that was enough, when less was not; if less always was enough, the least that was
  // tried. 0: nothing was tried long enough.
  [[nodiscard]] ByteSize need() const { return need_ != 0 ? need_ : enough_; }

 private:
  std::uint64_t target_;
  ByteSize budget_ = 0;  // 0: no decision yet
  ByteSize enough_ = 0;  // the last budget that was
  ByteSize need_ = 0;
  bool is_short_ = false;  // at the last look it had to wait for more
  Seen last_;
};

class BudgetFollower {
 public:
  BudgetFollower(RunMembers& members, const BudgetRequest& request, std::string root);
  ~BudgetFollower();
  BudgetFollower(const BudgetFollower&) = delete;
  BudgetFollower& operator=(const BudgetFollower&) = delete;

  // Waits for the thread; with auto:pressure, the sentence that says what the run needed. Else empty.
  [[nodiscard]] std::string finish();

 private:
  void run();
  // Waits until it is time to look, or for the end: false.
  [[nodiscard]] bool wait(int pressure);
  void look();
  [[nodiscard]] ByteSize seek(const MemberReply& reply, ByteSize resident, ByteSize most);
  // Opens a trigger for pressure, where the kernel lets us; else -1.
  [[nodiscard]] int open_pressure() const;

  RunMembers& members_;
  BudgetRequest request_;
  std::string root_;
  ByteSize extra_cushion_ = 0;  // more, the more pressure the kernel has told of lately
  std::map<pid_t, NeedSeeker> seekers_;
  ByteSize need_of_gone_ = 0;  // the most that one of the processes needed that have ended
  int stop_ = -1;              // an eventfd
  std::thread thread_;
};

}  // namespace buoy::cli
