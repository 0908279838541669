#include "serve/server.h"

#include <httplib.h>
#include <sys/resource.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <limits>

#include "cli/answer.h"
#include "cli/prometheus.h"
#include "cli/steer.h"
#include "serve/page.h"

namespace buoy::serve {
namespace {

using Json = nlohmann::json;

// Connections that are answered at a time; more wait, as many as there are descriptors.
constexpr std::size_t kThreads = 16;
constexpr rlim_t kDescriptors = 128;
constexpr std::size_t kMostRequestBytes = 4096;
constexpr time_t kPatience = 5;  // seconds
constexpr std::chrono::seconds kForPicture{5};

constexpr int kBadRequest = 400;
constexpr int kUnauthorized = 401;
constexpr int kForbidden = 403;
constexpr int kMisdirected = 421;
constexpr int kBadGateway = 502;

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void send(httplib::Response& response, const Json& json) {
  response.set_content(text_of(json), "application/json");
}

void refuse(httplib::Response& response, int status, const std::string& why) {
  response.status = status;
  send(response, {{"error", why}});
}

// A parameter that is a whole number; `otherwise` if it is not there, nothing if it is not one.
std::optional<std::uint64_t> number_in(const httplib::Request& request, const char* name,
                                       std::uint64_t otherwise) {
  if (!request.has_param(name)) return otherwise;
  const std::string text = request.get_param_value(name);
  std::uint64_t value = 0;
  const auto [stopped, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || stopped != text.data() + text.size()) return std::nullopt;
  return value;
}

bool is_pid(std::uint64_t number) {
  return number > 0 && number <= static_cast<std::uint64_t>(std::numeric_limits<pid_t>::max());
}

}  // namespace

Server::Server(Options options, History& history, cli::Watcher& watcher)
    : options_(std::move(options)),
      history_(history),
      watcher_(watcher),
      http_(std::make_unique<httplib::Server>()) {
  set_limits();
  add_pages();
}

Server::~Server() = default;

void Server::set_limits() {
  rlimit descriptors{};
  if (getrlimit(RLIMIT_NOFILE, &descriptors) == 0 && descriptors.rlim_cur > kDescriptors) {
    descriptors.rlim_cur = kDescriptors;
    (void)setrlimit(RLIMIT_NOFILE, &descriptors);
  }
  // Not SO_REUSEPORT, which is httplib's default: a second server at the same place is a mistake.
  http_->set_socket_options([](socket_t socket) {
    const int yes = 1;
    (void)setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  });
  http_->new_task_queue = [] { return new httplib::ThreadPool(kThreads); };
  http_->set_payload_max_length(kMostRequestBytes);
  http_->set_read_timeout(kPatience);
  http_->set_write_timeout(kPatience);
  http_->set_keep_alive_timeout(kPatience);
  http_->set_default_headers({{"Cache-Control", "no-store"},
                              {"X-Content-Type-Options", "nosniff"},
                              {"X-Frame-Options", "DENY"},
                              {"Referrer-Policy", "no-referrer"}});
}

bool Server::admit(const Request& request, Response& response) const {
  if (!is_host_known(request.get_header_value("Host"), options_.names)) {
    refuse(response, kMisdirected,
           "this name is not known here; call by number, or start buoy serve with --name");
    return false;
  }
  if (request.path == "/" || options_.token.empty()) return true;
  const std::string prefix = "Bearer ";
  const std::string word = request.get_header_value("Authorization");
  if (word.compare(0, prefix.size(), prefix) == 0 &&
      is_same_secret(word.substr(prefix.size()), options_.token))
    return true;
  response.set_header("WWW-Authenticate", "Bearer");
  refuse(response, kUnauthorized, "the token is missing or wrong");
  return false;
}

void Server::add_pages() {
  http_->set_pre_routing_handler([this](const Request& request, Response& response) {
    return admit(request, response) ? httplib::Server::HandlerResponse::Unhandled
                                    : httplib::Server::HandlerResponse::Handled;
  });
  http_->set_error_handler([](const Request&, Response& response) {
    if (response.body.empty()) send(response, {{"error", "there is nothing of that name"}});
  });
  http_->Get("/", [](const Request&, Response& response) {
    response.set_header(
        "Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'");
    const std::string_view text = page();
    response.set_content(text.data(), text.size(), "text/html; charset=utf-8");
  });
  http_->Get("/api/history", [this](const Request& request, Response& response) {
    const auto from = number_in(request, "from", 0);
    if (!from) return refuse(response, kBadRequest, "from: a whole number is wanted");
    Json json = history_.since(*from);
    json["interval_ms"] = options_.interval.count();
    json["may_change"] = !options_.token.empty();
    json["version"] = BUOY_VERSION;
    send(response, json);
  });
  http_->Get("/api/picture", [this](const Request& request, Response& response) {
    send_picture(request, response);
  });
  http_->Post("/api/budget", [this](const Request& request, Response& response) {
    change_budget(request, response);
  });
  http_->Get("/metrics", [this](const Request&, Response& response) {
    std::vector<Json> answers;
    if (const cli::Watcher::Seen seen = watcher_.latest(); seen != nullptr)
      for (const cli::SeenRun& run : *seen)
        if (run.error.empty()) answers.push_back(run.answer);
    response.set_content(cli::format_prometheus(answers), "text/plain; version=0.0.4");
  });
}

void Server::send_picture(const Request& request, Response& response) const {
  const std::uint64_t pid = number_in(request, "pid", 0).value_or(0);
  if (!is_pid(pid)) return refuse(response, kBadRequest, "pid: the number of a process is wanted");
  cli::Outcome<cli::Target> target = cli::find_target(static_cast<pid_t>(pid));
  if (!target) return refuse(response, kBadGateway, target.failure().line);
  if (target->process == 0)
    return refuse(response, kBadRequest, "pid: a process of a run is wanted, not the run");
  const cli::Outcome<Json> answer =
      cli::ask(target->client, {{"op", "picture"}, {"pid", pid}}, kForPicture);
  if (!answer) return refuse(response, kBadGateway, answer.failure().line);
  for (const Json& process : (*answer)["processes"]) {
    if (process.contains("picture")) return send(response, process["picture"]);
    return refuse(response, kBadGateway, cli::text(process, "error"));
  }
  refuse(response, kBadGateway, "the process has ended");
}

void Server::change_budget(const Request& request, Response& response) {
  if (options_.token.empty())
    return refuse(response, kForbidden,
                  "read only; `buoy serve --token-file FILE` lets budgets be changed");
  const Json wanted = Json::parse(request.body, nullptr, false);
  const std::uint64_t pid = wanted.is_object() ? cli::number(wanted, "pid") : 0;
  if (!is_pid(pid) || !wanted.contains("bytes"))
    return refuse(response, kBadRequest, R"({"pid":N,"bytes":N} is wanted)");
  const cli::Outcome<Json> answer =
      cli::change_budget(static_cast<int>(pid), cli::number(wanted, "bytes"));
  if (!answer)
    return refuse(response, answer.failure().status == cli::kUsage ? kBadRequest : kBadGateway,
                  answer.failure().line);
  watcher_.hurry();
  send(response, *answer);
}

cli::Outcome<int> Server::bind() {
  const Address& address = options_.address;
  errno = 0;
  int port = address.port;
  if (port == 0)
    port = http_->bind_to_any_port(address.host);
  else if (!http_->bind_to_port(address.host, port))
    port = -1;
  if (port > 0) return port;
  const std::string why = errno == 0 ? "cannot be had" : std::strerror(errno);
  return cli::Failure{cli::kUsage, "serve: --listen " + address.host + ":" +
                                       std::to_string(address.port) + ": " + why};
}

void Server::run() { (void)http_->listen_after_bind(); }
void Server::stop() { http_->stop(); }

}  // namespace buoy::serve
