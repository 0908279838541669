#include "vm/vm_model_testing.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <set>

namespace buoy {

using mmu::Access;
using mmu::SoftMmu;
using Touch = SoftVm::Touch;

enum class VmModel::Op : std::uint8_t {
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

namespace {
constexpr const char* kOpNames[] = {
    "load",    "store",   "touch-hole", "map",    "unmap", "map-over", "remap",
    "protect", "discard", "free",       "reuse",  "cold",  "pageout",  "willneed",
    "age",     "reclaim", "mark",       "unmark", "pin",   "unpin",    "device",
    "lock",    "unlock",  "resize",     "fork",   "idle"};
constexpr std::size_t kLogLength = 60;
constexpr std::size_t kMostAllowed = 6;
constexpr std::uint64_t kMostHeld = 100;
constexpr std::uint64_t kCheckEvery = 64;

bool may_load(Access a) { return a != Access::kNone; }
bool may_store(Access a) { return a == Access::kReadWrite || a == Access::kReadWriteExec; }
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

template <typename Body>
std::uint64_t VmModel::for_each_page(PageRun run, Body body) {
  std::uint64_t holes = 0;
  for (Vpn at = run.first; at < run.end(); ++at) {
    if (Page* page = find(at); page != nullptr)
      body(at, *page);
    else
      ++holes;
  }
  return holes;
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

// ---- Loads and stores -------------------------------------------------------------------------

void VmModel::do_load(Vpn at) {
  begin(Op::kLoad, {at, PageCount(1)});
  Page* page = find(at);
  const bool permitted = may_load(page->access);
  const bool was_purged = is_purged(at, *page);
  PageImage::Bytes bytes;
  const Touch touch = soft_.load(at, &bytes);
  // What the touch itself reclaimed may have been this very page.
  page = find(at);
  check_touch(touch, permitted, is_purged(at, *page));
  if (touch == Touch::kDone) expect(!was_purged, "a purged page can be read");
  if (touch == Touch::kDone) note_load(at, *page, bytes);
}

void VmModel::do_store(Vpn at) {
  Page* page = find(at);
  const bool permitted = may_store(page->access);
  const std::uint32_t seed = any_seed();
  const bool whole = chance(400);
  const auto part = static_cast<unsigned>(below(PageImage::kParts));
  begin(Op::kStore, {at, PageCount(1)}, whole ? PageImage::kParts : part);
  if (page->allowed.size() > kMostAllowed && may_load(page->access)) do_load(at);
  end_promise(at);
  page = find(at);
  const PageImage image = PageImage::filled(seed);
  const bool was_purged = is_purged(at, *page);
  const Touch touch = whole ? soft_.store(at, image) : soft_.store_part(at, part, seed);
  check_touch(touch, permitted, is_purged(at, *page));
  if (touch != Touch::kDone) return;
  expect(!was_purged, "a purged page can be stored to");
  if (whole)
    note_store(*page, image);
  else
    note_store(*page, part, seed);
}

// A stream, up or down: what read-ahead and larger folios are for.
void VmModel::do_sweep() {
  const PageRun run = any_run();
  const bool up = chance(600);
  const bool stores = chance(500);
  for (PageCount i; i < run.count && failure_.empty(); i += PageCount(1)) {
    const Vpn at = up ? run.first + i : run.end() - PageCount(1) - i;
    if (find(at) == nullptr) continue;
    if (stores)
      do_store(at);
    else
      do_load(at);
  }
}

void VmModel::do_touch_hole() {
  const PageRun in = mappings_[below(mappings_.size())].run;
  const Vpn at = in.end() + PageCount(below(20));
  if (find(at) != nullptr) return;
  begin(Op::kTouchHole, {at, PageCount(1)});
  PageImage::Bytes bytes;
  const Touch touch = soft_.load(at, &bytes);
  // SIGBUS, where the address is reserved but its protection could not be taken away.
  expect(touch == Touch::kSegv || touch == Touch::kBusError, "a hole can be read");
}

// ---- Mappings ---------------------------------------------------------------------------------

void VmModel::do_map() {
  RegionFlags flags = RegionFlags::kNone;
  if (chance(200)) flags = flags | RegionFlags::kDroppable;
  if (chance(150)) flags = flags | RegionFlags::kHuge;
  if (chance(150)) flags = flags | RegionFlags::kPurgedReadsZero;
  if (chance(150)) flags = flags | RegionFlags::kVolatileMayCompress;
  const PageCount pages(chance(300) ? 1 + below(1200) : 1 + below(100));
  begin(Op::kMap, {Vpn(), pages}, static_cast<std::uint64_t>(flags));
  auto at = soft_.vm().map(pages, flags, Access::kReadWrite);
  if (!at) {
    expect_status(at.error(), 0, "map");
    return;
  }
  const PageRun run{*at, pages};
  const std::uint64_t holes = for_each_page(run, [](Vpn, Page&) {});
  expect(holes == pages.value(), "a new mapping lies over an old one");
  Page fresh;
  fresh.is_droppable = has(flags, RegionFlags::kDroppable);
  fresh.reads_zeros = has(flags, RegionFlags::kPurgedReadsZero);
  for (Vpn v = run.first; v < run.end(); ++v) pages_[v.value()] = fresh;
  mappings_.push_back({run, flags});
}

void VmModel::do_unmap() {
  PageRun run = any_run();
  if (chance(500)) run = mappings_[below(mappings_.size())].run;
  begin(Op::kUnmap, run);
  expect_status(soft_.vm().unmap(run), 0, "unmap");
  forget_mapping(run);
}

void VmModel::do_map_over() {
  PageRun run = any_run();
  if (for_each_page(run, [](Vpn, Page&) {}) != 0) run.count = PageCount(1);
  begin(Op::kMapOver, run);
  const Status s = soft_.vm().map_over(run, Access::kReadWrite);
  expect_status(s, 0, "map_over");
  for_each_page(run, [&](Vpn at, Page& page) {
    if (s.ok()) {
      note_zeros(page);
      page.access = Access::kReadWrite;
      page.is_volatile = false;
    } else {
      allow_zeros(page);
      if (soft_.pte(at).state() != PteState::kPurged) page.is_volatile = false;
    }
    page.is_steady = false;
  });
}

void VmModel::do_remap() {
  const Mapping m = mappings_[below(mappings_.size())];
  const PageCount pages(chance(300) ? 1 + below(m.run.count.value())
                                    : m.run.count.value() + 1 + below(100));
  begin(Op::kRemap, m.run, pages.value());
  bool uniform = true;
  bool movable = true;
  const Access access = find(m.run.first)->access;
  for_each_page(m.run, [&](Vpn, Page& page) {
    uniform = uniform && page.access == access;
    movable = movable && page.pins == 0 && !page.is_locked;
  });
  auto at = soft_.vm().remap(m.run, pages, true);
  if (!at) {
    // What is held stays; so does what cannot be read, or is shared and cannot be stored to.
    const bool wanted = (at.code() == EFAULT && !uniform) ||
                        (at.code() == EBUSY && (!movable || !may_store(access))) ||
                        (at.code() == ENOMEM && is_excused());
    if (!wanted) expect_status(at.error(), 0, "remap");
    return;
  }
  expect(uniform || pages <= m.run.count, "a mapping of several kinds moved as one");
  std::vector<Page> contents;
  for (Vpn v = m.run.first; v < m.run.end() && contents.size() < pages.value(); ++v)
    contents.push_back(*find(v));
  Page fresh;
  fresh.is_droppable = has(m.flags, RegionFlags::kDroppable);
  fresh.reads_zeros = has(m.flags, RegionFlags::kPurgedReadsZero);
  fresh.access = access;
  if (*at == m.run.first && pages <= m.run.count) {
    forget_mapping({m.run.first + pages, m.run.count - pages});
    return;
  }
  if (*at != m.run.first) expect(movable, "a held page moved");
  contents.resize(pages.value(), fresh);
  const std::uint64_t held = held_;
  forget_mapping(m.run);
  held_ = held;
  for (std::uint64_t i = 0; i < contents.size(); ++i)
    pages_[at->value() + i] = std::move(contents[i]);
  mappings_.push_back({{*at, pages}, m.flags});
}

void VmModel::do_protect() {
  const PageRun run = any_run();
  const Access access = chance(700)   ? Access::kReadWrite
                        : chance(500) ? Access::kRead
                                      : Access::kNone;
  begin(Op::kProtect, run, static_cast<std::uint64_t>(access));
  const Status s = soft_.vm().protect(run, access);
  PageCount mapped;
  while (mapped < run.count && find(run.first + mapped) != nullptr) mapped += PageCount(1);
  expect_status(s, mapped == run.count ? 0 : ENOMEM, "protect");
  if (!s && step_failed()) return;
  for_each_page({run.first, mapped}, [access](Vpn, Page& page) { page.access = access; });
}

// ---- Advice -----------------------------------------------------------------------------------

void VmModel::do_discard() {
  const PageRun run = any_run();
  begin(Op::kDiscard, run);
  const Status s = soft_.vm().discard(run);
  const PageRun done = unlocked_part(run);
  const std::uint64_t holes = for_each_page(done, [&](Vpn, Page& page) {
    if (step_failed())
      allow_zeros(page);
    else
      note_zeros(page);
    page.is_steady = false;
  });
  expect_status(s, done != run ? EINVAL : holes != 0 ? ENOMEM : 0, "discard");
}

void VmModel::do_free() {
  const PageRun run = any_run();
  const PageRun done = unlocked_part(run);
  begin(Op::kFree, run);
  for_each_page(done, [&](Vpn at, Page& page) {
    if (is_purged(at, page)) note_zeros(page);  // what was lost, and is no loss from now on
  });
  const Status s = soft_.vm().free_lazily(run);
  const std::uint64_t holes = for_each_page(done, [&](Vpn, Page& page) {
    page.is_lazy = true;
    if (!step_failed()) page.is_idle = false;
    if (!page.is_steady) allow_zeros(page);
  });
  expect_status(s, done != run ? EINVAL : holes != 0 ? ENOMEM : 0, "free");
}

void VmModel::do_free_until_reuse() {
  const PageRun run = any_run();
  const PageRun done = unlocked_part(run);
  begin(Op::kFreeUntilReuse, run);
  for_each_page(done, [](Vpn, Page& page) { page.is_idle = true; });
  const Status s = soft_.vm().free_lazily(run, Vm::Until::kReuse);
  const std::uint64_t holes = for_each_page(done, [&](Vpn, Page& page) {
    page.is_lazy = true;
    if (!page.is_steady) allow_zeros(page);
  });
  expect_status(s, done != run ? EINVAL : holes != 0 ? ENOMEM : 0, "free until reuse");
}

// Its owner keeps the promise: no store before this.
void VmModel::end_promise(Vpn at) {
  Page& page = *find(at);
  if (!page.is_idle) return;
  (void)soft_.vm().reuse({at, PageCount(1)});
  page.is_idle = false;
}

void VmModel::do_reuse() {
  const PageRun run = any_run();
  begin(Op::kReuse, run);
  const Status s = soft_.vm().reuse(run);
  const std::uint64_t holes = for_each_page(run, [&](Vpn, Page& page) {
    if (!step_failed()) page.is_lazy = false;
    page.is_idle = false;
  });
  expect_status(s, holes != 0 ? ENOMEM : 0, "reuse");
}

void VmModel::do_populate() {
  PageRun run = any_run();
  run.count = std::min(run.count, PageCount(32));  // the smallest budgets are soon exhausted
  const bool for_writing = chance(700);
  begin(Op::kPopulate, run, for_writing ? 1 : 0);
  const Status s = soft_.vm().populate(run, for_writing ? PinFor::kWriting : PinFor::kReading);
  bool is_any_purged = false;
  const std::uint64_t holes = for_each_page(run, [&](Vpn at, Page& page) {
    is_any_purged = is_any_purged || is_purged(at, page);
    if (!s || !for_writing) return;
    if (!step_failed()) page.is_lazy = false;
    page.is_idle = false;
  });
  if (holes != 0)
    expect_status(s, ENOMEM, "populate over a hole");
  else
    expect(s.ok() || (s.code() == EAGAIN && is_excused()) || (s.code() == EIO && is_any_purged),
           "populate refused");
}

void VmModel::do_harmless_advice(Op op) {
  const PageRun run = any_run();
  begin(op, run);
  if (op == Op::kAge) {
    soft_.age_to_standby(run);
    return;
  }
  if (op == Op::kReclaim) {
    (void)soft_.reclaim(run.count.value());
    return;
  }
  const Status s = op == Op::kCold      ? soft_.vm().cold(run)
                   : op == Op::kPageOut ? soft_.vm().page_out(run)
                                        : soft_.vm().will_need(run);
  const bool refused = op != Op::kWillNeed && unlocked_part(run) != run;
  const std::uint64_t holes = for_each_page(run, [](Vpn, Page&) {});
  expect_status(s, refused ? EINVAL : holes != 0 ? ENOMEM : 0, "advice");
}

// ---- Volatile memory --------------------------------------------------------------------------

void VmModel::do_mark() {
  const PageRun run = any_run();
  const auto priority = static_cast<unsigned>(below(4));
  begin(Op::kMark, run, priority);
  PageRun mapped{run.first, PageCount()};
  bool locked = false;
  for (Page* page; mapped.count < run.count && (page = find(mapped.end())) != nullptr;
       mapped.count += PageCount(1))
    locked = locked || page->is_locked;
  const Vm::Marked marked = soft_.vm().mark_volatile(run, priority);
  if (locked) {
    expect(marked.error == EINVAL && marked.done.is_zero(), "locked pages were marked");
    return;
  }
  expect(marked.done == mapped.count, "a mark ends elsewhere than at a hole");
  expect(marked.error == (mapped.count == run.count ? 0 : ENOMEM), "the wrong error for a mark");
  for_each_page(mapped, [this](Vpn, Page& page) {
    page.is_volatile = true;
    if (may_vanish(page) && !page.is_steady) allow_zeros(page);
  });
}

void VmModel::do_unmark() {
  const PageRun run = any_run();
  begin(Op::kUnmark, run);
  PageRun mapped{run.first, PageCount()};
  bool has_lost = false;
  bool may_tell_more = false;
  for (Page* page; mapped.count < run.count && (page = find(mapped.end())) != nullptr;
       mapped.count += PageCount(1)) {
    const Vpn at = mapped.end();
    if (soft_.pte(at).state() == PteState::kPurged) {
      has_lost = true;
      note_zeros(*page);
    }
    may_tell_more = may_tell_more || (page->is_volatile && page->reads_zeros);
    page->is_volatile = false;
  }
  const Vm::Unmarked unmarked = soft_.vm().mark_nonvolatile(run);
  expect(unmarked.done == mapped.count, "a withdrawal ends elsewhere than at a hole");
  expect(unmarked.error == (mapped.count == run.count ? 0 : ENOMEM),
         "the wrong error for a withdrawal");
  expect(unmarked.lost || !has_lost, "a loss was not told");
  expect(!unmarked.lost || has_lost || may_tell_more, "a loss was told that was none");
  if (has_lost) ++losses_told_;
}

// ---- Holding ----------------------------------------------------------------------------------

void VmModel::do_pin() {
  PageRun run = any_run();
  run.count = std::min(run.count, PageCount(8));
  if (held_ > kMostHeld) return;
  const bool for_writing = chance(500);
  begin(Op::kPin, run, for_writing ? 1 : 0);
  const Status s = soft_.vm().pin(run, for_writing ? PinFor::kWriting : PinFor::kReading);
  const std::uint64_t holes = for_each_page(run, [](Vpn, Page&) {});
  if (holes != 0) {
    expect_status(s, ENOMEM, "pin over a hole");
    return;
  }
  if (!s) {
    bool is_any_purged = false;
    for_each_page(
        run, [&](Vpn at, Page& page) { is_any_purged = is_any_purged || is_purged(at, page); });
    expect((s.code() == EAGAIN && is_excused()) || (s.code() == EIO && is_any_purged),
           "pin refused");
    return;
  }
  for_each_page(run, [&](Vpn at, Page& page) {
    ++page.pins;
    ++held_;
    if (for_writing) page.is_lazy = false;
    expect(soft_.mmu().is_mapped(at), "a pinned page is not there");
    if (for_writing) page.may_be_written_by_device = true;
    PageImage::Bytes bytes;
    if (!may_load(page.access)) return;
    expect(soft_.mmu().try_load(at.address(), bytes.data(), bytes.size()),
           "a pinned page cannot be read without a fault");
    page.is_steady = true;
    note_load(at, page, bytes);
  });
}

void VmModel::do_unpin() {
  PageRun run = any_run();
  const bool dirtied = chance(500);
  run.count = std::min(run.count, PageCount(8));
  begin(Op::kUnpin, run, dirtied ? 1 : 0);
  bool all_pinned = true;
  const std::uint64_t holes =
      for_each_page(run, [&](Vpn, Page& page) { all_pinned = all_pinned && page.pins != 0; });
  const bool may = holes == 0 && all_pinned;
  const Status s = soft_.vm().unpin(run, dirtied ? Dirtied::kYes : Dirtied::kNo);
  expect_status(s, may ? 0 : EINVAL, "unpin");
  if (!s) return;
  for_each_page(run, [&](Vpn, Page& page) {
    --page.pins;
    held_ -= std::min<std::uint64_t>(held_, 1);
    if (dirtied && !step_failed()) page.is_lazy = false;
    if (page.pins != 0) return;
    page.is_steady = false;
    page.may_be_written_by_device = false;
    if (page.is_lazy || may_vanish(page)) allow_zeros(page);
  });
}

// A device writes to a page that was pinned for it, whatever traps are on it.
void VmModel::do_device_store() {
  for (unsigned tries = 0; tries < 50; ++tries) {
    const Vpn at = any_page();
    Page& page = *find(at);
    if (!page.is_steady || !page.may_be_written_by_device) continue;
    const auto part = static_cast<unsigned>(below(PageImage::kParts));
    begin(Op::kDeviceStore, {at, PageCount(1)}, part);
    const std::uint32_t seed = any_seed();
    std::array<std::byte, PageImage::kPartBytes> bytes;
    PageImage::write_part(seed, bytes.data());
    soft_.mmu().pin(at);
    expect(soft_.mmu().device_store(at.address() + part * PageImage::kPartBytes, bytes.data(),
                                    bytes.size()),
           "a device lost its page");
    soft_.mmu().unpin(at);
    for (PageImage& image : page.allowed) image.set_part(part, seed);
    return;
  }
}

void VmModel::do_lock() {
  PageRun run = any_run();
  run.count = std::min(run.count, PageCount(8));
  if (held_ > kMostHeld) return;
  const bool on_fault = chance(500);
  begin(Op::kLock, run, on_fault ? 1 : 0);
  bool is_any_volatile = false;
  for_each_page(run, [&](Vpn, Page& page) { is_any_volatile |= page.is_volatile; });
  const Status s = soft_.vm().lock(run, on_fault);
  if (is_any_volatile) {
    expect_status(s, EINVAL, "lock over marks");
    return;
  }
  const std::uint64_t holes = for_each_page(run, [&](Vpn at, Page& page) {
    const bool locked = soft_.pte(at).has(Pte::kLocked);
    if (locked && !page.is_locked) ++held_;
    page.is_locked = locked;
    expect(!locked || !page.is_droppable, "lock keeps what may be dropped");
    if (!s.ok() || page.is_droppable) return;
    expect(locked, "lock left a page unlocked");
    if (!on_fault) expect(soft_.mmu().is_mapped(at), "a locked page is not there");
  });
  if (s.code() == ENOMEM && is_excused()) return;
  expect_status(s, holes != 0 ? ENOMEM : 0, "lock");
}

void VmModel::do_unlock() {
  const PageRun run = any_run();
  begin(Op::kUnlock, run);
  const Status s = soft_.vm().unlock(run);
  const std::uint64_t holes = for_each_page(run, [&](Vpn at, Page& page) {
    const bool locked = soft_.pte(at).has(Pte::kLocked);
    if (page.is_locked && !locked) held_ -= std::min<std::uint64_t>(held_, 1);
    page.is_locked = locked;
    if (s.ok()) expect(!locked, "unlock left a page locked");
  });
  expect_status(s, holes != 0 ? ENOMEM : 0, "unlock");
}

// ---- The whole --------------------------------------------------------------------------------

void VmModel::do_resize() {
  const std::uint64_t base = options_.vm.budget.value();
  const PageCount budget(base * 3 / 4 + below(base / 2));
  begin(Op::kResize, {Vpn(), budget});
  const PageCount before = soft_.context().budget.limit();
  highest_limit_ = std::max(before, budget);
  // A fault that finds no room waits for the resize to end, which here it never would.
  others_may_fault_ = false;
  const Status s = soft_.vm().resize(budget);
  others_may_fault_ = true;
  const PageCount now = soft_.context().budget.limit();
  expect(s.ok() ? now == budget : s.code() == EAGAIN && now == before, "resize");
  highest_limit_ = now;
}

void VmModel::do_fork() {
  const bool become_child = chance(500);
  begin(Op::kFork, {}, become_child ? 1 : 0);
  is_alone_ = true;
  if (become_child) {
    soft_.fork_and_become_child();
    for (auto& [number, page] : pages_) {
      if (!page.is_droppable) continue;
      page.is_steady = false;
      if (step_failed())
        allow_zeros(page);
      else
        note_zeros(page);
    }
  } else {
    soft_.fork_and_stay();
  }
  is_alone_ = false;
}

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
