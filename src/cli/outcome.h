// How a command of `buoy` fails: one line for stderr, and the exit status.
#pragma once

#include <string>
#include <utility>

namespace buoy::cli {

// Exit statuses of `buoy run` that are its own, not the program's. As a shell's, but for kUsage.
inline constexpr int kFailed = 1;           // of the other commands: could not do what was asked
inline constexpr int kUsage = 2;            // bad options, or a kernel that cannot serve
inline constexpr int kCannotExecute = 126;  // found, but not to be executed (or not by us)
inline constexpr int kNotFound = 127;
inline constexpr int kDeathBySignal = 128;  // + the signal

struct Failure {
  int status = kUsage;
  std::string line;  // without the prefix `buoy: ` and without a newline
};

// A value or a Failure.
template <typename T>
class Outcome {
 public:
  Outcome(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Outcome(Failure failure)                        // NOLINT(google-explicit-constructor)
      : failure_(std::move(failure)), failed_(true) {}
  [[nodiscard]] explicit operator bool() const { return !failed_; }
  [[nodiscard]] const T& operator*() const { return value_; }
  [[nodiscard]] T& operator*() { return value_; }
  [[nodiscard]] const T* operator->() const { return &value_; }
  [[nodiscard]] T* operator->() { return &value_; }
  [[nodiscard]] const Failure& failure() const { return failure_; }

 private:
  T value_{};
  Failure failure_;
  bool failed_ = false;
};

// Writes `buoy: <line>` to stderr, in one write.
void say(const std::string& line);

}  // namespace buoy::cli
