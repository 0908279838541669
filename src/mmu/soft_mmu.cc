#include "mmu/soft_mmu.h"

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace buoy::mmu {

namespace {
// Canonical addresses of user space, away from where real mappings are; never dereferenced.
constexpr Vpn kFirstBase = Vpn::of_address(std::uintptr_t{1} << 45);
constexpr Vpn kFirstShadow = Vpn::of_address(std::uintptr_t{1} << 46);
constexpr Vpn kEndOfSpace = Vpn::of_address(std::uintptr_t{1} << 47);

bool allows_reads(Access a) { return a != Access::kNone; }
bool allows_stores(Access a) { return a == Access::kReadWrite || a == Access::kReadWriteExec; }
}  // namespace

// ---- Life and lookup ---------------------------------------------------------------------------

SoftMmu::Range::Range(const Reservation& reservation)
    : r(reservation), address(reservation.pages), shadow(reservation.pages) {
  access[0] = Access::kNone;
}

Access SoftMmu::Range::access_of(std::uint64_t i) const {
  return std::prev(access.upper_bound(i))->second;
}

bool SoftMmu::Range::is_writable(std::uint64_t i) const { return allows_stores(access_of(i)); }

SoftMmu::SoftMmu(FaultSink* sink, Counters* counters)
    : sink_(sink), counters_(counters), next_base_(kFirstBase), next_shadow_(kFirstShadow) {
  BUOY_CHECK(table_.create().ok());
}

SoftMmu::~SoftMmu() { table_.destroy(); }

SoftMmu::Range* SoftMmu::range_of(Vpn vpn) const {
  auto it = ranges_.upper_bound(vpn.value());
  if (it == ranges_.begin()) return nullptr;
  Range* candidate = std::prev(it)->second.get();
  return candidate->r.contains(vpn) ? candidate : nullptr;
}

SoftMmu::Range& SoftMmu::range(const Reservation& r) const {
  Range* found = range_of(r.base);
  BUOY_CHECK(found != nullptr && found->r.base == r.base);
  return *found;
}

bool SoftMmu::has(Vpn vpn, Side side, SoftPages::Flag flag) const {
  const Lock lock(mutex_);
  const Range* found = range_of(vpn);
  if (found == nullptr) return false;
  const SoftPages& pages = side == Side::kAddress ? found->address : found->shadow;
  return pages.has(found->index(vpn), flag);
}

PageCount SoftMmu::populated_pages() const {
  const Lock lock(mutex_);
  PageCount total;
  for (const auto& [base, range] : ranges_)
    total += range->address.present() + range->shadow.present();
  return total;
}

// ---- Reservations ------------------------------------------------------------------------------

bool SoftMmu::is_free(Vpn base, PageCount pages) const {
  const auto behind = ranges_.lower_bound((base + pages).value());
  if (behind == ranges_.begin()) return true;
  const Reservation& before = std::prev(behind)->second->r;
  return before.base + before.pages <= base;
}

Result<Reservation> SoftMmu::reserve(PageCount pages, Backing backing, Vpn hint) {
  call_hook(Primitive::kReserve, When::kBefore, hint);
  const Lock lock(mutex_);
  Failure failure;
  if (pages.is_zero() || hint.in_block() != 0) return Error{EINVAL};
  if (take_failure(Primitive::kReserve, failure)) return Error{ENOMEM};
  if (pages > kEndOfSpace - Vpn()) return Error{ENOMEM};
  Reservation r;
  r.pages = PageCount((pages.value() + kPagesPerBlock - 1) & ~(kPagesPerBlock - 1));
  r.backing = backing;
  if (hint != Vpn()) {
    if (!is_free(hint, r.pages)) return Error{EEXIST};
    r.base = hint;
  } else {
    // A block of nothing between neighbours.
    while (!is_free(next_base_, r.pages)) next_base_ += PageCount(kPagesPerBlock);
    r.base = next_base_;
    if (r.base + r.pages > kFirstShadow) return Error{ENOMEM};
    next_base_ = r.base + r.pages + PageCount(kPagesPerBlock);
  }
  r.shadow = next_shadow_;
  if (r.shadow + r.pages > kEndOfSpace) return Error{ENOMEM};
  next_shadow_ = r.shadow + r.pages + PageCount(kPagesPerBlock);
  const Status added = table_.add(r);
  if (!added) return added.error();
  ranges_[r.base.value()] = std::make_unique<Range>(r);
  return r;
}

void SoftMmu::release(const Reservation& r) {
  const Lock lock(mutex_);
  table_.remove(range(r).r);
  ranges_.erase(r.base.value());
}

// By the entry that is there: a fork child's ids are its own.
void SoftMmu::note_populated(const Reservation& r, PageRun run, Side side) {
  const Lock lock(mutex_);
  table_.note_populated(range(r).r, run, side);
}

Status SoftMmu::permit(const Reservation& r, PageRun run, Access access) {
  call_hook(Primitive::kPermit, When::kBefore, run.first);
  const Lock lock(mutex_);
  Failure failure;
  if (take_failure(Primitive::kPermit, failure)) return Error{ENOMEM};
  Range& range = this->range(r);
  const std::uint64_t first = range.index(run.first);
  const std::uint64_t end = first + run.count.value();
  if (end > r.pages.value()) return Error{ENOMEM};
  const Access behind = end < r.pages.value() ? range.access_of(end) : access;
  range.access.erase(range.access.lower_bound(first), range.access.upper_bound(end));
  range.access[first] = access;
  if (end < r.pages.value()) range.access[end] = behind;
  return {};
}

// ---- Hooks and failures ------------------------------------------------------------------------

void SoftMmu::call_hook(Primitive primitive, When when, Vpn vpn) {
  if (hook_) hook_({primitive, when, vpn});
}

bool SoftMmu::take_failure(Primitive primitive, Failure& failure) {
  bool found = false;
  for (auto it = failures_.begin(); it != failures_.end();) {
    if (it->primitive != primitive || it->skip_calls-- != 0) {
      ++it;
      continue;
    }
    failure = *it;
    found = true;
    it = failures_.erase(it);
  }
  return found;
}

template <typename PageStep>
Progress SoftMmu::for_pages(Primitive primitive, const Reservation& r, PageRun run,
                            PageStep&& step) {
  call_hook(primitive, When::kBefore, run.first);
  Failure failure;
  bool fails = false;
  {
    const Lock lock(mutex_);
    fails = take_failure(primitive, failure);
  }
  Progress progress;
  while (progress.done < run.count) {
    const Vpn vpn = run.first + progress.done;
    if (!progress.done.is_zero()) call_hook(primitive, When::kBetween, vpn);
    const Lock lock(mutex_);
    Range& range = this->range(r);
    BUOY_CHECK(r.contains(vpn));
    progress.outcome =
        fails && progress.done == failure.at_page ? failure.outcome : step(range, range.index(vpn));
    if (progress.outcome != Outcome::kDone) break;
    progress.done += PageCount(1);
  }
  call_hook(primitive, When::kAfter, run.first);
  return progress;
}

// ---- Pages -------------------------------------------------------------------------------------

Progress SoftMmu::install(const Reservation& r, PageRun run, const std::byte* bytes,
                          Stores stores) {
  count(Event::mmu_install_calls);
  note_populated(r, run, Side::kAddress);
  return for_pages(Primitive::kInstall, r, run, [&](Range& range, std::uint64_t i) {
    if (range.address.has(i, SoftPages::kPresent)) return Outcome::kExists;
    range.address.clear(i, SoftPages::kPoisoned);
    range.address.put_bytes(i, bytes + PageCount(i - range.index(run.first)).bytes());
    if (stores == Stores::kTrapped) range.address.set(i, SoftPages::kTrapped);
    return Outcome::kDone;
  });
}

Progress SoftMmu::install_zeros(const Reservation& r, PageRun run) {
  count(Event::mmu_install_calls);
  note_populated(r, run, Side::kAddress);
  return for_pages(Primitive::kInstallZeros, r, run, [&](Range& range, std::uint64_t i) {
    BUOY_CHECK(!range.shadow.has(i, SoftPages::kPresent));
    if (range.address.has(i, SoftPages::kPresent)) return Outcome::kExists;
    range.address.clear(i, SoftPages::kPoisoned);
    range.address.put_word(i, 0);
    return Outcome::kDone;
  });
}

Outcome SoftMmu::take_page(Range& range, std::uint64_t i) {
  if (!range.address.has(i, SoftPages::kPresent)) return Outcome::kDone;
  if (range.address.has(i, SoftPages::kLocked)) return Outcome::kLocked;
  if (range.shadow.has(i, SoftPages::kPresent)) return Outcome::kExists;
  if (range.address.has(i, SoftPages::kPinned) || range.address.has(i, SoftPages::kShared))
    return Outcome::kBusy;
  SoftPages::move(range.address, i, range.shadow, i);
  return Outcome::kDone;
}

Progress SoftMmu::take(const Reservation& r, PageRun run) {
  count(Event::mmu_take_calls);
  count(Event::tlb_flush_calls);
  note_populated(r, run, Side::kShadow);
  const Progress progress = for_pages(
      Primitive::kTake, r, run, [&](Range& range, std::uint64_t i) { return take_page(range, i); });
  if (progress.outcome == Outcome::kBusy) count(Event::mmu_busy);
  return progress;
}

Progress SoftMmu::take_block(const Reservation& r, Vpn block_start, PageCount populated) {
  BUOY_CHECK(block_start.in_block() == 0);
  {
    const Lock lock(mutex_);
    const Range& range = this->range(r);
    PageCount there;
    for (std::uint64_t k = 0; k < kPagesPerBlock; ++k) {
      const std::uint64_t i = range.index(block_start) + k;
      BUOY_CHECK(!range.shadow.has(i, SoftPages::kPresent));
      BUOY_CHECK(!range.address.has(i, SoftPages::kPoisoned));
      if (range.address.has(i, SoftPages::kPresent)) there += PageCount(1);
    }
    BUOY_CHECK(there == populated);
  }
  return take(r, {block_start, PageCount(kPagesPerBlock)});
}

Outcome SoftMmu::give_back_page(Range& range, std::uint64_t i, Return how) {
  if (!range.shadow.has(i, SoftPages::kPresent)) return Outcome::kMissing;
  if (range.address.has(i, SoftPages::kPresent) || range.address.has(i, SoftPages::kPoisoned))
    return Outcome::kExists;
  range.shadow.clear(i, SoftPages::kShared);
  if (how == Return::kMoved)
    SoftPages::move(range.shadow, i, range.address, i);
  else
    SoftPages::copy(range.shadow, i, range.address, i);
  return Outcome::kDone;
}

GiveBackResult SoftMmu::give_back(const Reservation& r, PageRun run, Return allowed) {
  count(Event::mmu_install_calls);
  note_populated(r, run, Side::kAddress);
  const Return how = allowed == Return::kCopied ? preferred_ : Return::kMoved;
  const Progress progress =
      for_pages(Primitive::kGiveBack, r, run,
                [&](Range& range, std::uint64_t i) { return give_back_page(range, i, how); });
  const Lock lock(mutex_);
  drop_finished_stagings(range(r));
  return {progress, how};
}

Progress SoftMmu::protect(const Reservation& r, PageRun run) {
  count(Event::tlb_flush_calls);
  return for_pages(Primitive::kProtect, r, run, [](Range& range, std::uint64_t i) {
    if (range.address.has(i, SoftPages::kPresent)) range.address.set(i, SoftPages::kTrapped);
    return Outcome::kDone;
  });
}

Progress SoftMmu::unprotect(const Reservation& r, PageRun run) {
  count(Event::tlb_flush_calls);
  return for_pages(Primitive::kUnprotect, r, run, [](Range& range, std::uint64_t i) {
    range.address.clear(i, SoftPages::kTrapped);
    return Outcome::kDone;
  });
}

Progress SoftMmu::discard(const Reservation& r, PageRun run) {
  count(Event::tlb_flush_calls);
  return for_pages(Primitive::kDiscard, r, run, [](Range& range, std::uint64_t i) {
    if (range.address.has(i, SoftPages::kLocked)) return Outcome::kLocked;
    range.address.remove(i);
    return Outcome::kDone;
  });
}

Progress SoftMmu::discard_runs(const Reservation& r, std::span<const PageRun> runs) {
  PageCount done;
  for (const PageRun& run : runs) {
    const Progress p = discard(r, run);
    done += p.done;
    if (!p.complete()) return {done, p.outcome};
  }
  return {done, Outcome::kDone};
}

void SoftMmu::drop_shadow(const Reservation& r, PageRun run) {
  count(Event::tlb_flush_calls);
  (void)for_pages(Primitive::kDropShadow, r, run, [](Range& range, std::uint64_t i) {
    range.shadow.remove(i);
    return Outcome::kDone;
  });
  const Lock lock(mutex_);
  drop_finished_stagings(range(r));
}

void SoftMmu::unshare(const Reservation& r, Vpn vpn) {
  (void)for_pages(Primitive::kUnshare, r, {vpn, PageCount(1)}, [](Range& range, std::uint64_t i) {
    BUOY_CHECK(!range.address.has(i, SoftPages::kTrapped));
    if (range.is_writable(i)) range.address.clear(i, SoftPages::kShared);
    return Outcome::kDone;
  });
}

const std::byte* SoftMmu::shadow_bytes(const Reservation& r, Vpn vpn) {
  call_hook(Primitive::kReadShadow, When::kBefore, vpn);
  const Lock lock(mutex_);
  Range& range = this->range(r);
  BUOY_CHECK(range.shadow.has(range.index(vpn), SoftPages::kPresent));
  return range.shadow.materialise(range.index(vpn));
}

const std::byte* SoftMmu::mapped_bytes(const Reservation& r, Vpn vpn) {
  const Lock lock(mutex_);
  Range& range = this->range(r);
  const std::uint64_t i = range.index(vpn);
  BUOY_CHECK(range.address.has(i, SoftPages::kPresent));
  BUOY_CHECK(range.address.has(i, SoftPages::kTrapped) || !range.is_writable(i));
  return range.address.materialise(i);
}

std::byte* SoftMmu::stage(const Reservation& r, PageRun run) {
  note_populated(r, run, Side::kShadow);
  auto bytes = std::make_unique<std::byte[]>(run.count.bytes());
  std::byte* const room = bytes.get();
  const Progress progress =
      for_pages(Primitive::kStage, r, run, [&](Range& range, std::uint64_t i) {
        BUOY_CHECK(!range.shadow.has(i, SoftPages::kPresent));
        range.shadow.put_borrowed(i, room + PageCount(i - range.index(run.first)).bytes());
        return Outcome::kDone;
      });
  const Lock lock(mutex_);
  Range& range = this->range(r);
  if (!progress.complete()) {
    for (PageCount k; k < progress.done; k += PageCount(1))
      range.shadow.remove(range.index(run.first + k));
    return nullptr;
  }
  range.staged.push_back({std::move(bytes), run});
  return room;
}

void SoftMmu::drop_finished_stagings(Range& range) {
  std::erase_if(range.staged, [&](const Staging& staging) {
    const std::uint64_t first = range.index(staging.run.first);
    for (std::uint64_t k = 0; k < staging.run.count.value(); ++k)
      if (range.shadow.has(first + k, SoftPages::kBorrowed)) return false;
    return true;
  });
}

bool SoftMmu::poison(const Reservation& r, Vpn vpn) {
  const Progress progress =
      for_pages(Primitive::kPoison, r, {vpn, PageCount(1)}, [](Range& range, std::uint64_t i) {
        if (range.address.has(i, SoftPages::kPresent)) return Outcome::kExists;
        range.address.set(i, SoftPages::kPoisoned);
        return Outcome::kDone;
      });
  return progress.complete();
}

void SoftMmu::unpoison(const Reservation& r, Vpn vpn) {
  const Lock lock(mutex_);
  Range& range = this->range(r);
  range.address.clear(range.index(vpn), SoftPages::kPoisoned);
}

// ---- The simulated program ---------------------------------------------------------------------

SoftMmu::Try SoftMmu::try_access(std::uintptr_t address, void* out, const void* in,
                                 std::size_t bytes) {
  const Lock lock(mutex_);
  const Vpn vpn = Vpn::of_address(address);
  const std::size_t offset = address % kPageSize;
  Range* found = range_of(vpn);
  if (found == nullptr) return Try::kSegv;
  const std::uint64_t i = found->index(vpn);
  const Access permitted = found->access_of(i);
  if (in == nullptr ? !allows_reads(permitted) : !allows_stores(permitted)) return Try::kSegv;
  SoftPages& pages = found->address;
  if (pages.has(i, SoftPages::kPoisoned)) return Try::kBusError;
  if (!pages.has(i, SoftPages::kPresent)) {
    if (is_enrolled_) return Try::kFault;
    table_.note_populated(found->r, {vpn, PageCount(1)}, Side::kAddress);
    pages.put_word(i, 0);
  }
  if (in == nullptr) {
    pages.read(i, offset, out, bytes);
    return Try::kDone;
  }
  if (pages.has(i, SoftPages::kTrapped)) return Try::kProtectionFault;
  pages.clear(i, SoftPages::kShared);
  pages.write(i, offset, in, bytes);
  return Try::kDone;
}

SoftMmu::Touch SoftMmu::ask_sink(std::uintptr_t address, bool is_store, bool is_protection) {
  BUOY_CHECK(sink_ != nullptr);
  Fault fault;
  fault.vpn = Vpn::of_address(address);
  fault.address = address;
  fault.is_store = is_store;
  fault.is_protection = is_protection;
  return sink_->on_fault(fault) == Verdict::kResolved ? Touch::kDone : Touch::kBusError;
}

SoftMmu::Touch SoftMmu::access(std::uintptr_t address, void* out, const void* in,
                               std::size_t bytes) {
  constexpr int kMaxTries = 100;
  for (int i = 0; i < kMaxTries; ++i) {
    const Try result = try_access(address, out, in, bytes);
    if (result == Try::kDone) return Touch::kDone;
    if (result == Try::kSegv) return Touch::kSegv;
    if (result == Try::kBusError) return Touch::kBusError;
    const Touch answer = ask_sink(address, in != nullptr, result == Try::kProtectionFault);
    if (answer != Touch::kDone) return answer;
  }
  return Touch::kStuck;
}

namespace {
// Calls piece(offset, bytes) for each page that [address, address + bytes) touches, while it
// returns true.
template <typename F>
void for_each_page_piece(std::uintptr_t address, std::size_t bytes, F&& piece) {
  for (std::size_t at = 0; at < bytes;) {
    const std::size_t room = kPageSize - (address + at) % kPageSize;
    const std::size_t n = bytes - at < room ? bytes - at : room;
    if (!piece(at, n)) return;
    at += n;
  }
}
}  // namespace

SoftMmu::Touch SoftMmu::load(std::uintptr_t address, void* out, std::size_t bytes) {
  Touch touch = Touch::kDone;
  for_each_page_piece(address, bytes, [&](std::size_t at, std::size_t n) {
    touch = access(address + at, static_cast<std::byte*>(out) + at, nullptr, n);
    return touch == Touch::kDone;
  });
  return touch;
}

SoftMmu::Touch SoftMmu::store(std::uintptr_t address, const void* in, std::size_t bytes) {
  Touch touch = Touch::kDone;
  for_each_page_piece(address, bytes, [&](std::size_t at, std::size_t n) {
    touch = access(address + at, nullptr, static_cast<const std::byte*>(in) + at, n);
    return touch == Touch::kDone;
  });
  return touch;
}

SoftMmu::Touch SoftMmu::store_uniform(Vpn vpn, std::uint64_t word) {
  // A store of the word that is there faults as any other; then the rest is filled at once.
  constexpr int kMaxTries = 100;
  for (int i = 0; i < kMaxTries; ++i) {
    Try result = Try::kSegv;
    {
      const Lock lock(mutex_);
      Range* found = range_of(vpn);
      if (found == nullptr || !found->is_writable(found->index(vpn))) return Touch::kSegv;
      SoftPages& pages = found->address;
      const std::uint64_t page = found->index(vpn);
      if (pages.has(page, SoftPages::kPoisoned)) return Touch::kBusError;
      result = !pages.has(page, SoftPages::kPresent)  ? Try::kFault
               : pages.has(page, SoftPages::kTrapped) ? Try::kProtectionFault
                                                      : Try::kDone;
      if (result == Try::kDone) {
        pages.clear(page, SoftPages::kShared);
        pages.write_word(page, word);
        return Touch::kDone;
      }
    }
    const Touch answer = ask_sink(vpn.address(), true, result == Try::kProtectionFault);
    if (answer != Touch::kDone) return answer;
  }
  return Touch::kStuck;
}

bool SoftMmu::try_load(std::uintptr_t address, void* out, std::size_t bytes) {
  bool done = true;
  for_each_page_piece(address, bytes, [&](std::size_t at, std::size_t n) {
    done = try_access(address + at, static_cast<std::byte*>(out) + at, nullptr, n) == Try::kDone;
    return done;
  });
  return done;
}

bool SoftMmu::try_store(std::uintptr_t address, const void* in, std::size_t bytes) {
  bool done = true;
  for_each_page_piece(address, bytes, [&](std::size_t at, std::size_t n) {
    done =
        try_access(address + at, nullptr, static_cast<const std::byte*>(in) + at, n) == Try::kDone;
    return done;
  });
  return done;
}

// ---- The simulated kernel ----------------------------------------------------------------------

void SoftMmu::pin(Vpn vpn) {
  const Lock lock(mutex_);
  Range* found = range_of(vpn);
  BUOY_CHECK(found != nullptr && found->address.has(found->index(vpn), SoftPages::kPresent));
  found->address.set(found->index(vpn), SoftPages::kPinned);
}

void SoftMmu::unpin(Vpn vpn) {
  const Lock lock(mutex_);
  Range* found = range_of(vpn);
  if (found != nullptr) found->address.clear(found->index(vpn), SoftPages::kPinned);
}

bool SoftMmu::device_store(std::uintptr_t address, const void* in, std::size_t bytes) {
  const Lock lock(mutex_);
  const Vpn vpn = Vpn::of_address(address);
  Range* found = range_of(vpn);
  if (found == nullptr || !found->address.has(found->index(vpn), SoftPages::kPinned)) return false;
  found->address.write(found->index(vpn), address % kPageSize, in, bytes);
  return true;
}

void SoftMmu::lock_pages(PageRun run) {
  const Lock lock(mutex_);
  for (Vpn v = run.first; v < run.end(); ++v) {
    Range* found = range_of(v);
    if (found != nullptr) found->address.set(found->index(v), SoftPages::kLocked);
  }
}

bool SoftMmu::is_mlocked(PageRun run) {
  for (Vpn v = run.first; v < run.end(); ++v)
    if (has(v, Side::kAddress, SoftPages::kLocked)) return true;
  return false;
}

void SoftMmu::unlock_pages(PageRun run) {
  const Lock lock(mutex_);
  for (Vpn v = run.first; v < run.end(); ++v) {
    Range* found = range_of(v);
    if (found != nullptr) found->address.clear(found->index(v), SoftPages::kLocked);
  }
}

// ---- Fork --------------------------------------------------------------------------------------

Status SoftMmu::before_fork() {
  is_inheritable_ = true;
  return {};
}
void SoftMmu::after_fork_in_parent() { is_inheritable_ = false; }

Status SoftMmu::after_fork_in_child() {
  is_inheritable_ = false;
  is_enrolled_ = true;
  return {};
}

std::unique_ptr<SoftMmu> SoftMmu::fork_child(FaultSink* sink, Counters* counters) {
  const Lock lock(mutex_);
  auto child = std::make_unique<SoftMmu>(sink, counters);
  child->next_base_ = next_base_;
  child->next_shadow_ = next_shadow_;
  child->costs_ = costs_;
  child->preferred_ = preferred_;
  child->is_enrolled_ = false;
  if (!is_inheritable_) return child;

  for (auto& [base, range] : ranges_) {
    Reservation r = range->r;
    BUOY_CHECK(child->table_.add(r).ok());
    auto copy = std::make_unique<Range>(r);
    copy->access = range->access;
    const auto share = [&](SoftPages& from, SoftPages& to, Side side) {
      from.for_each([&](std::uint64_t i) {
        if (from.has(i, SoftPages::kPoisoned)) to.set(i, SoftPages::kPoisoned);
        if (!from.has(i, SoftPages::kPresent)) return;
        SoftPages::copy(from, i, to, i);
        child->table_.note_populated(r, {r.base + PageCount(i), PageCount(1)}, side);
        // The kernel gives the child a copy of a pinned page at once; the owner's stays its own.
        if (from.has(i, SoftPages::kPinned)) return;
        from.set(i, SoftPages::kShared);
        to.set(i, SoftPages::kShared);
      });
    };
    share(range->address, copy->address, Side::kAddress);
    share(range->shadow, copy->shadow, Side::kShadow);
    child->ranges_[base] = std::move(copy);
  }
  return child;
}

}  // namespace buoy::mmu
