// Descriptors: which of the process's file descriptors are the engine's own.
//
// Programs close what they do not know, put files of their own under numbers that they choose, and
// count on the smallest free number. So the engine's descriptors lie out of the way: above the soft
// limit of open files wherever that can be had, where no call of the program can make or name one;
// else as high as it goes. And they are entered here, so that whoever interposes close() and its
// kin can leave them alone.
//
// Not here: what a descriptor is for. Thread-safe and async-signal-safe; a fork child has the table
// of its parent.
#pragma once

#include "base/result.h"

namespace buoy::descriptors {

enum class OnExec : unsigned char { kClosed, kKept };

// Moves a descriptor out of the way and enters it; its number now. It stays where it is, and is
// entered all the same, if there is no room elsewhere.
[[nodiscard]] int adopt(int fd, OnExec on_exec = OnExec::kClosed);
// Enters one that must stay under its number.
void adopt_in_place(int fd);
// Closes it, if it is still the file that was adopted, and forgets it. Not for -1.
void release(int fd);
// Is this number one of ours?
[[nodiscard]] bool is_own(int fd);
// The smallest of ours that is at least `from`; -1 if there is none.
[[nodiscard]] int next_own(int from);
// Ours, and still the file that was adopted: nobody has closed it behind our back.
[[nodiscard]] bool is_intact(int fd);

// While one lives, the soft limit of open files does not stop the engine from opening one more. A
// short time: another thread that asks for the limit meanwhile sees it raised.
class RoomForOne {
 public:
  RoomForOne();
  ~RoomForOne();
  RoomForOne(const RoomForOne&) = delete;
  RoomForOne& operator=(const RoomForOne&) = delete;
  // From here on, numbers are out of the program's way.
  [[nodiscard]] int first_number() const { return first_; }

 private:
  unsigned long before_[2]{};  // soft, hard
  bool is_raised_ = false;
  int first_ = 0;
};

}  // namespace buoy::descriptors
