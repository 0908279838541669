// ThreadDelivery: handler threads that read faults from a userfaultfd and answer them.
//
// Measured: with every thread blocked in read(2), a fault wakes all of them, and the one on the
// CPU of the fault gets it first, for 10 to 16 microseconds; one that must be woken on another CPU
// takes 35 to 80. So there is a handler for each CPU, bound to it; on machines with many CPUs a
// few that are not bound. Handlers never touch managed memory: nobody would answer.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "base/thread.h"
#include "mmu/mmu.h"
#include "mmu/uffd.h"

namespace buoy::mmu {

class ThreadDelivery {
 public:
  static constexpr unsigned kMaxHandlers = 4;

  // Called in a handler thread. The handlers wake the faulting thread when it is kResolved, and
  // nothing wakes it before: when it goes on, the work for it is over and holds no lock. It may be
  // on its way into a fork.
  class Receiver {
   public:
    virtual Verdict on_event(const Fault& fault) = 0;
    // The toucher must get SIGBUS now; it waits.
    virtual void raise_bus_error(const Fault& fault) = 0;

   protected:
    ~Receiver() = default;
  };

  // `exit_pages`: one enrolled, never populated page for each handler: touching them ends the
  // handlers. EAGAIN or ENOMEM when the system gives no threads; EINVAL.
  [[nodiscard]] Status start(const Uffd& uffd, Receiver* receiver, Vpn exit_pages);
  // Ends the handlers and waits for them. Not inside a fault.
  void stop();
  // In a fork child: the handlers do not exist here.
  void forget_after_fork();

 private:
  struct Handler {
    BareThread thread;
    ThreadDelivery* delivery = nullptr;
    int cpu = -1;  // bound to it, or -1
    unsigned events_a_read = 1;
  };
  static void run(void* handler);
  void serve(const Handler& handler);
  [[nodiscard]] bool answer(const Fault& fault);  // false: end
  void wake_around(Vpn vpn) const;

  const Uffd* uffd_ = nullptr;
  Receiver* receiver_ = nullptr;
  Vpn exit_pages_;
  unsigned count_ = 0;
  Handler handlers_[kMaxHandlers];
};

}  // namespace buoy::mmu
