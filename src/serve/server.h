// Server: what a browser and Prometheus ask for, over HTTP.
//
//   GET  /             the page, which is all in one and asks for the rest
//   GET  /api/history  what was seen, from a number on (history.h)      ?from=N
//   GET  /api/picture  what the memory of a process looks like          ?pid=N
//   POST /api/budget   another budget: {"pid":N,"bytes":N}; with a token only
//   GET  /metrics      for Prometheus, as of the last look
//
// With a token, all but the page wants `Authorization: Bearer TOKEN`. A Host that is not ours is not
// answered, whatever it asks for.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cli/watcher.h"
#include "serve/history.h"
#include "serve/options.h"

namespace httplib {
class Server;
struct Request;
struct Response;
}  // namespace httplib

namespace buoy::serve {

class Server {
 public:
  Server(Options options, History& history, cli::Watcher& watcher);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // The port, or why the address cannot be had.
  [[nodiscard]] cli::Outcome<int> bind();
  // Until stop() is called, by another thread.
  void run();
  void stop();

 private:
  using Request = httplib::Request;
  using Response = httplib::Response;

  void set_limits();
  void add_pages();
  // False: refused, and the response says why.
  [[nodiscard]] bool admit(const Request& request, Response& response) const;
  void send_picture(const Request& request, Response& response) const;
  void change_budget(const Request& request, Response& response);

  Options options_;
  History& history_;
  cli::Watcher& watcher_;
  std::unique_ptr<httplib::Server> http_;
};

}  // namespace buoy::serve
