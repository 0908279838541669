// ctest: labels=soft timeout=300
//
// Volatile memory on a whole Vm: a purge is stopped at its every step, one after the other, and
// another thread does just then what a program may do. Afterwards each page is compared with what
// both were told.
//
//   guard | E1: priority 0, over a leaf's end | E2: priority 1 | guard
//   mmmm  | mmzz | smmm                       | mmmm           | mmmm
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <vector>

#include "vm/vm_testing.h"

namespace buoy {
namespace {

using Touch = SoftVm::Touch;
using Clock = std::chrono::steady_clock;

// Runs a body and, at a step of it, another one in a thread of its own until that ends or waits.
class AtAStep {
 public:
  explicit AtAStep(SoftVm& soft) : soft_(soft) {
    soft_.set_hook([this](const mmu::SoftMmu::Step&) { step(); });
    soft_.vm().set_marks_step_hook(&AtAStep::marks_step, this);
  }
  ~AtAStep() {
    soft_.set_hook(nullptr);
    soft_.vm().set_marks_step_hook(nullptr, nullptr);
  }
  AtAStep(const AtAStep&) = delete;
  AtAStep& operator=(const AtAStep&) = delete;

  // False: the body has not that many steps; then the other has run behind it.
  bool run(unsigned number, const std::function<void()>& body, std::function<void()> other) {
    left_ = number + 1;
    other_ = std::move(other);
    is_waiting_ = is_done_ = false;
    body_thread_ = std::this_thread::get_id();
    body();
    body_thread_ = std::thread::id();
    const bool was_reached = left_ == 0;
    if (!was_reached) other_();
    if (thread_.joinable()) thread_.join();
    return was_reached;
  }

 private:
  static void marks_step(void* self, VolatileMap::Step step) {
    auto* const at = static_cast<AtAStep*>(self);
    if (std::this_thread::get_id() == at->body_thread_) {
      at->step();
    } else if (step == VolatileMap::Step::kWaiting) {
      at->is_waiting_ = true;
      std::this_thread::yield();
    }
  }
  void step() {
    if (std::this_thread::get_id() != body_thread_ || left_ == 0 || --left_ != 0) return;
    thread_ = std::thread([this] {
      other_();
      is_done_ = true;
    });
    // Who waits for a leaf's lock says so to nobody.
    constexpr auto kLongest = std::chrono::milliseconds(1);
    const auto begun = Clock::now();
    while (!is_done_ && !is_waiting_ && Clock::now() - begun < kLongest) std::this_thread::yield();
  }

  SoftVm& soft_;
  std::atomic<std::thread::id> body_thread_;
  std::atomic<unsigned> left_{0};
  std::function<void()> other_;
  std::thread thread_;
  std::atomic<bool> is_waiting_{false};
  std::atomic<bool> is_done_{false};
};

// What a page must hold, if it is not lost.
struct Expected {
  PageImage image;
  bool is_kept = false;  // its mark was withdrawn by the other thread
};

class Scene {
 public:
  static constexpr std::uint64_t kPages = 20;

  Scene(SoftVm& vm, RegionFlags flags) : soft(vm), flags_(flags) {
    mapped_ = soft.map(2 * kPagesPerBlock, flags);
    const Vpn boundary = mapped_.first.block_start() + PageCount(kPagesPerBlock);
    all = {boundary - PageCount(8), PageCount(kPages)};
    e1 = sub(all, 4, 8);
    e2 = sub(all, 12, 4);
    expected.resize(kPages);
    for (std::uint64_t i = 0; i < kPages; ++i) {
      const Vpn page = all.first + PageCount(i);
      soft.fill({page, PageCount(1)});
      expected[i].image = SoftVm::image_of(page);
    }
    EXPECT_TRUE(soft.vm().page_out(sub(all, 6, 2)).ok());
    soft.age_to_standby(sub(all, 8, 1));
    EXPECT_EQ(soft.drawn(all), "mmmmmmzzsmmmmmmmmmmm");
    EXPECT_EQ(soft.vm().mark_volatile(e1, 0).done, e1.count);
    EXPECT_EQ(soft.vm().mark_volatile(e2, 1).done, e2.count);
  }
  ~Scene() {
    EXPECT_TRUE(soft.vm().unmap(mapped_).ok());
    EXPECT_TRUE(soft.vm().volatile_pages().is_zero());
    soft.validate();
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  Expected& at(Vpn page) { return expected[(page - all.first).value()]; }
  [[nodiscard]] bool reads_zeros() const { return has(flags_, RegionFlags::kPurgedReadsZero); }

  // ---- What the other thread does
  void withdraw(PageRun run) {
    const Vm::Unmarked unmarked = soft.vm().mark_nonvolatile(run);
    EXPECT_EQ(unmarked.done, run.count);
    EXPECT_EQ(unmarked.error, 0);
    check_told(run, unmarked.lost);
    // From here on nobody takes it.
    for (Vpn page = run.first; page < run.end(); ++page) at(page).is_kept = true;
  }
  void mark(PageRun run, unsigned priority) {
    const Vm::Marked marked = soft.vm().mark_volatile(run, priority);
    EXPECT_EQ(marked.done, run.count);
    EXPECT_EQ(marked.error, 0);
    for (Vpn page = run.first; page < run.end(); ++page) at(page).is_kept = false;
  }
  void load(Vpn page) {
    PageImage::Bytes bytes;
    const Touch touch = soft.load(page, &bytes);
    if (touch == Touch::kBusError && !reads_zeros()) return;
    EXPECT_EQ(touch, Touch::kDone);
    EXPECT_TRUE(at(page).image.matches(bytes) || (reads_zeros() && PageImage().matches(bytes)));
  }
  void store(Vpn page) {
    const PageImage image = PageImage::filled(PageImage::seed_of(77, PageImage::Texture::kUniform));
    const Touch touch = soft.store(page, image);
    if (touch == Touch::kDone) at(page).image = image;
    EXPECT_TRUE(touch == Touch::kDone || (touch == Touch::kBusError && !reads_zeros()));
  }
  // What is pinned keeps what it had then, however hard reclaim tries.
  void pin(Vpn page) {
    const PageRun one{page, PageCount(1)};
    const Status s = soft.vm().pin(one, PinFor::kReading);
    if (!s) {
      EXPECT_EQ(s.code(), EIO);
      return;
    }
    PageImage::Bytes before;
    EXPECT_EQ(soft.load(page, &before), Touch::kDone);
    EXPECT_TRUE(at(page).image.matches(before) || (reads_zeros() && PageImage().matches(before)));
    (void)soft.reclaim(10'000);
    PageImage::Bytes after;
    EXPECT_TRUE(soft.mmu().try_load(page.address(), after.data(), after.size()));
    EXPECT_EQ(before, after);
    EXPECT_TRUE(soft.vm().unpin(one, Dirtied::kNo).ok());
  }
  void discard(PageRun run) {
    for (Vpn page = run.first; page < run.end(); ++page) at(page) = {PageImage(), at(page).is_kept};
    EXPECT_TRUE(soft.vm().discard(run).ok());
  }
  void map_over(PageRun run) {
    EXPECT_TRUE(soft.vm().map_over(run, mmu::Access::kReadWrite).ok());
    for (Vpn page = run.first; page < run.end(); ++page) {
      at(page) = {PageImage(), true};
      EXPECT_TRUE(soft.reads_zeros(page));
      store(page);
    }
  }

  // ---- Afterwards
  void check() {
    for (Vpn page = all.first; page < all.end(); ++page)
      if (at(page).is_kept || !is_marked(page)) {
        EXPECT_TRUE(soft.holds(page, at(page).image)) << name(page);
      }
    for (const PageRun run : {e1, e2}) {
      bool saw_bus_error = false;
      for (Vpn page = run.first; page < run.end(); ++page) {
        if (at(page).is_kept) continue;
        PageImage::Bytes bytes;
        const Touch touch = soft.load(page, &bytes);
        saw_bus_error = saw_bus_error || touch == Touch::kBusError;
        if (touch == Touch::kDone && !reads_zeros()) {
          EXPECT_TRUE(at(page).image.matches(bytes)) << name(page);
        }
      }
      const Vm::Unmarked unmarked = soft.vm().mark_nonvolatile(run);
      EXPECT_EQ(unmarked.done, run.count);
      if (!reads_zeros()) {
        EXPECT_EQ(unmarked.lost, saw_bus_error);
      }
      check_told(run, unmarked.lost);
    }
    ++(lost_any ? runs_with_loss : runs_without);
  }

  SoftVm& soft;
  PageRun all;
  PageRun e1;
  PageRun e2;
  std::vector<Expected> expected;
  bool lost_any = false;
  static unsigned runs_with_loss;
  static unsigned runs_without;

 private:
  [[nodiscard]] bool is_marked(Vpn page) const { return e1.contains(page) || e2.contains(page); }
  [[nodiscard]] std::string name(Vpn page) const {
    return "page " + std::to_string((page - all.first).value()) + " of " + soft.drawn(all);
  }
  // The pages of the run, whose marks are withdrawn, hold what they held, or zeros; these only if
  // the caller was told, and then there are some.
  void check_told(PageRun run, bool lost) {
    bool is_any_lost = false;
    for (Vpn page = run.first; page < run.end(); ++page) {
      PageImage::Bytes bytes;
      ASSERT_EQ(soft.load(page, &bytes), Touch::kDone) << name(page);
      if (at(page).image.matches(bytes)) continue;
      EXPECT_TRUE(PageImage().matches(bytes)) << name(page);
      is_any_lost = true;
      at(page).image = PageImage();
    }
    lost_any = lost_any || is_any_lost;
    // Where purged pages read zeros, a touch hides which were; being told too much is no harm.
    EXPECT_TRUE(lost == is_any_lost || (lost && reads_zeros()));
  }

  RegionFlags flags_;
  PageRun mapped_;
};
unsigned Scene::runs_with_loss;
unsigned Scene::runs_without;

struct Deed {
  const char* name;
  void (*act)(Scene&);
};

const Deed kDeeds[] = {
    {"WithdrawAll", [](Scene& s) { s.withdraw(s.e1); }},
    {"WithdrawBegin", [](Scene& s) { s.withdraw(sub(s.e1, 0, 3)); }},
    {"WithdrawMiddle", [](Scene& s) { s.withdraw(sub(s.e1, 3, 3)); }},
    {"WithdrawMore", [](Scene& s) { s.withdraw(s.all); }},
    {"WithdrawTwice",
     [](Scene& s) {
       s.withdraw(s.e1);
       s.mark(s.e1, 3);
       s.withdraw(s.e1);
     }},
    {"MarkAgain", [](Scene& s) { s.mark(s.e1, 2); }},
    {"MarkPart", [](Scene& s) { s.mark(sub(s.e1, 2, 4), 2); }},
    {"MarkMore",
     [](Scene& s) {
       s.mark(sub(s.all, 2, 16), 0);
       s.withdraw(s.all);
     }},
    {"CutAndWithdraw",
     [](Scene& s) {
       s.mark(sub(s.e1, 2, 4), 0);
       s.withdraw(sub(s.e1, 1, 2));
       s.withdraw(s.e1);
     }},
    {"Load",
     [](Scene& s) {
       for (Vpn page = s.e1.first; page < s.e1.end(); ++page) s.load(page);
     }},
    {"Store",
     [](Scene& s) {
       for (Vpn page = s.e1.first; page < s.e1.end(); ++page) s.store(page);
     }},
    {"StoreAndWithdraw",
     [](Scene& s) {
       s.store(s.e1.first);
       s.store(s.e1.end() - PageCount(1));
       s.withdraw(s.e1);
     }},
    {"PinMapped", [](Scene& s) { s.pin(s.e1.first); }},
    {"PinCompressed", [](Scene& s) { s.pin(s.e1.first + PageCount(2)); }},
    {"PinBehind", [](Scene& s) { s.pin(s.e1.end() - PageCount(1)); }},
    {"Discard", [](Scene& s) { s.discard(sub(s.e1, 0, 3)); }},
    {"MapOver", [](Scene& s) { s.map_over(sub(s.e1, 2, 4)); }},
    {"PurgeToo", [](Scene& s) { (void)s.soft.reclaim(4); }},
};

struct Way {
  Deed deed;
  RegionFlags flags;
};

class SoftVolatileAtEveryStep : public testing::TestWithParam<Way> {};

TEST_P(SoftVolatileAtEveryStep, NothingIsLostUntold) {
  SoftVm soft;
  AtAStep at_a_step(soft);
  Scene::runs_with_loss = Scene::runs_without = 0;
  unsigned steps = 0;
  for (bool was_reached = true; was_reached && !HasFailure(); ++steps) {
    ASSERT_LT(steps, 1000U);
    SCOPED_TRACE("step " + std::to_string(steps));
    Scene scene(soft, GetParam().flags);
    was_reached = at_a_step.run(
        steps, [&] { (void)soft.reclaim(scene.e1.count.value() + scene.e2.count.value()); },
        [&] { GetParam().deed.act(scene); });
    scene.check();
  }
  // A purge of two extents over a leaf's end has at least: claim, look, discard, look, discard,
  // finish; and again.
  EXPECT_GT(steps, 12U);
  EXPECT_GT(Scene::runs_with_loss, 0U);
  std::cout << steps << " steps, " << Scene::runs_with_loss << " with a loss\n";
}

std::vector<Way> ways() {
  std::vector<Way> all;
  for (const RegionFlags flags : {RegionFlags::kNone, RegionFlags::kPurgedReadsZero})
    for (const Deed& deed : kDeeds) all.push_back({deed, flags});
  return all;
}
INSTANTIATE_TEST_SUITE_P(Soft, SoftVolatileAtEveryStep, testing::ValuesIn(ways()),
                         [](const auto& way) {
                           return std::string(way.param.deed.name) +
                                  (way.param.flags == RegionFlags::kNone ? "" : "ReadsZero");
                         });

}  // namespace
}  // namespace buoy
