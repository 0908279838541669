// SoftVm: a whole Vm on SoftMmu, with a real arena and swap stack and no background thread, so
// that what a test does is all that happens. Any budget, also far below what a Pool would accept:
// an arena block is 512 pages, so with less than that to spare nothing can be swapped.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "frames/arena.h"
#include "mmu/soft_mmu.h"
#include "swap/swap_stack.h"
#include "vm/page_image_testing.h"
#include "vm/vm.h"

namespace buoy {

struct SoftVmOptions {
  PageCount budget{4096};
  OnExhausted on_exhausted = OnExhausted::kSigbus;
  mmu::Pins pins = mmu::Pins::kKnown;
  swap::CompressorKind compressor = swap::CompressorKind::kLz4;
  mmu::Return preferred_return = mmu::Return::kMoved;
  unsigned most_waits_for_others = 0;  // a hook runs inside of what it would wait for
  ByteSize most_kept = kPageSize;      // all copies of pages that were only read: Context's is less
};

class SoftVm {
 public:
  using Touch = mmu::SoftMmu::Touch;

  explicit SoftVm(const SoftVmOptions& options = {});
  ~SoftVm();
  SoftVm(const SoftVm&) = delete;
  SoftVm& operator=(const SoftVm&) = delete;

  [[nodiscard]] Context& context() { return *context_; }
  [[nodiscard]] Vm& vm() { return *vm_; }
  [[nodiscard]] mmu::SoftMmu& mmu() { return *mmu_; }
  [[nodiscard]] frames::Arena& arena() { return *arena_; }
  // Runs between any two steps of the SoftMmu, across forks, too.
  void set_hook(mmu::SoftMmu::Hook hook);
  [[nodiscard]] std::uint64_t count(Event e) const { return context_->counters.read(e); }

  // ---- The program ----------------------------------------------------------------------------
  // A readable and writable mapping; aborts where there is none to have.
  [[nodiscard]] PageRun map(std::uint64_t pages, RegionFlags flags = RegionFlags::kNone);
  [[nodiscard]] Touch store(Vpn page, const PageImage& image);
  [[nodiscard]] Touch store_part(Vpn page, unsigned part, std::uint32_t seed);
  [[nodiscard]] Touch load(Vpn page, PageImage::Bytes* bytes);
  // As another CPU would: only if it needs no fault.
  [[nodiscard]] bool try_store_part(Vpn page, unsigned part, std::uint32_t seed);
  // Stores image_of(page) to every page of the run; aborts where that fails.
  void fill(PageRun run);
  // The image that fill() gives a page: of its own, half compressible.
  [[nodiscard]] static PageImage image_of(Vpn page);
  [[nodiscard]] bool holds(Vpn page, const PageImage& image);
  [[nodiscard]] bool reads_zeros(Vpn page) { return holds(page, PageImage()); }
  // What its page table says, without a fault and whatever the program may do.
  [[nodiscard]] Pte pte(Vpn page) const;
  // A letter a page:  - hole  . empty  m mapped  l lazily freed  a the same, taken away  c clean
  // s standby  z swapped  L being loaded  P purged
  [[nodiscard]] std::string drawn(PageRun run) const;

  // ---- Reclaim --------------------------------------------------------------------------------
  PageCount reclaim(std::uint64_t goal);
  // Everything ordinary that may leave goes to standby, nothing is squeezed.
  void age_to_standby(PageRun run);

  // ---- Fork -----------------------------------------------------------------------------------
  // Goes on as the parent of a fork whose child is gone at once, or as the child.
  void fork_and_stay();
  void fork_and_become_child();

  // Every equation that must hold between operations: Vm::validate and SwapStack::validate, the
  // simulated page table against the budget, and the budget against its limit.
  void validate();

 private:
  std::unique_ptr<Context> context_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<mmu::SoftMmu> mmu_;
  mmu::SoftMmu::Hook hook_;
  frames::Arena* arena_ = nullptr;
  swap::SwapStack* swap_ = nullptr;
};

// A seed for store_part(): compressible, and in no page's own image.
inline constexpr std::uint32_t kSeed = 4 * 1000 + 1;

[[nodiscard]] inline PageRun sub(PageRun run, std::uint64_t first, std::uint64_t count) {
  return {run.first + PageCount(first), PageCount(count)};
}
// Of a drawing.
[[nodiscard]] inline std::string repeated(char letter, std::size_t n) {
  return std::string(n, letter);
}

class SoftVmTest : public ::testing::Test {
 protected:
  void TearDown() override { soft_.validate(); }
  PageRun map_filled(std::uint64_t pages, RegionFlags flags = RegionFlags::kNone) {
    const PageRun run = soft_.map(pages, flags);
    soft_.fill(run);
    return run;
  }

  SoftVm soft_;
};

}  // namespace buoy
