// UffdMmu: the Mmu over real memory, by userfaultfd.
//
// Address ranges are registered for missing pages and write protection; shadows for write
// protection only, so that MOVE may put pages there while the kernel itself populates what we
// store to. (MOVE wants its destination registered.)
//
//   uffd_mmu.cc        life, reservations, fork
//   uffd_pages.cc      install, give_back, protect, discard, stage
//   uffd_take.cc       the ways to take pages away
//   uffd_take_closed.cc  the same for memory that the program may not store to
//
// Allocates by mmap only. Faults reach the sink by SIGBUS in the faulting thread or through
// handler threads.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/counters.h"
#include "base/extent_map.h"
#include "base/lock.h"
#include "mmu/call_cost.h"
#include "mmu/mmu.h"
#include "mmu/remap_gate.h"
#include "mmu/reservation_table.h"
#include "mmu/residency.h"
#include "mmu/signal_delivery.h"
#include "mmu/thread_delivery.h"
#include "mmu/uffd.h"

namespace buoy::mmu {

enum class Delivery : std::uint8_t { kSignal, kThread };
// Of thread delivery: whether faults that system calls take must be served, too, which needs rights, or
// only where the rights are there (elsewhere such a call fails with EFAULT, as in signal delivery).
enum class KernelFaults : std::uint8_t { kRequired, kWhereAllowed };
enum class UseMove : std::uint8_t { kWherePossible, kNever };

struct UffdOptions {
  Delivery delivery = Delivery::kSignal;
  KernelFaults kernel_faults = KernelFaults::kRequired;
  FaultSink* sink = nullptr;
  Counters* counters = nullptr;
  Pins pins = Pins::kUnknown;
  UseMove use_move = UseMove::kWherePossible;  // kNever: as on kernels without it, for tests
};

class UffdMmu final : public Mmu, private SignalReceiver, private ThreadDelivery::Receiver {
 public:
  // EPERM: no right to it; ENOSYS: the kernel lacks it or hides it; EOPNOTSUPP: too old.
  // capabilities.h says which, and the remedy.
  [[nodiscard]] static Result<UffdMmu*> create(const UffdOptions& options);
  // No reservation is in use any more; they are given back to the system. Not inside a fault.
  void destroy();

  // Is any of the run ours and nobody else's: in a shadow, or where we try things out? A walk over all
  // reservations.
  [[nodiscard]] bool is_engines(PageRun run) const;
  [[nodiscard]] bool uses_move() const { return uses_move_; }
  // Whether take() notices pages that the kernel holds pinned. Without it, only memory whose pins
  // all pass through us may be taken.
  [[nodiscard]] bool detects_pins() const { return uses_move_; }
  [[nodiscard]] Delivery delivery() const { return options_.delivery; }

  Result<Reservation> reserve(PageCount pages, Backing backing, Vpn hint = Vpn()) override;
  void release(const Reservation& r) override;
  Status let_go(const Reservation& r, PageRun run) override;
  Status take_back(const Reservation& r, PageRun run) override;
  Result<Reservation> reserve_around(PageRun part) override;
  Status permit(const Reservation& r, PageRun run, Access access) override;
  Progress install(const Reservation& r, PageRun run, const std::byte* bytes,
                   Stores stores) override;
  Progress install_zeros(const Reservation& r, PageRun run) override;
  Progress take(const Reservation& r, PageRun run) override;
  Progress take_block(const Reservation& r, Vpn block_start, PageCount populated) override;
  GiveBackResult give_back(const Reservation& r, PageRun run, Return allowed) override;
  [[nodiscard]] Return preferred_return(PageCount n) const override;
  Progress protect(const Reservation& r, PageRun run) override;
  Progress unprotect(const Reservation& r, PageRun run) override;
  Progress discard(const Reservation& r, PageRun run) override;
  Progress discard_runs(const Reservation& r, std::span<const PageRun> runs) override;
  void drop_shadow(const Reservation& r, PageRun run) override;
  void unshare(const Reservation& r, Vpn vpn) override;
  [[nodiscard]] const std::byte* shadow_bytes(const Reservation& r, Vpn vpn) override;
  [[nodiscard]] const std::byte* mapped_bytes(const Reservation& r, Vpn vpn) override;
  [[nodiscard]] std::byte* stage(const Reservation& r, PageRun run) override;
  bool poison(const Reservation& r, Vpn vpn) override;
  void unpoison(const Reservation& r, Vpn vpn) override;
  [[nodiscard]] bool is_mlocked(PageRun run) override;
  void expect_unknown_pins() override { pins_.store(Pins::kUnknown); }
  [[nodiscard]] Costs costs() const override;
  [[nodiscard]] ByteSize pagetable_bytes() const override;
  [[nodiscard]] ByteSize metadata_bytes() const override;
  [[nodiscard]] PageCount populated_pages() const override;
  Status before_fork() override;
  void after_fork_in_parent() override;
  Status after_fork_in_child() override;

 private:
  explicit UffdMmu(const UffdOptions& options)
      : options_(options),
        pins_(options.pins),
        modes_(options.delivery == Delivery::kThread ? Modes::kUserAndKernel : Modes::kUserOnly) {}
  ~UffdMmu() override = default;

  // uffd_mmu.cc
  [[nodiscard]] Status open_all();
  // The right that modes_ wants may be missing.
  [[nodiscard]] bool can_do_with_less() const {
    return modes_ == Modes::kUserAndKernel && options_.kernel_faults == KernelFaults::kWhereAllowed;
  }
  [[nodiscard]] Status open_descriptors();
  [[nodiscard]] Status start_delivery();
  void close_all();
  [[nodiscard]] Status enroll(const Reservation& r) const;
  [[nodiscard]] Status change_access(const Reservation& r, PageRun run, Access access);
  // Advice that our ranges bear from the start.
  static void advise_addresses(PageRun run, Backing backing);
  // Ours in place of whatever is mapped there, access kNone.
  [[nodiscard]] static Status replace(PageRun run, Backing backing);
  // Finds a place for the shadow and enters what has addresses already.
  Result<Reservation> complete(Reservation r);
  // Calls f(PageRun) for each part of the addresses that was not let go.
  template <typename F>
  void for_each_kept(const Reservation& r, F&& f) const;
  [[nodiscard]] Status open_shadow(const Reservation& r, PageRun run, Access access);
  void calibrate();
  void set_inheritance(int advice);
  [[nodiscard]] static int protection_of(Access access);
  Verdict on_sigbus(const Fault& fault) override;
  [[nodiscard]] bool is_unmapped(Vpn vpn) const override;
  Verdict on_event(const Fault& fault) override;
  void raise_bus_error(const Fault& fault) override;

  // uffd_pages.cc
  Progress copy_in(const Reservation& r, PageRun run, const std::byte* bytes, Stores stores);
  [[nodiscard]] bool zeros_by_move(const Reservation& r, PageRun block);
  Progress move_back(const Reservation& r, PageRun run);
  Progress copy_back(const Reservation& r, PageRun run);
  Progress copy_back_and_drop(const Reservation& r, PageRun run);

  // uffd_take.cc
  Progress take_ours(const Reservation& r, PageRun run);
  Progress take_by_move(const Reservation& r, PageRun run);
  Progress take_by_copy(const Reservation& r, PageRun run);
  [[nodiscard]] PageCount leading_holes(PageRun run) const;

  // uffd_take_closed.cc
  Progress take_closed(const Reservation& r, PageRun run);
  Progress take_closed_in_gate(const Reservation& r, PageRun run);
  void return_closed(const Reservation& r, PageRun run, Access access);
  [[nodiscard]] PageCount unpinned_prefix(const Reservation& r, PageRun run);
  [[nodiscard]] bool note_access(PageRun run, Access access);

  // uffd_take.cc
  Progress copy_out(const Reservation& r, PageRun run);
  Progress discard_copied(const Reservation& r, PageRun run);
  [[nodiscard]] bool try_take_by_remap(const Reservation& r, PageRun block);
  [[nodiscard]] bool remap_to_shadow(const Reservation& r, PageRun block);
  [[nodiscard]] bool try_give_back_by_remap(const Reservation& r, PageRun block);
  [[nodiscard]] bool remap_to_address(const Reservation& r, PageRun block);

  // As many zero pages a COPY reads from at most.
  static constexpr std::uint64_t kZeroPages = 64;

  void count(Event e, std::uint64_t n = 1) const { options_.counters->add(e, n); }
  void count_flush() const { count(Event::tlb_flush_calls); }

  UffdOptions options_;
  std::uint64_t features_ = 0;  // enabled on uffd_
  bool uses_move_ = false;
  bool can_poison_ = false;
  Uffd uffd_;
  Residency residency_;
  ReservationTable table_;
  // Addresses of reservations that were let go. Changed by one caller at a time, which see mmu.h.
  ExtentMap<bool> gone_;
  ThreadDelivery threads_;
  RemapGate remap_gate_;
  Reservation scratch_;  // one block: its first pages end the handlers; calibration; take_closed()
  Mutex<LockRank::kMmu> scratch_lock_;  // guards scratch_ for take_closed()
  // Memory that the program may not store to, by what it may do. Changed with remap_gate_ closed and
  // the lock held, read inside the gate.
  ExtentMap<Access> closed_;
  std::byte* zeros_ = nullptr;  // kZeroPages pages, read-only: all the system's one zero page
  std::atomic<std::uint32_t> copies_since_move_{0};
  std::atomic<bool> may_advise_all_{true};  // until it turns out that the kernel cannot

  std::atomic<Pins> pins_{Pins::kUnknown};
  Modes modes_;         // what our descriptor serves
  CallCost take_run_;   // a call of take, page by page
  CallCost move_back_;  // a MOVE into the address, of a short run
  CallCost copy_page_;  // a page installed by COPY
};

}  // namespace buoy::mmu
