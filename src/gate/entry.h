// The entry: from a stub, with the registers of a system call, to C++ and back.
//
// Registers are kept, the call's arguments included; the vector registers as well, but only for what
// needs them (with_vectors_kept). To an unwinder the entry is a signal frame on top of the call: it
// goes on in libc, at the call itself, so that cancellation unwinds and backtraces are libc's own.
#pragma once

#include <cstdint>

#include "gate/stubs.h"

namespace buoy::gate {

// A system call on its way, as the entry lays it out on the stack.
struct Frame {
  std::int64_t arguments[6];
  std::int64_t result;  // in front: the number; behind: the result
  const SiteInfo* info;
  std::uintptr_t call;  // for unwinders
};

// A call on its way through the gate that came by dispatch.
struct DispatchedCall {
  std::uintptr_t stack_pointer = 0;  // the program's
  std::uint32_t is_under_way = 0;
};

// What the entries call; each answers where the thread goes on: at the call (`result` is the number
// again) or at `info->resume` (it is the result).
struct Handlers {
  std::uintptr_t (*in_front)(Frame*);
  std::uintptr_t (*behind)(Frame*);
};
void set_handlers(const Handlers& handlers);

// body(frame), with the vector registers as they were afterwards.
std::uintptr_t with_vectors_kept(std::uintptr_t (*body)(Frame*), Frame* frame);

}  // namespace buoy::gate

extern "C" {
// Not to be called: %r11 points at a SiteInfo.
void buoy_gate_enter_front() __attribute__((visibility("hidden")));
void buoy_gate_enter_behind() __attribute__((visibility("hidden")));
// Nor this: %r11 is where a call that was dispatched goes on, %rcx its DispatchedCall.
void buoy_gate_enter_dispatched() __attribute__((visibility("hidden")));
}
