// SoftMmu: the Mmu as a page table in software, for tests and simulation.
//
// There is no memory behind its addresses: the simulated program makes explicit load() and store()
// calls, which ask the FaultSink as the hardware would. Everything the kernel may do to us can be
// arranged: pins, mlock, fork-shared pages, memory that is not writable, failures of any call. A
// hook runs between any two steps; in it a test may do what another thread could do just then.
//
// Stricter than the real one: what the contract forbids (reading a hole of a shadow, staging over
// a page) aborts. It allocates with malloc and std containers: never in somebody's fault.
//
// Thread-safe as Mmu demands; deterministic when one thread uses it. The lock is not held while
// the sink or the hook runs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "base/counters.h"
#include "mmu/mmu.h"
#include "mmu/reservation_table.h"
#include "mmu/soft_pages.h"

namespace buoy::mmu {

class SoftMmu final : public Mmu {
 public:
  enum class Primitive : std::uint8_t {
    kReserve,
    kPermit,
    kInstall,
    kInstallZeros,
    kTake,
    kGiveBack,
    kProtect,
    kUnprotect,
    kDiscard,
    kDropShadow,
    kUnshare,
    kStage,
    kPoison,
    kReadShadow,  // shadow_bytes(): the one step that may be taken without a leaf lock
  };
  // Where in a call the hook stands: before its first page, before a later one, behind the last.
  enum class When : std::uint8_t { kBefore, kBetween, kAfter };
  struct Step {
    Primitive primitive;
    When when;
    Vpn vpn;  // the page that comes next; behind the last: the first page of the run
  };
  using Hook = std::function<void(const Step&)>;

  // One failure to come: the call number `skip_calls` (from 0) of this kind from now stops with
  // `outcome` in front of its page `at_page`. reserve and permit: ENOMEM; stage: null; poison:
  // false.
  struct Failure {
    Primitive primitive = Primitive::kTake;
    std::uint64_t skip_calls = 0;
    PageCount at_page;
    Outcome outcome = Outcome::kNoMemory;
  };

  // How a simulated access ended.
  enum class Touch : std::uint8_t {
    kDone,
    kBusError,  // SIGBUS: the sink said so, or poison
    kSegv,      // no mapping, or the access is not permitted
    kStuck,     // the sink says resolved, again and again, and it is not
  };

  // Neither is owned. The sink may be set later, before the first fault.
  SoftMmu(FaultSink* sink, Counters* counters);
  ~SoftMmu() override;
  SoftMmu(const SoftMmu&) = delete;
  SoftMmu& operator=(const SoftMmu&) = delete;
  void set_sink(FaultSink* sink) { sink_ = sink; }

  // ---- The simulated program ------------------------------------------------------------------
  [[nodiscard]] Touch load(std::uintptr_t address, void* out, std::size_t bytes);
  [[nodiscard]] Touch store(std::uintptr_t address, const void* in, std::size_t bytes);
  // The whole page is stored full of one word, and stays compact.
  [[nodiscard]] Touch store_uniform(Vpn vpn, std::uint64_t word);
  // Accesses that happen only if they need no fault: what another CPU may do in a hook.
  [[nodiscard]] bool try_load(std::uintptr_t address, void* out, std::size_t bytes);
  [[nodiscard]] bool try_store(std::uintptr_t address, const void* in, std::size_t bytes);

  // ---- The simulated kernel -------------------------------------------------------------------
  // A present page is pinned as for a device. It may be written behind any protection by
  // device_store(); false if the device's page is not the program's any more: lost data.
  void pin(Vpn vpn);
  void unpin(Vpn vpn);
  [[nodiscard]] bool device_store(std::uintptr_t address, const void* in, std::size_t bytes);
  void lock_pages(PageRun run);  // mlock
  void unlock_pages(PageRun run);
  // The child of a fork: a copy, pages shared on both sides. Without before_fork() the child has no
  // mappings; until after_fork_in_child() its holes read zeros, as they would.
  [[nodiscard]] std::unique_ptr<SoftMmu> fork_child(FaultSink* sink, Counters* counters);

  // ---- The test -------------------------------------------------------------------------------
  void set_hook(Hook hook) { hook_ = std::move(hook); }
  void inject(const Failure& failure) { failures_.push_back(failure); }
  [[nodiscard]] bool has_uninjected_failures() const { return !failures_.empty(); }
  void clear_failures() { failures_.clear(); }
  void set_costs(const Costs& costs) { costs_ = costs; }
  void set_preferred_return(Return how) { preferred_ = how; }
  [[nodiscard]] bool is_mapped(Vpn vpn) const {
    return has(vpn, Side::kAddress, SoftPages::kPresent);
  }
  [[nodiscard]] bool is_in_shadow(Vpn vpn) const {
    return has(vpn, Side::kShadow, SoftPages::kPresent);
  }
  [[nodiscard]] bool is_trapped(Vpn vpn) const {
    return has(vpn, Side::kAddress, SoftPages::kTrapped);
  }
  [[nodiscard]] bool is_shared(Vpn vpn) const {
    return has(vpn, Side::kAddress, SoftPages::kShared);
  }
  [[nodiscard]] bool is_poisoned(Vpn vpn) const {
    return has(vpn, Side::kAddress, SoftPages::kPoisoned);
  }

  // ---- Mmu ------------------------------------------------------------------------------------
  Result<Reservation> reserve(PageCount pages, Backing backing, Vpn hint = Vpn()) override;
  void release(const Reservation& r) override;
  Status permit(const Reservation& r, PageRun run, Access access) override;
  Progress install(const Reservation& r, PageRun run, const std::byte* bytes,
                   Stores stores) override;
  Progress install_zeros(const Reservation& r, PageRun run) override;
  Progress take(const Reservation& r, PageRun run) override;
  Progress take_block(const Reservation& r, Vpn block_start, PageCount populated) override;
  GiveBackResult give_back(const Reservation& r, PageRun run, Return allowed) override;
  [[nodiscard]] Return preferred_return(PageCount) const override { return preferred_; }
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
  [[nodiscard]] Costs costs() const override { return costs_; }
  [[nodiscard]] ByteSize pagetable_bytes() const override { return table_.pagetable_bytes(); }
  [[nodiscard]] ByteSize metadata_bytes() const override { return table_.metadata_bytes(); }
  [[nodiscard]] PageCount populated_pages() const override;
  Status before_fork() override;
  void after_fork_in_parent() override;
  Status after_fork_in_child() override;

 private:
  using Lock = std::lock_guard<std::mutex>;
  // A staged run that still has pages in the shadow.
  struct Staging {
    std::unique_ptr<std::byte[]> bytes;
    PageRun run;
  };
  struct Range {
    explicit Range(const Reservation& reservation);
    Reservation r;
    SoftPages address;
    SoftPages shadow;
    std::map<std::uint64_t, Access> access;  // from this page on; page 0 is always there
    std::vector<Staging> staged;
    [[nodiscard]] Access access_of(std::uint64_t i) const;
    [[nodiscard]] bool is_writable(std::uint64_t i) const;
    [[nodiscard]] std::uint64_t index(Vpn v) const { return (v - r.base).value(); }
  };
  enum class Try : std::uint8_t { kDone, kFault, kProtectionFault, kBusError, kSegv };

  [[nodiscard]] Range* range_of(Vpn vpn) const;
  [[nodiscard]] Range& range(const Reservation& r) const;
  [[nodiscard]] bool has(Vpn vpn, Side side, SoftPages::Flag flag) const;
  [[nodiscard]] bool is_free(Vpn base, PageCount pages) const;
  void note_populated(const Reservation& r, PageRun run, Side side);
  void drop_finished_stagings(Range& range);

  // One access within one page.
  Try try_access(std::uintptr_t address, void* out, const void* in, std::size_t bytes);
  Touch access(std::uintptr_t address, void* out, const void* in, std::size_t bytes);
  [[nodiscard]] Touch ask_sink(std::uintptr_t address, bool is_store, bool is_protection);

  // Runs `step(range, i) -> Outcome` for each page, with hooks and injected failures around it.
  template <typename PageStep>
  Progress for_pages(Primitive primitive, const Reservation& r, PageRun run, PageStep&& step);
  void call_hook(Primitive primitive, When when, Vpn vpn);
  [[nodiscard]] bool take_failure(Primitive primitive, Failure& failure);
  Outcome take_page(Range& range, std::uint64_t i);
  Outcome give_back_page(Range& range, std::uint64_t i, Return how);
  void count(Event e, std::uint64_t n = 1) const {
    if (counters_ != nullptr) counters_->add(e, n);
  }

  FaultSink* sink_;
  Counters* counters_;
  mutable std::mutex mutex_;
  ReservationTable table_;
  std::map<std::uint64_t, std::unique_ptr<Range>> ranges_;  // by the base's page number
  Vpn next_base_;
  Vpn next_shadow_;
  bool is_inheritable_ = false;
  bool is_enrolled_ = true;  // false in a fork child until after_fork_in_child()
  Hook hook_;
  std::vector<Failure> failures_;
  Costs costs_{3000, 2500, 1000};
  Return preferred_ = Return::kMoved;
};

}  // namespace buoy::mmu
