// PlaceKeeper: looks after the places of a run whose processes share one budget, so that what a
// process had leased comes back soon after it was killed. A thread, twenty times a second.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "cli/run_members.h"

namespace buoy::cli {

class PlaceKeeper {
 public:
  explicit PlaceKeeper(RunMembers& members);
  ~PlaceKeeper();
  PlaceKeeper(const PlaceKeeper&) = delete;
  PlaceKeeper& operator=(const PlaceKeeper&) = delete;

 private:
  void run();

  RunMembers& members_;
  std::mutex mutex_;
  std::condition_variable stopped_;
  bool is_stopping_ = false;
  std::thread thread_;
};

}  // namespace buoy::cli
