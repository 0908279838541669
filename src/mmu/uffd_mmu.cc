#include "mmu/uffd_mmu.h"

#include <sys/mman.h>

#include <cerrno>
#include <new>

#include "base/check.h"
#include "base/sys.h"
#include "mmu/managed_bounds.h"
#include "mmu/uffd_abi.h"

namespace buoy::mmu {

namespace {

constexpr PageCount kBlockPages(kPagesPerBlock);
constexpr std::size_t kObjectBytes = PageCount::covering(sizeof(UffdMmu)).bytes();

Status protect_memory(Vpn first, PageCount count, int protection) {
  const long rc = sys::call(SYS_mprotect, sys::ptr(first.pointer()),
                            static_cast<long>(count.bytes()), protection);
  if (rc != 0) return Error{static_cast<int>(-rc)};
  return {};
}

Result<std::byte*> reserve_at(Vpn hint, std::size_t bytes) {
  const long rc =
      sys::call(SYS_mmap, sys::ptr(hint.pointer()), static_cast<long>(bytes), PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  if (rc < 0) return Error{static_cast<int>(-rc)};
  auto* got = reinterpret_cast<std::byte*>(rc);
  if (got == hint.pointer()) return got;
  sys::unmap(got, bytes);  // a kernel that takes the flag for a mere hint
  return Error{EEXIST};
}

}  // namespace

// ---- Life --------------------------------------------------------------------------------------

Result<UffdMmu*> UffdMmu::create(const UffdOptions& options) {
  BUOY_CHECK(options.sink != nullptr && options.counters != nullptr);
  auto memory = sys::reserve(kObjectBytes, kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  auto* mmu = new (*memory) UffdMmu(options);
  const Status opened = mmu->open_all();
  if (opened.ok()) return mmu;
  mmu->close_all();
  mmu->~UffdMmu();
  sys::unmap(*memory, kObjectBytes);
  return opened.error();
}

void UffdMmu::destroy() {
  threads_.stop();
  signal_delivery::detach(this);
  close_all();
  this->~UffdMmu();
  sys::unmap(this, kObjectBytes);
}

Status UffdMmu::open_all() {
  TscScale::calibrate();
  const std::uint64_t offered = Uffd::kernel_features();
  std::uint64_t needed = abi::kFeatureProtect;
  std::uint64_t useful = abi::kFeatureExactAddress;
  if (options_.delivery == Delivery::kSignal) needed |= abi::kFeatureSigbus;
  if (options_.delivery == Delivery::kThread) useful |= abi::kFeatureThreadId | abi::kFeaturePoison;
  if (options_.use_move == UseMove::kWherePossible) useful |= abi::kFeatureMove;
  if (offered != 0 && (offered & needed) != needed) return Error{EOPNOTSUPP};
  features_ = needed | (offered & useful);
  uses_move_ = (features_ & abi::kFeatureMove) != 0;
  can_poison_ = (features_ & abi::kFeaturePoison) != 0;
  Status status = open_descriptors();
  if (!status) return status;

  status = table_.create();
  if (!status) return status;
  auto zeros = sys::reserve(kZeroPages * kPageSize, kPageSize, PROT_READ);
  if (!zeros) return zeros.error();
  zeros_ = *zeros;
  (void)sys::advise(zeros_, kZeroPages * kPageSize, abi::kAdvicePopulateRead);

  auto scratch = reserve(PageCount(kPagesPerBlock), Backing::kSmall);
  if (!scratch) return scratch.error();
  scratch_ = *scratch;
  status = permit(scratch_, {scratch_.base, scratch_.pages}, Access::kReadWrite);
  if (!status) return status;
  calibrate();
  status = signal_delivery::attach(this);
  if (!status) return status;
  status = start_delivery();
  if (!status) signal_delivery::detach(this);
  return status;
}

Status UffdMmu::open_descriptors() {
  Status opened = uffd_.open(modes_, features_);
  if (!opened && can_do_with_less()) {
    modes_ = Modes::kUserOnly;
    opened = uffd_.open(modes_, features_);
  }
  if (!opened) return opened;
  const Status shown =
      residency_.open(can_poison_ ? Residency::Markers::kPossible : Residency::Markers::kNone);
  // Only needed where there is no MOVE, and there without a substitute.
  return uses_move_ ? Status() : shown;
}

Status UffdMmu::start_delivery() {
  if (options_.delivery == Delivery::kSignal) return {};
  return threads_.start(uffd_, this, scratch_.base);
}

void UffdMmu::close_all() {
  table_.for_each([](const Reservation& r) {
    sys::unmap(r.base.pointer(), r.pages.bytes());
    sys::unmap(r.shadow.pointer(), r.pages.bytes());
  });
  table_.destroy();
  if (zeros_ != nullptr) sys::unmap(zeros_, kZeroPages * kPageSize);
  zeros_ = nullptr;
  residency_.close();
  uffd_.close();
}

// What calls cost on this machine now: two of each, some 0.1 ms. (The first one counts most; who makes
// them goes on measuring.)
void UffdMmu::calibrate() {
  constexpr PageCount kShort{16};
  const Vpn first = scratch_.base + PageCount(64);  // behind the exit pages
  for (int round = 0; round < 2; ++round) {
    const PageRun run{first, kShort};
    (void)copy_in(scratch_, run, zeros_, Stores::kAllowed);
    (void)take(scratch_, run);
    (void)give_back(scratch_, run, Return::kMoved);
    (void)discard(scratch_, run);
  }
}

// ---- Reservations ------------------------------------------------------------------------------

Result<Reservation> UffdMmu::reserve(PageCount pages, Backing backing, Vpn hint) {
  constexpr std::uint64_t kMaxBlocks = (std::uint64_t{1} << 47) / kBlockSize;
  const std::uint64_t blocks = (pages.value() + kPagesPerBlock - 1) / kPagesPerBlock;
  if (pages.is_zero() || hint.in_block() != 0) return Error{EINVAL};
  if (blocks > kMaxBlocks) return Error{ENOMEM};
  const std::size_t bytes = blocks * kBlockSize;
  auto base = hint == Vpn() ? sys::reserve(bytes, kBlockSize, PROT_NONE) : reserve_at(hint, bytes);
  if (!base) return base.error();
  Reservation r;
  r.base = Vpn::containing(*base);
  r.pages = PageCount(blocks * kPagesPerBlock);
  r.backing = backing;
  advise_addresses({r.base, r.pages}, backing);
  auto made = complete(r);
  if (!made) sys::unmap(*base, bytes);
  return made;
}

void UffdMmu::advise_addresses(PageRun run, Backing backing) {
  // No huge pages by themselves: one store into an empty shadow would populate 512 pages. stage()
  // asks for them where it wants them. Kernels without huge pages refuse, and mean the same.
  const bool is_huge = backing == Backing::kHugeWherePossible;
  (void)sys::advise(run.first.pointer(), run.count.bytes(),
                    is_huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  // A child that was not forked through before_fork() finds nothing here, rather than zeros.
  (void)sys::advise(run.first.pointer(), run.count.bytes(), MADV_DONTFORK);
}

Result<Reservation> UffdMmu::complete(Reservation r) {
  auto shadow = sys::reserve(r.pages.bytes(), kBlockSize, PROT_NONE);
  if (!shadow) return shadow.error();
  r.shadow = Vpn::containing(*shadow);
  advise_addresses({r.shadow, r.pages}, Backing::kSmall);
  // Nobody finds the page of an address here.
  (void)sys::advise(*shadow, r.pages.bytes(), MADV_DONTDUMP);
  Status status = enroll(r);
  if (status.ok()) status = table_.add(r);
  if (status.ok()) {
    managed_bounds.include({r.base, r.pages});
    return r;
  }
  sys::unmap(*shadow, r.pages.bytes());
  return status.error();
}

template <typename F>
void UffdMmu::for_each_kept(const Reservation& r, F&& f) const {
  for (Vpn at = r.base; at < r.base + r.pages;) {
    const PageRun rest{at, r.base + r.pages - at};
    const PageCount kept = gone_.gap_prefix(rest);
    if (!kept.is_zero()) f(PageRun{at, kept});
    at += kept.is_zero() ? gone_.covered_prefix(rest) : kept;
  }
}

Status UffdMmu::enroll(const Reservation& r) const {
  Status status;
  for_each_kept(r, [&](PageRun kept) {
    if (status.ok())
      status =
          uffd_.enroll(kept.first.address(), kept.count.bytes(), Uffd::Trap::kMissingAndProtected);
  });
  if (!status) return status;
  return uffd_.enroll(r.shadow.address(), r.pages.bytes(), Uffd::Trap::kProtectedOnly);
}

void UffdMmu::release(const Reservation& r) {
  remap_gate_.close();
  // To store to: forgotten. Without memory for it, a later reservation there says itself what it is.
  (void)note_access({r.base, r.pages}, Access::kReadWrite);
  remap_gate_.open();
  for_each_kept(r, [](PageRun kept) { sys::unmap(kept.first.pointer(), kept.count.bytes()); });
  sys::unmap(r.shadow.pointer(), r.pages.bytes());
  gone_.erase({r.base, r.pages});
  table_.remove(r);
}

int UffdMmu::protection_of(Access access) {
  switch (access) {
    case Access::kNone:
      return PROT_NONE;
    case Access::kRead:
      return PROT_READ;
    case Access::kReadWrite:
      return PROT_READ | PROT_WRITE;
    case Access::kReadExec:
      return PROT_READ | PROT_EXEC;
    case Access::kReadWriteExec:
      return PROT_READ | PROT_WRITE | PROT_EXEC;
  }
  return PROT_NONE;
}

// ---- Ranges that are partly somebody else's ----------------------------------------------------

Status UffdMmu::let_go(const Reservation&, PageRun run) {
  if (Status s = gone_.prepare(); !s) return s;
  gone_.assign(run, true);
  return {};
}

Status UffdMmu::take_back(const Reservation& r, PageRun run) {
  if (Status s = gone_.prepare(); !s) return s;
  if (Status s = replace(run, r.backing); !s) return s;
  const Status enrolled =
      uffd_.enroll(run.first.address(), run.count.bytes(), Uffd::Trap::kMissingAndProtected);
  if (!enrolled) return enrolled;
  gone_.erase(run);
  return {};
}

Result<Reservation> UffdMmu::reserve_around(PageRun part) {
  Reservation r;
  r.base = part.first.block_start();
  r.pages = part.end().aligned_up(kBlockPages) - r.base;
  const PageRun before{r.base, part.first - r.base};
  const PageRun behind{part.end(), r.base + r.pages - part.end()};
  if (Status s = gone_.prepare(2); !s) return s.error();
  if (Status s = replace(part, r.backing); !s) return s.error();
  if (!before.count.is_zero()) gone_.assign(before, true);
  if (!behind.count.is_zero()) gone_.assign(behind, true);
  auto made = complete(r);
  if (made) return made;
  gone_.erase({r.base, r.pages});
  sys::unmap(part.first.pointer(), part.count.bytes());
  return made;
}

Status UffdMmu::replace(PageRun run, Backing backing) {
  const long at =
      sys::call(SYS_mmap, sys::ptr(run.first.pointer()), static_cast<long>(run.count.bytes()),
                PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (at < 0) return Error{static_cast<int>(-at)};
  advise_addresses(run, backing);
  return {};
}

Status UffdMmu::permit(const Reservation& r, PageRun run, Access access) {
  remap_gate_.close();
  const Status status = note_access(run, access) ? change_access(r, run, access) : Error{ENOMEM};
  remap_gate_.open();
  return status;
}

Status UffdMmu::change_access(const Reservation& r, PageRun run, Access access) {
  if (access != Access::kReadWrite && access != Access::kNone)
    table_.note(r, ReservationTable::kSpecialAccess);
  if (access != Access::kNone)
    if (const Status status = open_shadow(r, run, access); !status) return status;
  return protect_memory(run.first, run.count, protection_of(access));
}

// The shadow is ours to write always, and MOVE wants both sides alike where the address can be
// written. It is opened in whole blocks and stays open, so that it remains one mapping of the
// kernel's however the program cuts its own (guard pages among thousands of stacks). What is writable
// and executable must be so page by page.
Status UffdMmu::open_shadow(const Reservation& r, PageRun run, Access access) {
  constexpr int kOpen = PROT_READ | PROT_WRITE;
  if (access == Access::kReadWriteExec) {
    table_.note(r, ReservationTable::kExecutableStores);
    return protect_memory(r.shadow_of(run.first), run.count, kOpen | PROT_EXEC);
  }
  PageRun opened = run;
  if (!table_.has_executable_stores(r)) {
    opened.first = run.first.block_start();
    opened.count = run.end().aligned_up(kBlockPages) - opened.first;
  }
  return protect_memory(r.shadow_of(opened.first), opened.count, kOpen);
}

// ---- Faults ------------------------------------------------------------------------------------

Verdict UffdMmu::on_sigbus(const Fault& fault) {
  if (options_.delivery == Delivery::kSignal)
    return fault.tid == 0 ? options_.sink->on_fault(fault) : Verdict::kForeign;
  // Handler threads answer faults; what comes as a signal is what they decided: a bus error.
  return table_.owns(fault.vpn) ? Verdict::kBusError : Verdict::kForeign;
}

bool UffdMmu::is_unmapped(Vpn vpn) const { return options_.sink->is_unmapped(vpn); }

bool UffdMmu::is_engines(PageRun run) const {
  const auto meets = [run](Vpn first, PageCount pages) {
    return run.first < first + pages && first < run.end();
  };
  bool found = meets(scratch_.base, scratch_.pages);
  table_.for_each([&](const Reservation& r) { found = found || meets(r.shadow, r.pages); });
  return found;
}

Verdict UffdMmu::on_event(const Fault& fault) { return options_.sink->on_fault(fault); }

void UffdMmu::raise_bus_error(const Fault& fault) {
  if (can_poison_) {
    const int error = uffd_.poison(fault.vpn.address(), kPageSize);  // wakes, too
    if (error == 0) return;
    if (error == EEXIST) {  // poisoned by poison() already; or there is a page now
      uffd_.wake(fault.vpn.address(), kPageSize);
      return;
    }
  }
  signal_delivery::send_bus_error(fault.tid, fault.address);
}

bool UffdMmu::poison(const Reservation&, Vpn vpn) {
  if (!can_poison_) return false;
  const int error = uffd_.poison(vpn.address(), kPageSize);
  return error == 0 || error == EEXIST;
}

void UffdMmu::unpoison(const Reservation&, Vpn vpn) {
  if (!can_poison_) return;
  // The program may have mlocked it meanwhile. Kernels that can poison have this advice.
  count_flush();
  const int rc = sys::advise(vpn.pointer(), kPageSize, abi::kAdviceDontNeedLocked);
  BUOY_DCHECK(rc == 0);
  (void)rc;
}

bool UffdMmu::is_mlocked(PageRun run) {
  // The one question to the kernel about VM_LOCKED that changes nothing.
  const long rc = sys::call(SYS_msync, sys::ptr(run.first.pointer()),
                            static_cast<long>(run.count.bytes()), MS_ASYNC | MS_INVALIDATE);
  return rc == -EBUSY;
}

// ---- The whole ---------------------------------------------------------------------------------

Costs UffdMmu::costs() const { return {take_run_.ns(), move_back_.ns(), copy_page_.ns()}; }

ByteSize UffdMmu::pagetable_bytes() const { return table_.pagetable_bytes(); }

ByteSize UffdMmu::metadata_bytes() const { return kObjectBytes + table_.metadata_bytes(); }

PageCount UffdMmu::populated_pages() const {
  PageCount total;
  const auto add = [&](Vpn first, PageCount pages) {
    for (PageCount at; at < pages; at += PageCount(kPagesPerBlock)) {
      Residency::Bits bits;
      if (residency_.query(first + at, PageCount(kPagesPerBlock), bits))
        total += PageCount(bits.count());
    }
  };
  table_.for_each([&](const Reservation& r) {
    add(r.base, r.pages);
    add(r.shadow, r.pages);
  });
  return total;
}

// ---- Fork --------------------------------------------------------------------------------------

void UffdMmu::set_inheritance(int advice) {
  table_.for_each([&](const Reservation& r) {
    // ENOMEM: the program has unmapped a part behind our back; the rest is done.
    for_each_kept(r, [advice](PageRun kept) {
      const int base = sys::advise(kept.first.pointer(), kept.count.bytes(), advice);
      BUOY_CHECK(base == 0 || base == -ENOMEM);
    });
    const int shadow = sys::advise(r.shadow.pointer(), r.pages.bytes(), advice);
    BUOY_CHECK(shadow == 0 || shadow == -ENOMEM);
  });
}

Status UffdMmu::before_fork() {
  // The child needs a descriptor of its own, and the rights may be gone since we got ours.
  auto trial = Uffd::open_raw(modes_);
  if (!trial && can_do_with_less()) trial = Uffd::open_raw(Modes::kUserOnly);
  // (Without a number to spare, the child has those of what it closes.)
  if (!trial && trial.code() != EMFILE) return trial.error();
  if (trial) sys::call(SYS_close, *trial);
  table_.for_each([&](const Reservation& r) { table_.note(r, ReservationTable::kForked); });
  set_inheritance(MADV_DOFORK);
  return {};
}

void UffdMmu::after_fork_in_parent() { set_inheritance(MADV_DONTFORK); }

Status UffdMmu::after_fork_in_child() {
  signal_delivery::forget_other_threads();
  threads_.forget_after_fork();
  uffd_.close();
  residency_.close();
  Status status = open_descriptors();
  if (!status) return status;
  table_.for_each([&](const Reservation& r) {
    if (status.ok()) status = enroll(r);
  });
  if (!status) return status;
  set_inheritance(MADV_DONTFORK);
  return start_delivery();
}

}  // namespace buoy::mmu
