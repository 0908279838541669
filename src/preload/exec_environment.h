// ExecEnvironment: the environment of a program that this one executes, with what it needs to come
// into a budget, too, put back where the program left it out: our library first in LD_PRELOAD, and
// the variables of environment.h.
//
// Usable between vfork and exec: no allocation that the parent would keep, no lock, no change of the
// program's own environment. The object must live until the call that uses it has returned.
#pragma once

#include <cstddef>

namespace buoy::preload {

// Remembers this process's own. Called once, while it is set up.
void keep_environment_for_exec();

class ExecEnvironment {
 public:
  // `program` may be null, which Linux takes for an empty one.
  explicit ExecEnvironment(char* const* program);
  ~ExecEnvironment();
  ExecEnvironment(const ExecEnvironment&) = delete;
  ExecEnvironment& operator=(const ExecEnvironment&) = delete;

  // The program's own array if nothing was missing.
  [[nodiscard]] char* const* get() const { return list_; }
  [[nodiscard]] bool is_mended() const { return is_mended_; }
  // Can the dynamic linker find our library where this process is now? Not in a chroot without it:
  // the program would run without a budget, so it is not to run. Says so on stderr.
  [[nodiscard]] static bool is_library_in_reach();

 private:
  [[nodiscard]] char* take_bytes(std::size_t bytes);

  static constexpr std::size_t kRoom = 16384;  // usual environments; larger ones are mapped
  alignas(char*) char room_[kRoom];
  std::size_t used_ = 0;
  char* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  char* const* list_;
  bool is_mended_ = false;
};

}  // namespace buoy::preload
