// VmModel: random operations on a SoftVm, and beside it the simplest account of what they mean.
//
// The account is a map from page to the set of contents that a load may find: one element for
// ordinary memory; the old contents or zeros for lazily freed memory until the next store, and for
// droppable memory always. A load narrows the set to what it saw. Contents differ in every 8 bytes
// (PageImage), so a mixture is in no set.
//
// Volatile memory keeps its set until it is purged, which only pages do that are marked and not
// held. A purged page gives SIGBUS at each touch, and zeros after its mark was withdrawn or the
// user gave its contents up; a withdrawal tells of a loss if, and only if, it met one. (Where the
// region asked for zeros instead, being told too much is allowed, and zeros while the mark lasts.)
//
// Between any two steps of an operation a hook does what another thread might: stores and loads
// that need no fault, and, where no leaf is locked (while a page is being compressed), full ones.
// Any step that can fail is made to, now and then; then the account admits both outcomes, but
// never a third.
//
//   vm_model_testing.cc              the account, outcomes, the other thread, which operation comes
//   vm_model_operations_testing.cc   the operations
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "vm/vm_testing.h"

namespace buoy {

struct VmModelOptions {
  SoftVmOptions vm;
  std::uint64_t seed = 1;
  std::uint64_t mapped_pages = 3000;  // about as much as is mapped at a time
  std::uint64_t failures_in_1000 = 30;
  bool others_run = true;  // the hook's stores and loads
};

class VmModel {
 public:
  explicit VmModel(const VmModelOptions& options);

  // Runs so many operations, or until the first that did what it must not.
  void run(std::uint64_t operations);
  // Empty if everything went as it must; else what did not, and the operations before it.
  [[nodiscard]] const std::string& failure() const { return failure_; }
  [[nodiscard]] SoftVm& soft() { return soft_; }
  // What was met, so that a test can tell that it tested something.
  [[nodiscard]] std::uint64_t bus_errors() const { return bus_errors_; }
  [[nodiscard]] std::uint64_t raced_stores() const { return raced_stores_; }
  [[nodiscard]] std::uint64_t losses_told() const { return losses_told_; }
  [[nodiscard]] std::uint64_t purged_touches() const { return purged_touches_; }

 private:
  enum class Op : std::uint8_t {
    kLoad,
    kStore,
    kTouchHole,
    kMap,
    kUnmap,
    kMapOver,
    kRemap,
    kProtect,
    kDiscard,
    kFree,
    kReuse,
    kPopulate,
    kCold,
    kPageOut,
    kWillNeed,
    kAge,
    kReclaim,
    kMark,
    kUnmark,
    kPin,
    kUnpin,
    kDeviceStore,
    kLock,
    kUnlock,
    kResize,
    kFork,
    kFreeUntilReuse,
  };
  struct Page {
    std::vector<PageImage> allowed{PageImage()};
    mmu::Access access = mmu::Access::kReadWrite;
    bool is_droppable = false;
    bool is_lazy = false;  // may be: lazily freed, and not stored to since
    bool is_volatile = false;
    bool reads_zeros = false;  // its region: when purged
    bool is_idle = false;      // freed until reuse: its owner says so before a store
    bool is_locked = false;
    bool is_steady = false;  // pinned, at its address, and known: must not change by itself
    bool may_be_written_by_device = false;
    unsigned pins = 0;
  };
  struct Mapping {
    PageRun run;
    RegionFlags flags;
  };
  struct Entry {
    Op op;
    PageRun run;
    std::uint64_t argument;
    std::uint64_t number;
  };

  // ---- Choices
  std::uint64_t below(std::uint64_t n) { return n == 0 ? 0 : random_() % n; }
  bool chance(std::uint64_t in_1000) { return below(1000) < in_1000; }
  [[nodiscard]] PageRun any_run();
  [[nodiscard]] Vpn any_page();
  [[nodiscard]] std::uint32_t any_seed();
  [[nodiscard]] Page* find(Vpn page);

  // ---- The account
  void allow_zeros(Page& page);
  void note_store(Page& page, unsigned part, std::uint32_t seed);
  void note_store(Page& page, const PageImage& image);
  void note_load(Vpn at, Page& page, const PageImage::Bytes& bytes);
  void note_zeros(Page& page);
  void note_locked(Page& page, bool is_locked);
  [[nodiscard]] PageRun unlocked_part(PageRun run);
  void forget_mapping(PageRun run);
  template <typename Body>
  std::uint64_t for_each_page(PageRun run, Body body) {  // returns the holes
    std::uint64_t holes = 0;
    for (Vpn at = run.first; at < run.end(); ++at) {
      if (Page* page = find(at); page != nullptr)
        body(at, *page);
      else
        ++holes;
    }
    return holes;
  }

  // ---- Operations
  void step();
  void do_load(Vpn at);
  void do_store(Vpn at);
  void do_sweep();
  void do_touch_hole();
  void do_map();
  void do_unmap();
  void do_map_over();
  void do_remap();
  void do_protect();
  void do_discard();
  void do_free();
  void do_free_until_reuse();
  void end_promise(Vpn at);
  void do_reuse();
  void do_populate();
  void do_harmless_advice(Op op);
  void do_mark();
  void do_unmark();
  void do_pin();
  void do_unpin();
  void do_device_store();
  void do_lock();
  void do_unlock();
  void do_resize();
  void do_fork();
  void other_thread(const mmu::SoftMmu::Step& step);
  void check_everything();

  // ---- Outcomes
  void begin(Op op, PageRun run, std::uint64_t argument = 0);
  [[nodiscard]] std::string told(const Entry& entry) const;
  // Whether a step of this operation was made to fail.
  [[nodiscard]] bool step_failed() const;
  // Whether nothing could be had: the budget is full, or a step failed.
  [[nodiscard]] bool is_excused() const;
  void expect(bool condition, const char* what);
  void expect_status(Status status, int wanted, const char* what);
  void fail(const std::string& what);
  void check_touch(SoftVm::Touch touch, bool permitted, bool may_be_purged);

  // Whether the page was purged, and says so to who touches it.
  [[nodiscard]] bool is_purged(Vpn at, const Page& page) const;
  // May its contents turn to zeros at any time, without a word?
  [[nodiscard]] static bool may_vanish(const Page& page);

  VmModelOptions options_;
  std::mt19937_64 random_;
  SoftVm soft_;
  std::unordered_map<std::uint64_t, Page> pages_;
  std::vector<Mapping> mappings_;
  std::uint64_t held_ = 0;  // pinned and locked pages, about
  PageCount highest_limit_;
  std::uint32_t last_number_ = 0;
  bool is_injected_ = false;
  bool in_hook_ = false;
  bool others_may_fault_ = true;
  bool is_alone_ = false;  // no other thread runs (a fork is under way)
  bool traces_ = false;
  std::uint64_t done_ = 0;
  std::uint64_t bus_errors_ = 0;
  std::uint64_t raced_stores_ = 0;
  std::uint64_t losses_told_ = 0;
  std::uint64_t purged_touches_ = 0;
  std::deque<Entry> log_;
  std::string failure_;
};

}  // namespace buoy
