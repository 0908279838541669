#include "gate/slow.h"

#include <sys/mman.h>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/dispatch.h"
#include "gate/gate.h"
#include "gate/pinners.h"
#include "gate/signals.h"
#include "gate/thread.h"

namespace buoy::gate {

namespace {

constinit Router the_router = nullptr;

std::uintptr_t go_on(Frame* f, long result) {
  f->result = result;
  return f->info->resume;
}

// Executable memory, other than what was just mapped from an object's file.
bool makes_code(long number, const long* a, long result) {
  if (result < 0 && result > -4096) return false;
  if (number == SYS_mmap || number == SYS_mprotect || number == SYS_pkey_mprotect)
    return (a[2] & PROT_EXEC) != 0;
  return false;
}

}  // namespace

void set_router(Router router) { the_router = router; }

std::uintptr_t in_front_slowly(Frame* f) {
  Memory& memory = *memory_if_set();
  memory.count(Event::gate_enter);
  thread::prepare(memory);
  dispatch::arm_thread();
  const auto sp = reinterpret_cast<std::uintptr_t>(f);
  thread::hold_stack(memory, sp);
  const long number = f->result;
  const long* const a = f->arguments;
  if (signals::has_mask(number)) return go_on(f, signals::call_with_mask(memory, number, a));
  if (number == SYS_sigaltstack)
    return go_on(f, thread::set_alternate_stack(memory, a, dispatch::stack_of_program(sp)));
  if (number == SYS_exit) {
    thread::before_exit(memory);
    // The one that it ends on stays.
    if (dispatch::stack_of_program(sp) == sp) dispatch::before_exit();
  }
  if (number == SYS_clone || number == SYS_clone3) thread::hold_for_new_thread(memory, number, a);
  if (pinners::is_one(memory, number, a)) memory.expect_pins();
  long result = 0;
  switch (the_router(number, a, &result)) {
    case Routed::kDone:
      if (makes_code(number, a, result)) note_code_made(f->info->call);
      return go_on(f, result);
    case Routed::kInPlace:
      if (f->info->is_in_place) return f->info->call;
      return go_on(f, sys::call(number, a[0], a[1], a[2], a[3], a[4], a[5]));
    case Routed::kNotSpecial:
      break;
  }
  Call call(memory, number, a);
  // What is received is looked at.
  const bool is_message =
      number == SYS_recvmsg || number == SYS_recvmmsg || number == SYS_pidfd_getfd;
  if (!is_message && f->info->is_in_place &&
      (f->info->has_behind ? call.is_plain() : call.is_untouched()))
    return f->info->call;
  result = call.make();
  if (is_message && result >= 0 && pinners::are_received(memory, number, a, result))
    memory.expect_pins();
  return go_on(f, result);
}

std::uintptr_t behind_slowly(Frame* f) {
  Memory& memory = *memory_if_set();
  memory.count(Event::gate_enter);
  return go_on(f, Call(memory, f->info->number, f->arguments).settle(f->result));
}

}  // namespace buoy::gate
