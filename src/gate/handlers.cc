// What the entries call. Compiled without vector registers, which a system call keeps: what needs
// them (anything that may copy, or bring in pages) runs with_vectors_kept().
#include "gate/handlers.h"

#include <algorithm>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/descriptor_kinds.h"
#include "gate/entry.h"
#include "gate/slow.h"

namespace buoy::gate {

namespace {

constexpr std::uintptr_t kPage = 4096;

constexpr long kDirect = 040000;  // O_DIRECT
constexpr long kSetFlags = 4;     // F_SETFL

// Reads and writes of one buffer that is there, from and to what loses nothing.
bool is_quick_transfer(const Memory& memory, const Frame& f) {
  const bool reads = f.result == SYS_read || f.result == SYS_pread64;
  const auto address = static_cast<std::uintptr_t>(f.arguments[1]);
  const auto length = static_cast<std::uintptr_t>(f.arguments[2]);
  if (length == 0 || length > kPage - address % kPage) return false;
  if (f.result == SYS_read) {
    const DescriptorKind kind = descriptor_kinds.known(static_cast<int>(f.arguments[0]));
    if (kind != DescriptorKind::kFile && kind != DescriptorKind::kStream) return false;
  }
  return memory.is_page_ready(address, reads ? PinFor::kWriting : PinFor::kReading);
}

// Can it be made in place, at once? What goes wrong behind it is settled there.
bool is_quick(const Memory& memory, const Frame& f) {
  switch (f.result) {
    case SYS_read:
    case SYS_pread64:
    case SYS_write:
    case SYS_pwrite64:
      return is_quick_transfer(memory, f);
    case SYS_open:
      return (f.arguments[1] & kDirect) == 0;
    case SYS_openat:
      return (f.arguments[2] & kDirect) == 0;
    case SYS_fcntl:
      return f.arguments[1] != kSetFlags;
    default:
      return false;
  }
}

// The code was patched before it turned out that there can be no gate.
std::uintptr_t without_gate(Frame* f) {
  if (f->info->is_in_place) return f->info->call;
  const std::int64_t* const a = f->arguments;
  f->result = sys::call(f->result, a[0], a[1], a[2], a[3], a[4], a[5]);
  return f->info->resume;
}

std::uintptr_t in_front(Frame* f) {
  f->result = static_cast<int>(f->result);  // the number, as the kernel reads it
  const Memory* const memory = memory_if_set();
  if (memory == nullptr) return without_gate(f);
  if (f->info->is_in_place && f->info->has_behind && is_quick(*memory, *f)) return f->info->call;
  return with_vectors_kept(&in_front_slowly, f);
}

// For the next piece that the stream may have had, which is copied whole or not at all.
bool had_room(const Memory& memory, const Frame& f) {
  const auto next = static_cast<std::uintptr_t>(f.arguments[1] + f.result);
  const std::uintptr_t last =
      std::min(next + kPage, static_cast<std::uintptr_t>(f.arguments[1] + f.arguments[2])) - 1;
  return memory.is_page_ready(next, PinFor::kWriting) &&
         memory.is_page_ready(last, PinFor::kWriting);
}

// Less was read than there is room for, as a stream does, and as it ends at a missing page.
std::uintptr_t behind(Frame* f) {
  if (memory_if_set() == nullptr) return f->info->resume;
  constexpr long kFault = -14;
  if (f->result != kFault && f->info->number == SYS_read &&
      descriptor_kinds.known(static_cast<int>(f->arguments[0])) == DescriptorKind::kStream &&
      had_room(*memory_if_set(), *f))
    return f->info->resume;
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
