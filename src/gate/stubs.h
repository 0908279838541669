// Stubs: the code that patched places jump to, in memory of its own within a jump's reach of them.
//
//   in front of a call                              behind it
//     the moved instructions                          if the result is EFAULT, or a count that ended
//     if an argument may point at managed memory:       early in managed memory: enter, from behind
//       enter; it comes back to the call, or behind   the moved instructions
//       it with the call made                         jmp  back
//     jmp  the call
//
// Registers and flags that a system call keeps are kept; %rcx and %r11, which it does not, are used.
// Nothing is left on the stack while the call itself runs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "gate/sites.h"
#include "gate/transfer.h"

namespace buoy::gate {

// How a place of a site is used.
struct Plan {
  bool in_front = false;      // a stub in front of the call
  bool is_always = false;     // it enters whatever the arguments are
  bool behind = false;        // a stub behind the call
  bool is_whole = false;      // no place in front: the jump stands on the call itself
  std::uint8_t pointers = 0;  // bit k: argument k is compared with where managed memory lies
  // For `behind`: whether the result is a count of bytes, which may have ended early. A plain one is
  // compared with the length of its buffer; of a vector, any positive one is looked at.
  Transfer::Kind transfer = Transfer::Kind::kNone;
};

// What the entry is told of a site. Lies in the stubs, read-only.
struct SiteInfo {
  std::uintptr_t call;    // of the system call instruction
  std::uintptr_t resume;  // where to go on once the call was made
  std::int64_t number;    // Site::kNumberUnknown: it stands in %rax in front
  bool is_in_place;       // the call can be made there
  bool has_behind;        // and its result is looked at
};

class StubArea {
 public:
  // Room for the stubs of about `sites` places, reachable from all of [near). ENOMEM.
  [[nodiscard]] static Result<StubArea> create(CodeRange near, std::size_t sites);
  // Makes stubs of a site and puts the jumps in place, which the caller has made writable. False:
  // no more room; nothing was changed.
  [[nodiscard]] bool patch(const Site& site, const Plan& plan);
  // From here on what is made can be executed at once.
  [[nodiscard]] Status open();
  // No more is added: what was made can be executed, and not be written to. EACCES and others.
  [[nodiscard]] Status seal();
  void discard();
  [[nodiscard]] CodeRange range() const { return {begin_, end_}; }

 private:
  [[nodiscard]] Status set_protection(int protection) const;
  std::uintptr_t begin_ = 0;
  std::uintptr_t at_ = 0;
  std::uintptr_t end_ = 0;
};

}  // namespace buoy::gate
