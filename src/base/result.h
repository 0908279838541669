// Result<T>: a value, or the errno that says why there is none. For failures; outcomes that are
// expected (busy, incompressible, none free) are enums of their own where they arise.
#pragma once

#include <utility>

namespace buoy {

// A positive errno value.
struct [[nodiscard]] Error {
  int code = 0;
  constexpr bool operator==(const Error&) const = default;
};

// Nothing to return but success or an errno.
class [[nodiscard]] Status {
 public:
  constexpr Status() = default;
  constexpr Status(Error e) : code_(e.code) {}  // NOLINT(google-explicit-constructor)
  [[nodiscard]] constexpr bool ok() const { return code_ == 0; }
  constexpr explicit operator bool() const { return ok(); }
  [[nodiscard]] constexpr int code() const { return code_; }
  [[nodiscard]] constexpr Error error() const { return Error{code_}; }

 private:
  int code_ = 0;
};

template <typename T>
class [[nodiscard]] Result {
 public:
  constexpr Result(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  constexpr Result(Error e) : code_(e.code) {}             // NOLINT(google-explicit-constructor)
  [[nodiscard]] constexpr bool ok() const { return code_ == 0; }
  constexpr explicit operator bool() const { return ok(); }
  [[nodiscard]] constexpr int code() const { return code_; }
  [[nodiscard]] constexpr Error error() const { return Error{code_}; }
  [[nodiscard]] constexpr T& value() { return value_; }
  [[nodiscard]] constexpr const T& value() const { return value_; }
  constexpr T& operator*() { return value_; }
  constexpr const T& operator*() const { return value_; }
  constexpr T* operator->() { return &value_; }
  constexpr const T* operator->() const { return &value_; }

 private:
  T value_{};
  int code_ = 0;
};

}  // namespace buoy
