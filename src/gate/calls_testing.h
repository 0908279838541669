// Harmless calls, to try the table on: one line each, with arguments that exercise all of a call's
// operands. They are made as they stand here by whoever tries a call (of the gate, or of the table),
// with the memory placed as he wants it.
//
// To be made in a process of its own, which forbid_harm() has made an ordinary user's.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

namespace buoy::gate::calls {

// A number, or memory with what it holds at first.
struct Argument {
  long number = 0;
  bool memory = false;
  std::vector<std::uint8_t> bytes{};

  template <typename T>
  requires(std::is_integral_v<T> || std::is_enum_v<T>) Argument(T n)
      : number(static_cast<long>(n)) {}  // NOLINT: as in a call
  explicit Argument(std::vector<std::uint8_t> b) : memory(true), bytes(std::move(b)) {}
};

// So many bytes, zero at first.
inline Argument room(std::size_t bytes) { return Argument(std::vector<std::uint8_t>(bytes)); }
inline Argument text(const std::string& s) {
  return Argument(std::vector<std::uint8_t>(s.c_str(), s.c_str() + s.size() + 1));
}
template <typename T>
Argument copy_of(const T& value) {
  std::vector<std::uint8_t> bytes(sizeof(T));
  std::memcpy(bytes.data(), &value, sizeof(T));
  return Argument(std::move(bytes));
}
// Memory that lives as long as the process, for what structures point at.
template <typename T>
T* lasting(const T& value) {
  return new T(value);
}

// A page with nothing behind it that may be touched.
constexpr std::size_t kPageBytes = 4096;
std::uint8_t* own_page();

struct Call {
  std::vector<Argument> arguments;
  std::function<void()> before = {};     // ahead of each time that it is made
  std::function<void(long)> after = {};  // with its result
  // Bits: arguments of which the kernel uses less than the table says, or does not mind if it fails.
  unsigned loose = 0;
  bool same_result = true;  // another time it returns the same
  // A page of own_page() that holds what a structure among the arguments points at.
  void* inner = nullptr;
};

struct NamedCall {
  long number;
  std::function<Call()> make;
};

using Calls = std::vector<NamedCall>;

Calls file_calls();
Calls attribute_calls();
Calls transfer_calls();
Calls socket_calls();
Calls process_calls();
Calls time_calls();
Calls system_calls();
Calls all_calls();

// An ordinary user, whatever the process was, with a folder of his own as working directory.
// False if there is no way to become one.
bool forbid_harm();
void leave_no_traces();  // removes the folder

// For `after`.
void close_result(long fd);

}  // namespace buoy::gate::calls
