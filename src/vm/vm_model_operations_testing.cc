// VmModel: its operations, each with what it makes of the account.
#include <algorithm>
#include <array>
#include <cerrno>

#include "vm/vm_model_testing.h"

namespace buoy {

using mmu::Access;
using Touch = SoftVm::Touch;

namespace {
constexpr std::size_t kMostAllowed = 6;
constexpr std::uint64_t kMostHeld = 100;

bool may_load(Access a) { return a != Access::kNone; }
bool may_store(Access a) { return a == Access::kReadWrite || a == Access::kReadWriteExec; }
}  // namespace

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
  const bool may_be_dropped = find(run.first) != nullptr && find(run.first)->is_droppable;
  const Status s = soft_.vm().map_over(run, Access::kReadWrite);
  expect_status(s, may_be_dropped ? EINVAL : 0, "map_over");
  if (may_be_dropped) return;
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
    page.is_idle = page.is_idle && !s.ok();
    note_locked(page, soft_.pte(at).has(Pte::kLocked));
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
  bool is_permitted = true;
  const std::uint64_t holes = for_each_page(run, [&](Vpn at, Page& page) {
    is_any_purged = is_any_purged || is_purged(at, page);
    is_permitted = is_permitted && (for_writing ? may_store(page.access) : may_load(page.access));
    if (!s || !for_writing) return;
    if (!step_failed()) page.is_lazy = false;
    page.is_idle = false;
  });
  if (holes != 0)
    expect_status(s, ENOMEM, "populate over a hole");
  else if (!is_permitted)
    expect_status(s, EINVAL, "populate of what is protected");
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
  bool is_any_closed = false;  // cannot be brought in, and keeps its mark all the same
  for_each_page(run, [&](Vpn, Page& page) {
    is_any_volatile |= page.is_volatile;
    is_any_closed |= page.access == Access::kNone;
  });
  const Status s = soft_.vm().lock(run, on_fault);
  if (is_any_volatile) {
    expect_status(s, EINVAL, "lock over marks");
    return;
  }
  const std::uint64_t holes = for_each_page(run, [&](Vpn at, Page& page) {
    const bool locked = soft_.pte(at).has(Pte::kLocked);
    note_locked(page, locked);
    expect(!locked || !page.is_droppable, "lock keeps what may be dropped");
    if (!s.ok() || page.is_droppable) return;
    expect(locked, "lock left a page unlocked");
    if (!on_fault) expect(soft_.mmu().is_mapped(at), "a locked page is not there");
  });
  if (s.code() == ENOMEM && is_excused()) return;
  expect_status(s, holes != 0 || (is_any_closed && !on_fault) ? ENOMEM : 0, "lock");
}

void VmModel::do_unlock() {
  const PageRun run = any_run();
  begin(Op::kUnlock, run);
  const Status s = soft_.vm().unlock(run);
  const std::uint64_t holes = for_each_page(run, [&](Vpn at, Page& page) {
    const bool locked = soft_.pte(at).has(Pte::kLocked);
    note_locked(page, locked);
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

}  // namespace buoy
