#include "cli/budget_follower.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <string_view>
#include <system_error>

#include "api/pool.h"

namespace buoy::cli {
namespace {

using control::Op;
using std::chrono::duration_cast;
using std::chrono::milliseconds;
using Kind = BudgetRequest::Kind;

constexpr milliseconds kBetweenLooks{500};
constexpr milliseconds kForStats{2000};
constexpr milliseconds kForBudget{2000};
// Changes that are smaller are not worth the call; but less than that is always obeyed.
constexpr ByteSize kGrain = ByteSize{1} << 20;

std::uint64_t word(const MemberReply& reply, std::string_view name) {
  for (std::size_t i = 0; i < reply.words.size(); ++i)
    if (Pool::stat_name(i) == name) return reply.words[i];
  return 0;
}

milliseconds now() {
  return duration_cast<milliseconds>(std::chrono::steady_clock::now().time_since_epoch());
}

ByteSize whole_pages(ByteSize bytes) { return bytes / kPageSize * kPageSize; }

}  // namespace

std::vector<ByteSize> share_out(const std::vector<ByteSize>& resident, ByteSize free,
                                ByteSize cushion, ByteSize floor) {
  const ByteSize all = std::accumulate(resident.begin(), resident.end(), ByteSize{0});
  std::vector<ByteSize> budgets;
  for (const ByteSize own : resident) {
    ByteSize budget = 0;
    if (free >= cushion) {
      budget = own + (free - cushion) / resident.size();
    } else {
      const ByteSize lacking = std::min(cushion - free, all);
      const auto part = static_cast<double>(own) / static_cast<double>(std::max<ByteSize>(all, 1));
      budget = own - std::min(own, static_cast<ByteSize>(part * static_cast<double>(lacking)));
    }
    budgets.push_back(whole_pages(std::clamp(budget, floor, kLargestBudget)));
  }
  return budgets;
}

ByteSize NeedSeeker::next(const Seen& seen, ByteSize floor) {
  constexpr milliseconds kLeast{400};  // a rate over less is noise
  const ByteSize most = std::max(seen.most, floor);
  if (budget_ == 0) {
    last_ = seen;
    budget_ = most;
    return budget_;
  }
  const milliseconds took = seen.at - last_.at;
  if (took < kLeast) return std::min(budget_, most);
  const std::uint64_t rate = (seen.faults - std::min(seen.faults, last_.faults)) * 1000 /
                             static_cast<std::uint64_t>(took.count());
  last_ = seen;
  if (rate <= target_) {
    enough_ = std::min(budget_, seen.resident);
    // Fewer faults, larger steps: at most a sixteenth; carefully, once it is known what is too little.
    const ByteSize step = enough_ / (need_ == 0 ? 16 : 64) * (target_ - rate + 1) / (target_ + 1);
    budget_ = enough_ - std::min(enough_, std::max(step, enough_ / 256));
    is_short_ = false;
  } else {
    // Shrinking takes pages that are wanted along with those that are not; once they are back, it may
    // do. So less is not enough only if it is not a second time.
    if (is_short_) need_ = std::max(need_, enough_);
    // The more it waits the more it gets: from a 64th to a quarter.
    const std::uint64_t times = std::clamp<std::uint64_t>(rate / target_, 1, 16);
    if (is_short_) budget_ += std::max(budget_ / 64 * times, kGrain);
    is_short_ = true;
  }
  budget_ = whole_pages(std::clamp(budget_, floor, most));
  return budget_;
}

BudgetFollower::BudgetFollower(RunMembers& members, const BudgetRequest& request, std::string root)
    : members_(members), request_(request), root_(std::move(root)) {
  stop_ = eventfd(0, EFD_CLOEXEC);
  if (stop_ < 0) return;
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    say("warning: no thread can be had, so the budget stays what it is now");
  }
}

BudgetFollower::~BudgetFollower() {
  (void)finish();
  if (stop_ >= 0) close(stop_);
}

std::string BudgetFollower::finish() {
  if (!thread_.joinable()) return {};
  eventfd_write(stop_, 1);
  thread_.join();
  if (request_.kind != Kind::kPressure) return {};
  ByteSize need = need_of_gone_;
  for (const auto& [pid, seeker] : seekers_) need = std::max(need, seeker.need());
  if (need == 0) return "this program ended before it could be told how much memory it needs";
  constexpr ByteSize kMegabyte = ByteSize{1} << 20;
  return "this program needs " + std::to_string((need + kMegabyte - 1) / kMegabyte) +
         "M (at most " + std::to_string(request_.faults) + " faults a second that it waits for)";
}

int BudgetFollower::open_pressure() const {
  const MemoryRoom room = read_memory_room(root_);
  if (room.pressure_file.empty()) return -1;
  const int fd = open(room.pressure_file.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) return -1;
  // Somebody waited for memory for 100 ms of two seconds: without rights, windows are of two seconds.
  constexpr std::string_view kTrigger = "some 100000 2000000";
  if (write(fd, kTrigger.data(), kTrigger.size() + 1) > 0) return fd;
  close(fd);
  return -1;
}

bool BudgetFollower::wait(int pressure) {
  const ByteSize kStep = ByteSize{8} << 20;
  const ByteSize kMost = ByteSize{64} << 20;
  pollfd both[2] = {{stop_, POLLIN, 0}, {pressure, POLLPRI, 0}};
  (void)poll(both, pressure >= 0 ? 2 : 1, static_cast<int>(kBetweenLooks.count()));
  if (both[0].revents != 0) return false;
  if ((both[1].revents & POLLPRI) != 0)
    extra_cushion_ = std::min(extra_cushion_ + kStep, kMost);
  else
    extra_cushion_ -= std::min(extra_cushion_, kStep / 16);
  return true;
}

void BudgetFollower::run() {
  const int pressure = open_pressure();
  while (wait(pressure) && !members_.is_set_by_hand()) look();
  if (pressure >= 0) close(pressure);
}

ByteSize BudgetFollower::seek(const MemberReply& reply, ByteSize resident, ByteSize most) {
  NeedSeeker& seeker = seekers_.try_emplace(reply.pid, request_.faults).first->second;
  return seeker.next({resident, most, word(reply, "pgmajfault"), now()}, request_.floor());
}

void BudgetFollower::look() {
  const std::vector<RunMembers::Member> present = members_.present();
  std::vector<MemberReply> replies = members_.ask(present, {Op::kStats, 0, kForStats});
  replies.erase(std::remove_if(replies.begin(), replies.end(),
                               [](const MemberReply& reply) { return reply.words.empty(); }),
                replies.end());
  // After they have spoken: what they took meanwhile counts as taken by others.
  const MemoryRoom room = read_memory_room(root_);
  if (room.limit == 0) return;
  const ByteSize kept = cushion(room) + extra_cushion_;
  std::vector<ByteSize> resident;
  for (const MemberReply& reply : replies) resident.push_back(word(reply, "resident_bytes"));
  if (members_.are_tree()) {
    const ByteSize all = std::accumulate(resident.begin(), resident.end(), ByteSize{0});
    const ByteSize from = members_.block().tree_limit.load();
    const ByteSize to = share_out({all}, room.free, kept, request_.floor()).front();
    if (to < from || to - from >= std::max(kGrain, from / 64))
      (void)members_.set_tree_budget(to, kForBudget);
    return;
  }
  const std::vector<ByteSize> budgets = share_out(resident, room.free, kept, request_.floor());

  struct Change {
    pid_t pid;
    ByteSize from;
    ByteSize to;
  };
  std::vector<Change> changes;
  for (std::size_t i = 0; i < replies.size(); ++i) {
    const ByteSize from = word(replies[i], "budget_bytes");
    const ByteSize to =
        request_.kind == Kind::kPressure ? seek(replies[i], resident[i], budgets[i]) : budgets[i];
    if (to < from || to - from >= std::max(kGrain, from / 64))
      changes.push_back({replies[i].pid, from, to});
  }
  // What one gives is there for the next.
  std::sort(changes.begin(), changes.end(), [](const Change& a, const Change& b) {
    return a.to - static_cast<std::int64_t>(a.from) < b.to - static_cast<std::int64_t>(b.from);
  });
  const ByteSize parts = replies.size() + 1;
  const ByteSize spare = room.free - std::min(room.free, kept);
  members_.block().budget_of_run.store(
      whole_pages(std::clamp(spare / parts, request_.floor(), kLargestBudget)));
  for (const Change& change : changes)
    for (const RunMembers::Member& member : present)
      if (member.pid() == change.pid && !members_.is_set_by_hand())
        (void)members_.ask({member}, {Op::kSetBudget, change.to, kForBudget});

  for (auto seeker = seekers_.begin(); seeker != seekers_.end();) {
    const bool is_there = std::any_of(present.begin(), present.end(), [&](const auto& member) {
      return member.pid() == seeker->first;
    });
    if (is_there) {
      ++seeker;
      continue;
    }
    need_of_gone_ = std::max(need_of_gone_, seeker->second.need());
    seekers_.erase(seeker++);
  }
}

}  // namespace buoy::cli
