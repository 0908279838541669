#include "gate/plan.h"

#include <sys/syscall.h>

#include "gate/signals.h"
#include "gate/table.h"

namespace buoy::gate {

namespace {

constexpr long kClone3 = 435;
constexpr long kOpenat2 = 437;
constexpr long kPidfdGetfd = 438;

// They come back twice: on another stack, where nothing of ours lies.
bool returns_twice(long number) { return number == SYS_clone || number == kClone3; }

bool is_left_alone(long number) { return number == SYS_rt_sigreturn || number == SYS_vfork; }

bool is_watched(long number) {
  switch (number) {
    case SYS_open:
    case SYS_openat:
    case kOpenat2:
    case SYS_fcntl:
    case SYS_setsockopt:
    case SYS_io_setup:
    case kPidfdGetfd:
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

void add_counted(const Entry& entry, Plan* plan) {
  switch (entry.number) {
    case SYS_read:
    case SYS_write:
    case SYS_pread64:
    case SYS_pwrite64:
    case SYS_sendto:
      plan->is_counted = true;
      plan->buffer = 1;
      plan->length = 2;
      break;
    case SYS_readv:
    case SYS_writev:
    case SYS_sendmsg:
    case SYS_preadv:
    case SYS_pwritev:
    case SYS_preadv2:
    case SYS_pwritev2:
      plan->is_counted = plan->is_vector = true;
      break;
    default:
      break;
  }
}

struct Need {
  bool front = false;
  bool always = false;  // in front, whatever the arguments
  bool behind = false;
};

Need need_of(const Entry& entry, long number) {
  if (signals::has_mask(number)) return {true, true, false};
  // The router, or pinners.h, is to see them.
  if (is_watched(number)) return {true, true, true};
  bool is_all_flat = true;
  for (unsigned k = 0; k < entry.count; ++k)
    is_all_flat = is_all_flat && is_flat(entry.operands[k]);
  switch (entry.kind) {
    case Class::kNone:
      return {};
    case Class::kRetry:
      // A small write is made as one: see Call.
      if (number == SYS_write) return {true, false, true};
      if (number == SYS_writev) return {true, true, true};
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
  const Need need = need_of(entry, site.number);
  plan.behind = need.behind && site.has_behind();
  const bool wants_front = need.front || (need.behind && !plan.behind);
  plan.is_always = wants_front && need.always;
  plan.in_front = wants_front && site.has_front();
  plan.is_whole = wants_front && !plan.in_front && !returns_twice(site.number);
  if (plan.is_whole) plan.behind = false;
  for (unsigned k = 0; k < entry.count; ++k)
    plan.pointers |= static_cast<std::uint8_t>(1U << entry.operands[k].argument);
  if (plan.behind) add_counted(entry, &plan);
  return plan;
}

}  // namespace buoy::gate
