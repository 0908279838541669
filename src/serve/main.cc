// buoy-serve: `buoy serve`, which executes it. Ends with SIGTERM or SIGINT.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <ctime>
#include <thread>

#include "cli/outcome.h"
#include "cli/words.h"
#include "serve/history.h"
#include "serve/options.h"
#include "serve/server.h"

namespace {

using namespace buoy;
using buoy::cli::Failure;
using buoy::cli::kUsage;
using buoy::cli::say;

struct Said {
  std::string listen = "127.0.0.1:8269";
  std::string token;
  std::string token_file;
  std::vector<std::string> names;
  double interval = 1;
};

cli::Outcome<serve::Options> options_of(const Said& said) {
  const cli::Outcome<serve::Address> address = serve::parse_address(said.listen);
  if (!address) return address.failure();
  serve::Options options;
  options.address = *address;
  options.interval = std::chrono::milliseconds(static_cast<long>(said.interval * 1000));
  options.token = said.token;
  options.names = said.names;
  if (!said.token_file.empty()) {
    cli::Outcome<std::string> token = serve::read_token(said.token_file);
    if (!token) return token.failure();
    options.token = *token;
  }
  const bool has_token = !said.token_file.empty() || !said.token.empty();
  if (has_token)
    if (const std::string why = serve::why_no_token(options.token); !why.empty())
      return Failure{kUsage, "serve: " + why};
  if (!has_token && !options.address.is_local)
    return Failure{kUsage, "serve: " + said.listen +
                               " can be reached from elsewhere: a token is wanted "
                               "(--token-file FILE), or --listen 127.0.0.1:PORT"};
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) == 0) options.names.emplace_back(name);
  return options;
}

std::string url_of(const serve::Address& address, int port) {
  const bool is_ipv6 = address.host.find(':') != std::string::npos;
  return "http://" + (is_ipv6 ? "[" + address.host + "]" : address.host) + ":" +
         std::to_string(port) + "/";
}

double seconds_since_1970() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

int fail(const Failure& failure) {
  say(failure.line);
  return failure.status;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  cli::Words line(
      "buoy serve",
      "Shows what runs within a budget to a browser, with its history, and to Prometheus "
      "at /metrics. Read only, unless a token is given: with it, budgets can be changed.",
      "buoy serve --listen 127.0.0.1:8080");
  Said said;
  line.take_text("--listen", "ADDRESS:PORT", &said.listen,
                 "where; 127.0.0.1:8269 unless said. Port 0: any that is free");
  line.take_text("--token-file", "FILE", &said.token_file,
                 "whose first line everybody must know who asks, and may then change budgets");
  line.take_text("--token", "TOKEN", &said.token, "the same, for other users to read in `ps`");
  line.exclude("--token", "--token-file");
  line.take_texts("--name", "HOST", &said.names,
                  "a name by which browsers call this machine, besides its own and its numbers");
  line.take_seconds("--interval", &said.interval, "between two looks; 1 unless said");
  if (const auto status = line.parse(words)) return *status;
  cli::Outcome<serve::Options> options = options_of(said);
  if (!options) return fail(options.failure());

  // Taken by sigwait(), in all threads.
  sigset_t ends;
  sigemptyset(&ends);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&ends, signal);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);

  serve::History history;
  cli::Watcher watcher(options->interval, [&](const cli::Watcher::Seen& seen) {
    history.add(seconds_since_1970(), *seen);
  });
  serve::Server server(*options, history, watcher);
  const cli::Outcome<int> port = server.bind();
  if (!port) return fail(port.failure());
  say("serving " + url_of(options->address, *port) +
      (options->token.empty() ? ", read only" : ", to who has the token"));
  std::thread serving([&] { server.run(); });
  int signal = 0;
  (void)sigwait(&ends, &signal);
  server.stop();
  serving.join();
  return 0;
}
