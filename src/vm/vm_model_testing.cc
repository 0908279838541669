#include "vm/vm_model_testing.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace buoy {

using mmu::SoftMmu;
using Touch = SoftVm::Touch;

namespace {
constexpr const char* kOpNames[] = {
    "load",     "store",   "touch-hole", "map",    "unmap",    "map-over", "remap",
    "protect",  "discard", "free",       "reuse",  "populate", "cold",     "pageout",
    "willneed", "age",     "reclaim",    "mark",   "unmark",   "pin",      "unpin",
    "device",   "lock",    "unlock",     "resize", "fork",     "idle"};
constexpr std::size_t kLogLength = 60;
constexpr std::uint64_t kCheckEvery = 64;
}  // namespace

VmModel::VmModel(const VmModelOptions& options)
    : options_(options),
      random_(options.seed),
      soft_(options.vm),
      highest_limit_(options.vm.budget),
      traces_(std::getenv("BUOY_MODEL_TRACE") != nullptr) {
  soft_.set_hook([this](const SoftMmu::Step& step) { other_thread(step); });
}

// ---- Choices ----------------------------------------------------------------------------------

PageRun VmModel::any_run() {
  const PageRun in = mappings_[below(mappings_.size())].run;
  const std::uint64_t most = chance(100) ? 600 : chance(300) ? 64 : 8;
  const std::uint64_t first = below(in.count.value());
  const std::uint64_t left = in.count.value() - first;
  // Now and then beyond the end, into whatever is there.
  const std::uint64_t most_here = chance(50) ? most : std::min(most, left);
  return {in.first + PageCount(first), PageCount(1 + below(most_here))};
}

Vpn VmModel::any_page() {
  const PageRun in = mappings_[below(mappings_.size())].run;
  return in.first + PageCount(below(in.count.value()));
}

std::uint32_t VmModel::any_seed() {
  using enum PageImage::Texture;
  const PageImage::Texture texture = chance(150)   ? kUniform
                                     : chance(150) ? kIncompressible
                                                   : kCompressible;
  return PageImage::seed_of(++last_number_, texture);
}

VmModel::Page* VmModel::find(Vpn page) {
  const auto it = pages_.find(page.value());
  return it == pages_.end() ? nullptr : &it->second;
}

// ---- The account ------------------------------------------------------------------------------

void VmModel::allow_zeros(Page& page) {
  if (std::ranges::find(page.allowed, PageImage()) == page.allowed.end())
    page.allowed.emplace_back();
}

void VmModel::note_zeros(Page& page) {
  page.allowed.assign(1, PageImage());
  page.is_lazy = false;
}

void VmModel::note_locked(Page& page, bool is_locked) {
  if (is_locked && !page.is_locked) ++held_;
  if (page.is_locked && !is_locked) held_ -= std::min<std::uint64_t>(held_, 1);
  page.is_locked = is_locked;
}

void VmModel::note_store(Page& page, unsigned part, std::uint32_t seed) {
  for (PageImage& image : page.allowed) image.set_part(part, seed);
  page.is_lazy = false;
  if (may_vanish(page) && !page.is_steady) allow_zeros(page);
}

void VmModel::note_store(Page& page, const PageImage& image) {
  page.allowed.assign(1, image);
  page.is_lazy = false;
  if (may_vanish(page) && !page.is_steady) allow_zeros(page);
}

void VmModel::note_load(Vpn at, Page& page, const PageImage::Bytes& bytes) {
  const auto seen = std::ranges::find_if(
      page.allowed, [&bytes](const PageImage& image) { return image.matches(bytes); });
  if (seen == page.allowed.end()) {
    std::string what = "page " + std::to_string(at.value()) + " (" +
                       soft_.drawn({at, PageCount(1)}) + ") holds none of:";
    for (const PageImage& image : page.allowed) what += "\n    " + image.name();
    fail(what);
    return;
  }
  page.allowed.assign(1, PageImage(*seen));
  if ((page.is_lazy || may_vanish(page)) && !page.is_steady) allow_zeros(page);
}

bool VmModel::is_purged(Vpn at, const Page& page) const {
  return soft_.pte(at).state() == PteState::kPurged && !page.reads_zeros;
}

bool VmModel::may_vanish(const Page& page) {
  return page.is_droppable || (page.is_volatile && page.reads_zeros);
}

// What comes before the first locked page.
PageRun VmModel::unlocked_part(PageRun run) {
  for (Vpn at = run.first; at < run.end(); ++at)
    if (const Page* page = find(at); page != nullptr && page->is_locked)
      return {run.first, at - run.first};
  return run;
}

void VmModel::forget_mapping(PageRun run) {
  for_each_page(run, [this](Vpn, Page& page) {
    held_ -= std::min<std::uint64_t>(held_, page.pins + (page.is_locked ? 1 : 0));
  });
  for (Vpn at = run.first; at < run.end(); ++at) pages_.erase(at.value());
  std::vector<Mapping> left;
  for (const Mapping& m : mappings_) {
    const Vpn first = std::max(m.run.first, run.first);
    const Vpn end = std::min(m.run.end(), run.end());
    if (first >= end) {
      left.push_back(m);
      continue;
    }
    if (m.run.first < first) left.push_back({{m.run.first, first - m.run.first}, m.flags});
    if (end < m.run.end()) left.push_back({{end, m.run.end() - end}, m.flags});
  }
  mappings_ = std::move(left);
}

// ---- Outcomes ---------------------------------------------------------------------------------

void VmModel::begin(Op op, PageRun run, std::uint64_t argument) {
  log_.push_back({op, run, argument, done_});
  if (log_.size() > kLogLength) log_.pop_front();
  if (traces_) std::fprintf(stderr, "%s\n", told(log_.back()).c_str());
}

std::string VmModel::told(const Entry& entry) const {
  return "  " + std::to_string(entry.number) + " " + kOpNames[static_cast<std::size_t>(entry.op)] +
         " " + std::to_string(entry.run.first.value()) + "+" +
         std::to_string(entry.run.count.value()) + " " + std::to_string(entry.argument);
}

bool VmModel::step_failed() const {
  return is_injected_ && !const_cast<VmModel*>(this)->soft_.mmu().has_uninjected_failures();
}

bool VmModel::is_excused() const {
  const Budget& budget = const_cast<VmModel*>(this)->soft_.context().budget;
  return step_failed() ||
         budget.used() + PageCount(kPagesPerBlock + 64) + budget.reserve() > budget.limit();
}

void VmModel::fail(const std::string& what) {
  if (!failure_.empty()) return;
  failure_ = "operation " + std::to_string(done_) + ": " + what + "\nafter\n";
  for (const Entry& entry : log_) failure_ += told(entry) + "\n";
}

void VmModel::expect(bool condition, const char* what) {
  if (!condition) fail(what);
}

void VmModel::expect_status(Status status, int wanted, const char* what) {
  if (status.code() == wanted || step_failed()) return;
  fail(std::string(what) + " gave errno " + std::to_string(status.code()) + ", not " +
       std::to_string(wanted));
}

void VmModel::check_touch(Touch touch, bool permitted, bool may_be_purged) {
  switch (touch) {
    case Touch::kDone:
      expect(permitted, "an access that is not permitted went through");
      break;
    case Touch::kSegv:
      expect(!permitted, "a permitted access was refused");
      break;
    case Touch::kBusError:
      if (may_be_purged) {
        ++purged_touches_;
        break;
      }
      ++bus_errors_;
      expect(is_excused(), "SIGBUS with room to spare");
      break;
    case Touch::kStuck:
      fail("an access faults for ever");
      break;
  }
}

// ---- The whole --------------------------------------------------------------------------------

void VmModel::other_thread(const SoftMmu::Step& step) {
  if (in_hook_ || !failure_.empty()) return;
  in_hook_ = true;
  const Budget& budget = soft_.context().budget;
  if (chance(30))
    expect(soft_.mmu().populated_pages() + soft_.arena().taken() <= budget.used() &&
               budget.used() <= highest_limit_,
           "resident beyond what is charged");
  if (options_.others_run && !is_alone_ && !pages_.empty() && chance(60)) {
    Vpn at = step.vpn + PageCount(below(4));
    if (find(at) == nullptr || chance(200)) at = any_page();
    Page& page = *find(at);
    const auto part = static_cast<unsigned>(below(PageImage::kParts));
    const std::uint32_t seed = any_seed();
    PageImage::Bytes bytes;
    bool may_fault = false;
    if (step.primitive == SoftMmu::Primitive::kReadShadow && others_may_fault_) {
      Leaf* leaf = soft_.context().table.find_leaf(step.vpn);
      may_fault = leaf != nullptr && leaf->lock.try_lock();
      if (may_fault) leaf->lock.unlock();
    }
    if (may_fault) {
      if (chance(500))
        do_load(at);
      else
        do_store(at);
    } else if (chance(300)) {
      if (soft_.mmu().try_load(at.address(), bytes.data(), bytes.size()))
        note_load(at, page, bytes);
    } else if (!page.is_idle && soft_.try_store_part(at, part, seed)) {
      ++raced_stores_;
      note_store(page, part, seed);
    }
  }
  in_hook_ = false;
}

void VmModel::check_everything() {
  soft_.validate();
  const SoftVm& soft = soft_;
  std::uint64_t marked = 0;
  for (const auto& [number, page] : pages_) {
    const Vpn at(number);
    const Pte pte = soft.pte(at);
    if (page.is_steady && !soft_.mmu().is_mapped(at)) fail("a pinned page went away");
    if (pte.state() == PteState::kHole) fail("a mapped page is a hole");
    if (pte.pins() != page.pins) fail("pins are lost");
    if (pte.state() == PteState::kPurged && !page.is_volatile) fail("an unmarked page was purged");
    if (page.is_volatile) ++marked;
  }
  expect(soft_.vm().volatile_pages().value() == marked, "the length of all marks is wrong");
}

// ---- Steps ------------------------------------------------------------------------------------

void VmModel::step() {
  using enum Op;
  static constexpr struct {
    unsigned weight;
    Op op;
  } kMix[] = {{300, kLoad},  {300, kStore},        {5, kTouchHole}, {12, kMap},     {10, kUnmap},
              {5, kMapOver}, {8, kRemap},          {12, kProtect},  {20, kDiscard}, {60, kFree},
              {15, kReuse},  {10, kPopulate},      {10, kCold},     {30, kPageOut}, {15, kWillNeed},
              {30, kAge},    {20, kReclaim},       {30, kMark},     {25, kUnmark},  {25, kPin},
              {30, kUnpin},  {20, kDeviceStore},   {6, kLock},      {6, kUnlock},   {4, kResize},
              {2, kFork},    {40, kFreeUntilReuse}};
  if (mappings_.empty() || pages_.size() < options_.mapped_pages / 2) {
    do_map();
    return;
  }
  unsigned all = 0;
  for (const auto& choice : kMix) all += choice.weight;
  auto left = static_cast<unsigned>(below(all));
  Op op = kLoad;
  for (const auto& choice : kMix) {
    op = choice.op;
    if (left < choice.weight) break;
    left -= choice.weight;
  }
  is_injected_ = false;
  // What unmapping does cannot fail: the kernel's own never refuses what we map.
  if (op != kUnmap && op != kMapOver && op != kRemap && chance(options_.failures_in_1000)) {
    using enum SoftMmu::Primitive;
    static constexpr SoftMmu::Primitive kCanFail[] = {kInstall,  kInstallZeros, kTake,
                                                      kGiveBack, kProtect,      kUnprotect,
                                                      kDiscard,  kReserve,      kPermit};
    SoftMmu::Failure failure;
    failure.primitive = kCanFail[below(std::size(kCanFail))];
    failure.skip_calls = below(3);
    failure.at_page = PageCount(below(5));
    failure.outcome = failure.primitive == kTake && chance(400) ? mmu::Outcome::kBusy
                      : failure.primitive == kDiscard           ? mmu::Outcome::kLocked
                      : chance(700)                             ? mmu::Outcome::kNoMemory
                                                                : mmu::Outcome::kFailed;
    soft_.mmu().inject(failure);
    is_injected_ = true;
  }
  switch (op) {
    case kLoad:
      if (chance(20))
        do_sweep();
      else
        do_load(any_page());
      break;
    case kStore:
      do_store(any_page());
      break;
    case kTouchHole:
      do_touch_hole();
      break;
    case kMap:
      if (pages_.size() < options_.mapped_pages) do_map();
      break;
    case kUnmap:
      if (pages_.size() > options_.mapped_pages / 2) do_unmap();
      break;
    case kMapOver:
      do_map_over();
      break;
    case kRemap:
      do_remap();
      break;
    case kProtect:
      do_protect();
      break;
    case kDiscard:
      do_discard();
      break;
    case kFree:
      do_free();
      break;
    case kReuse:
      do_reuse();
      break;
    case kPopulate:
      do_populate();
      break;
    case kCold:
    case kPageOut:
    case kWillNeed:
    case kAge:
    case kReclaim:
      do_harmless_advice(op);
      break;
    case kMark:
      do_mark();
      break;
    case kUnmark:
      do_unmark();
      break;
    case kPin:
      do_pin();
      break;
    case kUnpin:
      do_unpin();
      break;
    case kDeviceStore:
      do_device_store();
      break;
    case kLock:
      do_lock();
      break;
    case kUnlock:
      do_unlock();
      break;
    case kResize:
      do_resize();
      break;
    case kFork:
      do_fork();
      break;
    case kFreeUntilReuse:
      do_free_until_reuse();
      break;
  }
  soft_.mmu().clear_failures();
  is_injected_ = false;
}

void VmModel::run(std::uint64_t operations) {
  for (std::uint64_t i = 0; i < operations && failure_.empty(); ++i) {
    ++done_;
    step();
    if (done_ % kCheckEvery == 0 && failure_.empty()) check_everything();
  }
  if (failure_.empty()) check_everything();
}

}  // namespace buoy
