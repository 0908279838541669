#include "mmu/thread_delivery.h"

#include <linux/userfaultfd.h>
#include <sched.h>

#include <cerrno>

#include "base/sys.h"

namespace buoy::mmu {

namespace {
constexpr unsigned kMaxEvents = 8;

// The CPUs that a process may use, if they are few enough for a handler each; their number.
unsigned cpus_to_bind_to(int (&cpus)[ThreadDelivery::kMaxHandlers]) {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sys::call(SYS_sched_getaffinity, 0, sizeof mask, sys::ptr(&mask)) <= 0) return 0;
  unsigned found = 0;
  for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    if (found == ThreadDelivery::kMaxHandlers) return 0;
    cpus[found++] = static_cast<int>(cpu);
  }
  return found;
}

Fault fault_of(const uffd_msg& message) {
  const std::uint64_t flags = message.arg.pagefault.flags;
  Fault fault;
  fault.address = message.arg.pagefault.address;
  fault.vpn = Vpn::of_address(fault.address);
  fault.is_store = (flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0;
  fault.is_protection = (flags & UFFD_PAGEFAULT_FLAG_WP) != 0;
  fault.tid = static_cast<int>(message.arg.pagefault.feat.ptid);
  return fault;
}

// Threads that wait for neighbours are woken, too, while their messages are unread: what resolved
// this page has most likely brought in theirs.
constexpr Order kWakeOrder{4};
}  // namespace

void ThreadDelivery::wake_around(Vpn vpn) const {
  uffd_->wake(vpn.aligned_down(kWakeOrder).address(), kWakeOrder.pages().bytes());
}

Status ThreadDelivery::start(const Uffd& uffd, Receiver* receiver, Vpn exit_pages) {
  uffd_ = &uffd;
  receiver_ = receiver;
  exit_pages_ = exit_pages;
  int cpus[kMaxHandlers];
  const unsigned bound = cpus_to_bind_to(cpus);
  const unsigned wanted = bound != 0 ? bound : kMaxHandlers;
  for (count_ = 0; count_ < wanted; ++count_) {
    Handler& h = handlers_[count_];
    h.delivery = this;
    h.cpu = bound != 0 ? cpus[count_] : -1;
    // While there are other handlers, the next event is theirs. A lone one takes several.
    h.events_a_read = wanted > 1 ? 1 : kMaxEvents;
    const Status started = h.thread.start("buoy-fault", &ThreadDelivery::run, &h);
    if (started.ok()) continue;
    if (count_ != 0) break;  // fewer will do
    return started;
  }
  return {};
}

void ThreadDelivery::stop() {
  // Each touch of an exit page ends the one handler that reads of it.
  for (unsigned i = 0; i < count_; ++i)
    *reinterpret_cast<volatile std::byte*>((exit_pages_ + PageCount(i)).pointer());
  for (unsigned i = 0; i < count_; ++i) handlers_[i].thread.join();
  count_ = 0;
}

void ThreadDelivery::forget_after_fork() {
  for (unsigned i = 0; i < count_; ++i) handlers_[i].thread.forget_after_fork();
  count_ = 0;
}

void ThreadDelivery::run(void* handler) {
  auto* h = static_cast<Handler*>(handler);
  if (h->cpu >= 0) {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(static_cast<unsigned>(h->cpu), &mask);
    sys::call(SYS_sched_setaffinity, 0, sizeof mask, sys::ptr(&mask));
  }
  h->delivery->serve(*h);
}

void ThreadDelivery::serve(const Handler& handler) {
  uffd_msg messages[kMaxEvents];
  const long room = static_cast<long>(handler.events_a_read * sizeof messages[0]);
  for (;;) {
    const long got = sys::call(SYS_read, uffd_->fd(), sys::ptr(messages), room);
    if (got == -EINTR || got == -EAGAIN) continue;
    if (got <= 0) {
      sys::Line()
          .text("a fault handler cannot read faults: error ")
          .number(static_cast<std::uint64_t>(-got))
          .complain();
      return;
    }
    bool go_on = true;
    for (long at = 0; at < got; at += static_cast<long>(sizeof messages[0])) {
      const uffd_msg& message = messages[at / static_cast<long>(sizeof messages[0])];
      if (message.event == UFFD_EVENT_PAGEFAULT) go_on = answer(fault_of(message)) && go_on;
    }
    if (!go_on) return;
  }
}

bool ThreadDelivery::answer(const Fault& fault) {
  const PageRun exits{exit_pages_, PageCount(kMaxHandlers)};
  if (exits.contains(fault.vpn)) {
    static constexpr std::byte kZeros[kPageSize] = {};
    (void)uffd_->copy(fault.vpn.address(), kZeros, kPageSize, Uffd::Writable::kYes);
    uffd_->wake(fault.vpn.address(), kPageSize);
    return false;
  }
  switch (receiver_->on_event(fault)) {
    case Verdict::kResolved:
      wake_around(fault.vpn);
      break;
    case Verdict::kForeign:
      // The page was unmapped since: a late message, whose toucher was helped by somebody else's
      // work. The address may be another mapping's by now and must not be poisoned. Who really
      // touches a hole tries again, and finds it closed.
      uffd_->wake(fault.vpn.address(), kPageSize);
      break;
    case Verdict::kBusError:
      receiver_->raise_bus_error(fault);
      break;
  }
  return true;
}

}  // namespace buoy::mmu
