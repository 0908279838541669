// What tests of an Mmu share: a real or simulated program's memory behind one set of verbs, and a
// sink that answers faults as a test scripts it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/counters.h"
#include "mmu/mmu.h"
#include "mmu/soft_mmu.h"
#include "mmu/uffd_mmu.h"

namespace buoy::mmu {

// Answers every fault of its reservations by zeros, or by unprotecting. Thread-safe.
class ZeroSink final : public FaultSink {
 public:
  Verdict on_fault(const Fault& fault) override;

  std::atomic<Mmu*> mmu{nullptr};
  Reservation reservation;  // set before the first fault
  std::atomic<std::uint64_t> missing{0};
  std::atomic<std::uint64_t> protections{0};
  std::atomic<std::uint64_t> stores{0};
  std::atomic<std::uint64_t> bus_error_page{0};  // page number that answers kBusError; 0: none
  std::atomic<std::uintptr_t> last_address{0};
};

// The kinds of Mmu that the contract holds for.
enum class Kind : std::uint8_t { kSoft, kSignal, kThread, kWithoutMove };
std::string name_of(Kind kind);

// An Mmu of a kind with one reservation, readable and writable.
class Bench {
 public:
  Bench(Kind kind, PageCount pages, Backing backing = Backing::kSmall);
  // A view of a SoftMmu's fork child.
  Bench(SoftMmu& child, const Reservation& r);
  ~Bench();
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  // Why there is none; empty if there is.
  [[nodiscard]] const std::string& why_not() const { return why_not_; }

  [[nodiscard]] Mmu& mmu() { return *mmu_; }
  [[nodiscard]] SoftMmu* soft() { return soft_; }
  [[nodiscard]] UffdMmu* uffd() { return uffd_; }
  [[nodiscard]] const Reservation& r() const { return sink.reservation; }
  [[nodiscard]] Vpn page(std::uint64_t i) const { return r().base + PageCount(i); }
  [[nodiscard]] PageRun run(std::uint64_t first, std::uint64_t n) const {
    return {page(first), PageCount(n)};
  }

  // The program's accesses: one word at the start of page i (plus `offset` bytes).
  [[nodiscard]] std::uint64_t load(std::uint64_t i, std::size_t offset = 0);
  void store(std::uint64_t i, std::uint64_t value, std::size_t offset = 0);
  // Page i is installed with its words all `value`, but the last one, which is i.
  [[nodiscard]] Progress install(std::uint64_t first, std::uint64_t n, std::uint64_t value,
                                 Stores stores = Stores::kAllowed);
  [[nodiscard]] std::uint64_t in_shadow(std::uint64_t i);

  Counters counters;
  ZeroSink sink;

 private:
  Mmu* mmu_ = nullptr;
  std::unique_ptr<SoftMmu> own_soft_;
  SoftMmu* soft_ = nullptr;
  UffdMmu* uffd_ = nullptr;
  std::string why_not_;
};

// Pins a page as a fixed buffer of an io_uring; the ring, or -1 where that is not to be had.
int pin_by_io_uring(std::byte* page);

}  // namespace buoy::mmu
