#include "gate/plan.h"

#include <sys/syscall.h>

#include "gate/signals.h"
#include "gate/table.h"

namespace buoy::gate {

namespace {

// They come back twice: on another stack, where nothing of ours lies.
bool returns_twice(long number) { return number == SYS_clone || number == SYS_clone3; }

bool is_left_alone(long number) { return number == SYS_rt_sigreturn || number == SYS_vfork; }

bool is_watched(long number) {
  switch (number) {
    case SYS_open:
    case SYS_openat:
    case SYS_openat2:
    case SYS_sysinfo:
    case SYS_fcntl:
    case SYS_setsockopt:
    case SYS_io_setup:
    case SYS_pidfd_getfd:
      return true;
    default:
      return false;
  }
}

// Is what an operand points at known from the arguments alone?
bool is_flat(const Operand& o) {
  switch (o.size) {
    case Size::kVector:
    case Size::kMessage:
    case Size::kMessages:
    case Size::kStrings:
    case Size::kPointers:
    case Size::kSigsetPair:
    case Size::kWaiters:
    case Size::kIoctl:
      return false;
    default:
      return true;
  }
}

struct Need {
  bool front = false;
  bool always = false;  // in front, whatever the arguments
  bool behind = false;
};

Need need_of(const Entry& entry, long number) {
  if (signals::has_mask(number)) return {true, true, entry.kind == Class::kRetry};
  // The router, or pinners.h, is to see them.
  if (is_watched(number)) return {true, true, true};
  bool is_all_flat = true;
  for (unsigned k = 0; k < entry.count; ++k)
    is_all_flat = is_all_flat && is_flat(entry.operands[k]);
  switch (entry.kind) {
    case Class::kNone:
      return {};
    case Class::kRetry:
      // A small write is made as one; a handler that interrupts what waits is to be noticed: see Call.
      if (number == SYS_write || number == SYS_sendto) return {true, false, true};
      if (number == SYS_writev || number == SYS_sendmsg) return {true, true, true};
      return {false, !is_all_flat, true};
    case Class::kDescriptor:
      return {true, !is_all_flat, true};
    case Class::kLossy:
    case Class::kEffect:
      return {true, !is_all_flat, false};
    default:
      return {true, true, false};
  }
}

}  // namespace

Plan plan_for(const Site& site) {
  Plan plan;
  if (site.number == Site::kNumberUnknown) {
    plan.is_always = true;
    plan.in_front = site.has_front();
    plan.is_whole = !plan.in_front;
    return plan;
  }
  if (is_left_alone(site.number)) return plan;
  const Entry& entry = entry_of(site.number);
  Need need = need_of(entry, site.number);
  // What a structure points at is looked for where the call answers EFAULT.
  need.behind = need.behind || (is_opaque(entry) && !returns_twice(site.number));
  plan.behind = need.behind && site.has_behind();
  const bool wants_front = need.front || (need.behind && !plan.behind);
  plan.is_always = wants_front && need.always;
  plan.in_front = wants_front && site.has_front();
  plan.is_whole = wants_front && !plan.in_front && !returns_twice(site.number);
  if (plan.is_whole) plan.behind = false;
  for (unsigned k = 0; k < entry.count; ++k)
    plan.pointers |= static_cast<std::uint8_t>(1U << entry.operands[k].argument);
  plan.transfer = plan.behind ? transfer_of(site.number).kind : Transfer::Kind::kNone;
  return plan;
}

}  // namespace buoy::gate
