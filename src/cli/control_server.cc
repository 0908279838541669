#include "cli/control_server.h"

#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "api/pool.h"
#include "cli/runtime_folder.h"

namespace buoy::cli {
namespace {

using control::Op;
using Kind = ControlRequest::Kind;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr std::size_t kMostClients = 16;
constexpr milliseconds kForStats = seconds(2);
constexpr milliseconds kForWork = seconds(60);
// A client that says nothing for so long has forgotten us.
constexpr milliseconds kIdle = seconds(60);

bool send_line(int fd, std::string line) {
  line += '\n';
  for (std::size_t sent = 0; sent < line.size();) {
    const ssize_t n = send(fd, line.data() + sent, line.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;  // gone, or too slow: SO_SNDTIMEO
    sent += static_cast<std::size_t>(n);
  }
  return true;
}

// Empty, or why this client is not answered.
std::string why_refused(int fd) {
  ucred peer{};
  socklen_t size = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) return "who are you?";
  if (peer.uid == geteuid() || peer.uid == 0) return {};
  return "this run is another user's; only its owner and root are answered";
}

void set_patience(int fd) {
  const timeval patience{2, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

// Waits until there is something to read: POLLIN, POLLHUP; 0: it took too long.
int wait_for_input(int fd, milliseconds patience) {
  pollfd one{fd, POLLIN, 0};
  const int n = poll(&one, 1, static_cast<int>(patience.count()));
  if (n < 0 && errno == EINTR) return POLLIN;
  return n > 0 ? one.revents : 0;
}

Picture copy_of(const control::Canvas& canvas) {
  const PictureView view(canvas.words);
  Picture picture;
  for (unsigned i = 0; i < view.cells(); ++i) picture.cells.push_back(view.cell(i));
  for (unsigned i = 0; i < view.blocks(); ++i) picture.blocks.push_back(view.block(i));
  picture.cells_left_out = view.cells_left_out();
  picture.blocks_left_out = view.blocks_left_out();
  return picture;
}

}  // namespace

std::unique_ptr<ControlServer> ControlServer::start(RunMembers& members, ByteSize budget,
                                                    std::string command) {
  const Outcome<std::string> folder = make_runtime_folder();
  if (!folder) return nullptr;
  std::unique_ptr<ControlServer> server(new ControlServer(members, budget, std::move(command)));
  server->listener_ = listen_in(*folder, &server->path_);
  if (server->listener_ < 0) return nullptr;
  return server;
}

ControlServer::ControlServer(RunMembers& members, ByteSize budget, std::string command)
    : members_(members), budget_(budget), command_(std::move(command)) {}

ControlServer::~ControlServer() {
  if (listener_ < 0) return;
  unlink(path_.c_str());
  stopping_.store(true);
  members_.stop();
  for (Client& client : clients_) shutdown(client.fd, SHUT_RDWR);
  reap(true);
  close(listener_);
}

void ControlServer::admit() {
  const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
  if (fd >= 0)
    admit(fd);
  else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
    std::this_thread::sleep_for(milliseconds(50));  // the client waits; so that we do not spin
}

void ControlServer::admit(int fd) {
  reap(false);
  set_patience(fd);
  std::string why = why_refused(fd);
  if (why.empty() && clients_.size() >= kMostClients)
    why = "too many clients; this run answers " + std::to_string(kMostClients) + " at a time";
  if (why.empty()) {
    Client& client = clients_.emplace_back();
    client.fd = fd;
    try {
      client.thread = std::thread([this, &client] { serve(client); });
      return;
    } catch (const std::system_error&) {
      clients_.pop_back();
      why = "no thread can be had to answer; try again";
    }
  }
  (void)send_line(fd, format_error(why));
  close(fd);
}

void ControlServer::reap(bool all) {
  for (auto client = clients_.begin(); client != clients_.end();) {
    if (!all && !client->is_done.load()) {
      ++client;
      continue;
    }
    client->thread.join();
    close(client->fd);
    client = clients_.erase(client);
  }
}

void ControlServer::serve(Client& client) {
  std::string unread;
  std::optional<ControlRequest> subscribed;
  while (!stopping_.load()) {
    const int events = wait_for_input(client.fd, subscribed ? subscribed->interval : kIdle);
    if (events == 0) {
      if (!subscribed || !send_line(client.fd, carry_out(*subscribed))) break;
      continue;
    }
    char buffer[kMostRequestBytes];
    const ssize_t n = recv(client.fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) break;
    unread.append(buffer, static_cast<std::size_t>(n));
    bool go_on = true;
    for (std::size_t end; go_on && (end = unread.find('\n')) != std::string::npos;) {
      const std::string line = unread.substr(0, end);
      unread.erase(0, end + 1);
      go_on = answer(client.fd, line, &subscribed);
    }
    if (go_on && unread.size() >= kMostRequestBytes) {
      (void)send_line(client.fd, format_error(parse_request(unread).failure().line));
      go_on = false;
    }
    if (!go_on) break;
  }
  // Whoever waits for more sees the end now; the number is given back by who reaps.
  shutdown(client.fd, SHUT_RDWR);
  client.is_done.store(true);
}

bool ControlServer::answer(int fd, const std::string& line,
                           std::optional<ControlRequest>* subscribed) {
  const Outcome<ControlRequest> request = parse_request(line);
  if (!request) return send_line(fd, format_error(request.failure().line));
  if (request->kind == Kind::kSubscribe) *subscribed = *request;
  return send_line(fd, carry_out(*request));
}

std::vector<RunMembers::Member> ControlServer::chosen(const ControlRequest& request) {
  std::vector<RunMembers::Member> members = members_.present();
  if (request.pid != 0)
    members.erase(std::remove_if(members.begin(), members.end(),
                                 [&](const auto& m) { return m.pid() != request.pid; }),
                  members.end());
  return members;
}

// Of the whole run: also of processes that start while this goes on, and later. Those look for
// themselves once they have a place.
std::vector<MemberReply> ControlServer::set_budget(const ControlRequest& request) {
  members_.note_set_by_hand();
  if (request.pid == 0 && members_.are_tree())
    return members_.set_tree_budget(request.bytes, kForWork);
  if (request.pid == 0) members_.block().budget_of_run.store(request.bytes);
  return members_.ask(chosen(request), {Op::kSetBudget, request.bytes, kForWork});
}

// From one process after the other, until as much is free.
std::vector<MemberReply> ControlServer::reclaim(const ControlRequest& request) {
  std::vector<MemberReply> replies;
  std::uint64_t left = request.bytes;
  for (const RunMembers::Member& member : chosen(request)) {
    if (left == 0) break;
    for (MemberReply& reply : members_.ask({member}, {Op::kReclaim, left, kForWork})) {
      left -= std::min(left, reply.result);
      replies.push_back(std::move(reply));
    }
  }
  return replies;
}

// One at a time: there is one canvas. Who draws late, when we have gone on to the next, leaves a tag
// that is not the one we wait for.
std::vector<MemberReply> ControlServer::picture(const ControlRequest& request) {
  const std::lock_guard guard(drawing_);
  control::Canvas& canvas = members_.block().canvas();
  const std::uint64_t tag = ++last_tag_;
  std::vector<MemberReply> replies = members_.ask(chosen(request), {Op::kPicture, tag, kForStats});
  for (MemberReply& reply : replies) {
    if (!reply.error.empty()) continue;
    reply.picture = copy_of(canvas);
    if (canvas.tag.load(std::memory_order_acquire) == tag) continue;
    reply.picture.reset();
    reply.error = "another process drew over the picture; ask again";
  }
  return replies;
}

RunFacts ControlServer::facts() {
  const control::Block& block = members_.block();
  const std::uint64_t set =
      members_.are_tree() ? block.tree_limit.load() : block.budget_of_run.load();
  return {getpid(),
          command_,
          set != 0 ? set : budget_,
          block.turned_away.load(),
          members_.are_tree(),
          block.leased.load()};
}

std::string ControlServer::carry_out(const ControlRequest& request) {
  std::vector<MemberReply> replies;
  switch (request.kind) {
    case Kind::kStats:
    case Kind::kSubscribe:
      replies = members_.ask(chosen(request), {Op::kStats, 0, kForStats});
      break;
    case Kind::kSetBudget:
      replies = set_budget(request);
      break;
    case Kind::kReclaim:
      replies = reclaim(request);
      break;
    case Kind::kPicture:
      replies = picture(request);
      break;
    case Kind::kCompact:
      replies = members_.ask(chosen(request), {Op::kCompact, 0, kForWork});
      break;
  }
  if (replies.empty() && request.pid != 0)
    return format_error("process " + std::to_string(request.pid) + " is not in this run");
  return format_answer(request.kind, facts(), replies);
}

}  // namespace buoy::cli
