#include "cli/control_client.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace buoy::cli {
namespace {

using std::chrono::seconds;

// The statistics of the most processes that a run shows.
constexpr std::size_t kMostAnswerBytes = std::size_t{16} << 20;
constexpr seconds kForStats{5};

Failure no_answer(pid_t run) {
  return {kFailed, "run " + std::to_string(run) + " does not answer (is it stopped? `kill -CONT " +
                       std::to_string(run) + "` continues it)"};
}

// Why a run could not be connected to.
Failure why_not_connected(pid_t run, int error) {
  const std::string name = "run " + std::to_string(run);
  switch (error) {
    case EACCES:
    case EPERM:
      return {kFailed, name + " is not yours; only its owner and root are answered"};
    case EAGAIN:
    case EINPROGRESS:
      return no_answer(run);
    case ENOENT:
    case ECONNREFUSED:
      return {kFailed, name + " has ended"};
    default:
      return {kFailed, name + ": " + std::strerror(error)};
  }
}

bool has_process(const std::string& answer, pid_t pid) {
  const auto json = nlohmann::json::parse(answer, nullptr, false);
  if (!json.is_object() || !json.contains("processes")) return false;
  const auto& processes = json["processes"];
  return std::any_of(processes.begin(), processes.end(),
                     [&](const auto& p) { return p.is_object() && p.value("pid", 0) == pid; });
}

}  // namespace

Outcome<ControlClient> ControlClient::connect(const RunSocket& run) {
  ControlClient client;
  client.run_ = run.run;
  client.fd_ = connect_to(run.path);
  if (client.fd_ < 0) return why_not_connected(run.run, errno);
  return client;
}

ControlClient::~ControlClient() {
  if (fd_ >= 0) close(fd_);
}

ControlClient::ControlClient(ControlClient&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), run_(other.run_), unread_(std::move(other.unread_)) {}

ControlClient& ControlClient::operator=(ControlClient&& other) noexcept {
  std::swap(fd_, other.fd_);
  run_ = other.run_;
  unread_ = std::move(other.unread_);
  return *this;
}

Outcome<std::string> ControlClient::ask(const std::string& request, seconds patience) {
  const std::string line = request + "\n";
  // A run that refuses us has hung up already, and left a line that says why.
  (void)send(fd_, line.data(), line.size(), MSG_NOSIGNAL);
  return next_line(patience);
}

Outcome<std::string> ControlClient::next_line(seconds patience) {
  const timeval wait{static_cast<time_t>(patience.count()), 0};
  (void)setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
  for (;;) {
    if (const std::size_t end = unread_.find('\n'); end != std::string::npos) {
      std::string line = unread_.substr(0, end);
      unread_.erase(0, end + 1);
      return line;
    }
    if (unread_.size() > kMostAnswerBytes)
      return Failure{kFailed, "run " + std::to_string(run_) + " sends too long a line"};
    char buffer[65536];
    const ssize_t n = recv(fd_, buffer, sizeof buffer, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return no_answer(run_);
    if (n <= 0) return Failure{kFailed, "run " + std::to_string(run_) + " has ended"};
    unread_.append(buffer, static_cast<std::size_t>(n));
  }
}

std::vector<RunSocket> find_runs() {
  std::vector<RunSocket> runs;
  for (const std::string& folder : runtime_folders()) {
    remove_stale_sockets(folder);
    for (RunSocket& each : sockets_in(folder)) runs.push_back(std::move(each));
  }
  std::sort(runs.begin(), runs.end(),
            [](const RunSocket& a, const RunSocket& b) { return a.run < b.run; });
  return runs;
}

Outcome<Target> find_target(pid_t pid) {
  const std::vector<RunSocket> runs = find_runs();
  for (const RunSocket& run : runs) {
    if (run.run != pid) continue;
    Outcome<ControlClient> client = ControlClient::connect(run);
    if (!client) return client.failure();
    return Target{std::move(*client), 0};
  }
  for (const RunSocket& run : runs) {
    Outcome<ControlClient> client = ControlClient::connect(run);
    if (!client) continue;
    const std::string request = nlohmann::json({{"op", "stats"}, {"pid", pid}}).dump();
    const Outcome<std::string> answer = client->ask(request, kForStats);
    if (answer && has_process(*answer, pid)) return Target{std::move(*client), pid};
  }
  const std::string name = "process " + std::to_string(pid);
  if (kill(pid, 0) != 0 && errno == ESRCH)
    return Failure{kFailed, "there is no " + name + "; `buoy ps` lists the runs"};
  return Failure{kFailed, name + " is in no run of yours; `buoy ps` lists the runs"};
}

}  // namespace buoy::cli
