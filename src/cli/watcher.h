// Watcher: a thread that takes a census again and again, so that who shows it never waits for a run.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cli/census.h"

namespace buoy::cli {

class Watcher {
 public:
  using Seen = std::shared_ptr<const std::vector<SeenRun>>;

  // `when_seen` is called in the watcher's thread after each look; may be empty.
  explicit Watcher(std::chrono::milliseconds interval,
                   std::function<void(const Seen&)> when_seen = {});
  // Waits for a look that is under way: some seconds, if a run does not answer.
  ~Watcher();
  Watcher(const Watcher&) = delete;
  Watcher& operator=(const Watcher&) = delete;

  // What was seen last; null before the first look is done.
  [[nodiscard]] Seen latest();
  // Looks now, rather than when the interval has passed.
  void hurry();

 private:
  void watch();

  std::chrono::milliseconds interval_;
  std::function<void(const Seen&)> when_seen_;
  std::mutex mutex_;  // guards what follows, but the thread
  std::condition_variable changed_;
  bool is_ending_ = false;
  bool is_hurried_ = false;
  Seen latest_;
  std::thread thread_;
};

}  // namespace buoy::cli
