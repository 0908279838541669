#include "cli/place_keeper.h"

#include <chrono>

namespace buoy::cli {

PlaceKeeper::PlaceKeeper(RunMembers& members) : members_(members), thread_([this] { run(); }) {}

PlaceKeeper::~PlaceKeeper() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  stopped_.notify_all();
  thread_.join();
}

void PlaceKeeper::run() {
  constexpr std::chrono::milliseconds kBetweenLooks{50};
  std::unique_lock lock(mutex_);
  while (!stopped_.wait_for(lock, kBetweenLooks, [this] { return is_stopping_; }))
    (void)members_.present();
}

}  // namespace buoy::cli
