// What the entries call. Compiled without vector registers, which a system call keeps: what needs
// them (anything that may copy, or bring in pages) runs with_vectors_kept().
#include "gate/handlers.h"

#include "base/sys.h"
#include "gate/call.h"
#include "gate/entry.h"
#include "gate/quick.h"
#include "gate/slow.h"

namespace buoy::gate {

namespace {

// The code was patched before it turned out that there can be no gate.
std::uintptr_t without_gate(Frame* f) {
  if (f->info->is_in_place) return f->info->call;
  const std::int64_t* const a = f->arguments;
  f->result = sys::call(f->result, a[0], a[1], a[2], a[3], a[4], a[5]);
  return f->info->resume;
}

std::uintptr_t in_front(Frame* f) {
  f->result = static_cast<int>(f->result);  // the number, as the kernel reads it
  Memory* const memory = memory_if_set();
  if (memory == nullptr) return without_gate(f);
  switch (quickly(*memory, *f)) {
    case Quickly::kInPlace:
      return f->info->call;
    case Quickly::kDone:
      return f->info->resume;
    case Quickly::kNot:
      break;
  }
  return with_vectors_kept(&in_front_slowly, f);
}

// Less was read than there is room for, as a stream does, and as it ends at a missing page.
std::uintptr_t behind(Frame* f) {
  const Memory* const memory = memory_if_set();
  if (memory == nullptr || is_done(*memory, *f)) return f->info->resume;
  return with_vectors_kept(&behind_slowly, f);
}

}  // namespace

#if defined(__clang__)
// Compiled with vector registers: see CMakeLists.txt.
std::uintptr_t in_front_kept(Frame* f) { return with_vectors_kept(&in_front, f); }
std::uintptr_t behind_kept(Frame* f) { return with_vectors_kept(&behind, f); }
Handlers handlers() { return {&in_front_kept, &behind_kept}; }
#else
Handlers handlers() { return {&in_front, &behind}; }
#endif

}  // namespace buoy::gate
