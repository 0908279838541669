#include "cli/run_members.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

#include "api/pool.h"
#include "base/sys.h"

namespace buoy::cli {
namespace {

using control::Block;
using control::Place;
using std::chrono::milliseconds;

std::string read_whole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// When a process began, in nanoseconds of CLOCK_BOOTTIME; ~0: there is none, or it has ended.
std::uint64_t began_at(pid_t pid) {
  constexpr int kState = 3;
  constexpr int kStartTime = 22;
  const std::string text = read_whole("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t name_end = text.rfind(')');  // the name may hold anything
  if (name_end == std::string::npos) return ~std::uint64_t{0};
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int i = kState; i <= kStartTime && fields >> field; ++i) {
    if (i == kState && (field == "Z" || field == "X")) return ~std::uint64_t{0};
    if (i == kStartTime)
      return std::strtoull(field.c_str(), nullptr, 10) *
             (1'000'000'000U / static_cast<std::uint64_t>(sysconf(_SC_CLK_TCK)));
  }
  return ~std::uint64_t{0};
}

std::string sentence_for(const Place& place, const MemberReply& reply) {
  const int error = place.error.load(std::memory_order_relaxed);
  if (error == 0) return {};
  if (error == EAGAIN)
    return "process " + std::to_string(reply.pid) +
           " cannot do with less now: what it holds does not fit; free memory, or give it a "
           "backing file";
  return "process " + std::to_string(reply.pid) + ": " + std::strerror(error);
}

}  // namespace

std::uint64_t block_layout() {
  control::LayoutOf layout;
  for (std::size_t i = 0; i < Pool::stat_count(); ++i) layout.add(Pool::stat_name(i));
  return layout.word();
}

std::string command_of(pid_t pid) {
  constexpr std::size_t kMost = 200;
  const std::string folder = "/proc/" + std::to_string(pid);
  std::string line = read_whole(folder + "/cmdline");
  while (!line.empty() && line.back() == '\0') line.pop_back();
  if (line.empty()) {
    line = read_whole(folder + "/comm");
    if (!line.empty()) line.pop_back();
  }
  if (line.size() > kMost) line.resize(kMost);
  // One line, whatever the arguments hold.
  for (char& c : line)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = ' ';
  return line;
}

bool RunMembers::lives(const Member& member) {
  // The kernel's clock of starts is coarse.
  constexpr std::uint64_t kGrain = 20'000'000;
  const std::uint64_t taken_at =
      block_.place(member.place).taken_at.load(std::memory_order_relaxed);
  const std::uint64_t began = began_at(member.pid());
  return began != ~std::uint64_t{0} && began <= taken_at + kGrain &&
         block_.is_owner(member.place, member.owner);
}

std::vector<RunMembers::Member> RunMembers::present() {
  std::vector<Member> members;
  for (unsigned i = 0; i < control::kPlaces; ++i) {
    const std::uint64_t owner = block_.owner(i);
    if (owner == 0) continue;
    if (block_.place(i).ready.load(std::memory_order_acquire) != owner) {
      // On its way, unless it was killed there.
      if (began_at(Block::pid_of(owner)) == ~std::uint64_t{0}) block_.free_place(i, owner);
      continue;
    }
    if (const Member member{i, owner}; lives(member))
      members.push_back(member);
    else
      block_.free_place(i, owner);
  }
  std::sort(members.begin(), members.end(),
            [](const Member& a, const Member& b) { return a.pid() < b.pid(); });
  return members;
}

RunMembers::Waited RunMembers::wait(const Member& member, std::uint32_t request,
                                    Clock::time_point deadline) {
  // Nobody wakes us when a process dies.
  constexpr std::uint64_t kLookAgainNs = 100'000'000;
  Place& place = block_.place(member.place);
  for (;;) {
    if (control::wait_for_answer(place, request, kLookAgainNs))
      return block_.is_owner(member.place, member.owner) ? Waited::kAnswered : Waited::kGone;
    if (stopping_.load()) return Waited::kGone;
    if (Clock::now() >= deadline) return lives(member) ? Waited::kTooLong : Waited::kGone;
    if (!block_.is_owner(member.place, member.owner)) return Waited::kGone;
  }
}

MemberReply RunMembers::read(const Member& member) {
  const Place& place = block_.place(member.place);
  MemberReply reply;
  reply.pid = member.pid();
  reply.error = sentence_for(place, reply);
  reply.result = place.result.load(std::memory_order_relaxed);
  reply.words.reserve(Pool::stat_count());
  for (std::size_t i = 0; i < Pool::stat_count(); ++i)
    reply.words.push_back(place.words[i].load(std::memory_order_relaxed));
  return reply;
}

std::vector<MemberReply> RunMembers::ask(const std::vector<Member>& members,
                                         const Question& question) {
  struct Asked {
    Member member;
    std::unique_lock<std::timed_mutex> lock;
    std::uint32_t request = 0;
    Waited waited = Waited::kTooLong;
  };
  const Clock::time_point deadline = Clock::now() + question.patience;
  std::vector<Member> in_order = members;  // of their places: nobody waits in a ring
  std::sort(in_order.begin(), in_order.end(),
            [](const Member& a, const Member& b) { return a.place < b.place; });
  std::vector<Asked> asked;
  for (const Member& member : in_order) {
    Asked one{member, std::unique_lock(busy_[member.place], std::defer_lock)};
    Place& place = block_.place(member.place);
    // What an impatient asker before us left unanswered is done first; it is not taken back.
    const std::uint32_t last = place.request.load(std::memory_order_relaxed);
    if (one.lock.try_lock_until(deadline)) one.waited = wait(member, last, deadline);
    if (one.waited == Waited::kAnswered)
      one.request = control::post(place, question.op, question.argument);
    asked.push_back(std::move(one));
  }
  std::vector<MemberReply> replies;
  for (Asked& one : asked) {
    if (one.waited == Waited::kAnswered) one.waited = wait(one.member, one.request, deadline);
    if (one.waited == Waited::kGone) continue;
    MemberReply reply;
    if (one.waited == Waited::kAnswered) {
      reply = read(one.member);
    } else {
      reply.pid = one.member.pid();
      reply.error = "process " + std::to_string(reply.pid) +
                    " does not answer (it is stopped, or busy with an earlier request)";
    }
    reply.command = command_of(reply.pid);
    replies.push_back(std::move(reply));
  }
  std::sort(replies.begin(), replies.end(),
            [](const MemberReply& a, const MemberReply& b) { return a.pid < b.pid; });
  return replies;
}

std::vector<MemberReply> RunMembers::set_tree_budget(ByteSize bytes, milliseconds patience) {
  block_.tree_limit.store(bytes);
  const ByteSize leased = block_.leased.load();
  std::vector<MemberReply> replies;
  if (leased <= bytes) return ask(present(), {control::Op::kStats, 0, patience});
  for (const Member& member : present()) {
    const ByteSize lease = block_.place(member.place).lease.load();
    const auto part = static_cast<double>(bytes) / static_cast<double>(leased);
    const auto target = static_cast<ByteSize>(part * static_cast<double>(lease));
    const ByteSize wanted = std::max<ByteSize>(target, control::kFirstLease);
    for (MemberReply& reply : ask({member}, {control::Op::kSetBudget, wanted, patience}))
      replies.push_back(std::move(reply));
  }
  return replies;
}

void RunMembers::stop() {
  stopping_.store(true);
  for (unsigned i = 0; i < control::kPlaces; ++i)
    if (block_.owner(i) != 0) sys::futex_wake_shared(&block_.place(i).answered, INT32_MAX);
}

}  // namespace buoy::cli
