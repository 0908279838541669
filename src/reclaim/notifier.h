// Notifier: tells the program of purges and of pressure, through one eventfd a pool.
//
//   63            40 39            20 19             0
//   [ critical      | moderate       | purge batches ]   what a read gives: times since the last
//
// The fields are what buoy.h's BUOY_EVENT_* take apart. Nothing is told before somebody has asked
// for the descriptor. Telling is one system call; async-signal-safe, never blocks.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"

namespace buoy {

enum class Notice : std::uint8_t { kPurged, kModerate, kCritical };

class Notifier {
 public:
  Notifier() = default;
  ~Notifier();
  Notifier(const Notifier&) = delete;
  Notifier& operator=(const Notifier&) = delete;

  // The descriptor, made at the first call. EMFILE and others.
  [[nodiscard]] Result<int> descriptor();
  void tell(Notice notice);
  // The child's descriptor of that number is an eventfd of its own: the parent's news are not its.
  void after_fork_in_child();

 private:
  void keep_fields_apart(int fd);

  std::atomic<int> fd_{-1};
  std::atomic<std::uint32_t> told_{0};
};

}  // namespace buoy
