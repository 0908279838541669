// ControlServer: the socket of one `buoy run`, served by its supervisor. The program has no listener
// and no socket.
//
//   folder/PID.sock --> admit(), in the thread that waits for the program
//                         --> a thread for each client (16 at most): a line in, RunMembers asks, a
//                             line out
//
// Nothing runs while nobody is connected, and a run that nobody looks at has no thread for it. Only the owner of the run and root are answered, others
// get one line. A client that sends too much, or takes too long to read, is hung up on; no request
// reaches the program but as a whole, well-formed one.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "cli/run_members.h"

namespace buoy::cli {

class ControlServer {
 public:
  // Listens; null where no folder for the socket can be had: the run goes on without. Every signal
  // is blocked in the caller. `command`: what is run. `members` outlives this.
  [[nodiscard]] static std::unique_ptr<ControlServer> start(RunMembers& members, ByteSize budget,
                                                            std::string command);
  // Hangs up on everybody and removes the socket.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  // To be watched for input.
  [[nodiscard]] int listener() const { return listener_; }
  // Takes in a client, if there is one. Does not block.
  void admit();

 private:
  struct Client {
    int fd = -1;
    std::atomic<bool> is_done{false};
    std::thread thread;
  };

  ControlServer(RunMembers& members, ByteSize budget, std::string command);
  void admit(int fd);
  // Joins those who are done; all, if `all`.
  void reap(bool all);

  void serve(Client& client);
  // False: hang up.
  [[nodiscard]] bool answer(int fd, const std::string& line,
                            std::optional<ControlRequest>* subscribed);
  [[nodiscard]] std::string carry_out(const ControlRequest& request);
  [[nodiscard]] std::vector<RunMembers::Member> chosen(const ControlRequest& request);
  [[nodiscard]] std::vector<MemberReply> set_budget(const ControlRequest& request);
  [[nodiscard]] std::vector<MemberReply> reclaim(const ControlRequest& request);
  [[nodiscard]] std::vector<MemberReply> picture(const ControlRequest& request);
  [[nodiscard]] RunFacts facts();

  RunMembers& members_;
  ByteSize budget_;
  std::string command_;
  std::string path_;
  int listener_ = -1;
  std::atomic<bool> stopping_{false};
  std::mutex drawing_;  // guards the canvas of the block, and:
  std::uint64_t last_tag_ = 0;
  std::list<Client> clients_;  // of the thread that admits them
};

}  // namespace buoy::cli
