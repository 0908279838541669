#include "cli/watcher.h"

#include <utility>

namespace buoy::cli {

Watcher::Watcher(std::chrono::milliseconds interval, std::function<void(const Seen&)> when_seen)
    : interval_(interval), when_seen_(std::move(when_seen)), thread_([this] { watch(); }) {}

Watcher::~Watcher() {
  {
    const std::lock_guard guard(mutex_);
    is_ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Watcher::Seen Watcher::latest() {
  const std::lock_guard guard(mutex_);
  return latest_;
}

void Watcher::hurry() {
  {
    const std::lock_guard guard(mutex_);
    is_hurried_ = true;
  }
  changed_.notify_all();
}

void Watcher::watch() {
  Census census;
  std::unique_lock lock(mutex_);
  while (!is_ending_) {
    const auto next = std::chrono::steady_clock::now() + interval_;
    is_hurried_ = false;
    lock.unlock();
    const auto seen = std::make_shared<const std::vector<SeenRun>>(census.take());
    if (when_seen_) when_seen_(seen);
    lock.lock();
    latest_ = seen;
    changed_.wait_until(lock, next, [this] { return is_ending_ || is_hurried_; });
  }
}

}  // namespace buoy::cli
