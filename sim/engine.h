// Engine: Buoy itself under a trace. Its vm, its reclaim and its swap tiers, with a real pool and a real
// file, on SoftMmu, which has pages but no memory behind their addresses. One thread: what the
// background thread would do happens at once after the fault that wakes it.
//
// Contents are stored, brought back and compared: a page that is not what was stored ends the run.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frames/arena.h"
#include "mmu/soft_mmu.h"
#include "page_contents.h"
#include "result.h"
#include "swap/swap_stack.h"
#include "trace.h"
#include "vm/vm.h"

namespace buoy::sim {

struct EngineOptions {
  ByteSize budget = 0;  // Budget::kMinimum or more
  swap::CompressorKind compressor = swap::CompressorKind::kLz4;
  std::string backing_file = "auto";  // as `buoy run` takes it
  double stored = 0;                  // see PageContents
  unsigned take_ns = 3000;            // what the engine believes that taking a run of pages costs
};

class Engine {
 public:
  // Throws std::runtime_error with one line for the user, as does every access.
  Engine(const EngineOptions& options, Page pages);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // True: it was a miss.
  bool access(Page page, bool is_store) {
    const Vpn at = vpn(page);
    if (is_store ? has_contents_[page] && vm_->is_ready(at, PinFor::kWriting)
                 : vm_->is_ready(at, PinFor::kReading))
      return false;
    return access_slowly(page, is_store);
  }
  void advise(const Event& event);

  [[nodiscard]] EngineCounts counts() const;
  [[nodiscard]] TierSample tiers() const;
  [[nodiscard]] Picture::Tier tier_of(Page page) const;
  // Every equation that must hold; aborts if one does not.
  void validate();

 private:
  [[nodiscard]] Vpn vpn(Page page) const { return base_ + PageCount(page); }
  bool access_slowly(Page page, bool is_store);
  void store_contents(Page page);
  void store_again(Page page);
  void load_and_check(Page page);
  void tell(const char* what, Page page, mmu::SoftMmu::Touch touch) const;

  std::unique_ptr<Context> context_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<mmu::SoftMmu> mmu_;
  frames::Arena* arena_ = nullptr;
  swap::SwapStack* swap_ = nullptr;
  PageContents contents_;
  PageContents::Bytes bytes_{};
  Vpn base_;
  std::vector<bool> has_contents_;  // they were stored, and not discarded since
  std::vector<bool> may_be_lost_;   // lazily freed, and not stored to since
};

}  // namespace buoy::sim
