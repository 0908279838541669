// What a pool does to pages when it is asked: by the kernel's calls, which the preload library stands in
// for, and by buoy.h's.

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "api/pool.h"

// Advice that newer kernels know and older headers lack.
#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace buoy {

namespace {
PageRun pages_of(const void* address, ByteSize length) {
  return {Vpn::containing(address), PageCount::covering(length)};
}
}  // namespace

// ---- As the kernel's calls --------------------------------------------------------------------

Status Pool::madvise(void* address, ByteSize length, int advice) {
  const PageRun run = pages_of(address, length);
  if (run.count.is_zero()) return {};
  switch (advice) {
    case MADV_DONTNEED:
      return vm_.discard(run);
    case MADV_FREE:
      return vm_.free_lazily(run);
    case MADV_COLD:
      return vm_.cold(run);
    case MADV_PAGEOUT:
      return vm_.page_out(run);
    case MADV_WILLNEED:
      return vm_.will_need(run);
    case MADV_POPULATE_READ:
      return vm_.populate(run, PinFor::kReading);
    case MADV_POPULATE_WRITE:
      return vm_.populate(run, PinFor::kWriting);
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DODUMP:
    case MADV_DONTDUMP:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_COLLAPSE:
      return vm_.mapped_prefix(run) == run.count ? Status() : Error{ENOMEM};
    case MADV_DONTNEED_LOCKED:
      return vm_.discard(run, Vm::LockedPages::kToo);
    case MADV_DONTFORK:
      return vm_.promise(run, Vm::InChild::kNothing);
    case MADV_DOFORK:
      return vm_.withdraw(run, Vm::InChild::kNothing);
    case MADV_WIPEONFORK:
      return vm_.promise(run, Vm::InChild::kZeros);
    case MADV_KEEPONFORK:
      return vm_.withdraw(run, Vm::InChild::kZeros);
    case MADV_GUARD_INSTALL:
      return vm_.install_guards(run);
    case MADV_GUARD_REMOVE:
      return vm_.remove_guards(run);
    case MADV_HWPOISON:
    case MADV_SOFT_OFFLINE:
      return Error{EPERM};
    default:
      return Error{EINVAL};  // MADV_REMOVE, which is for shared memory, and what nobody knows
  }
}

void Pool::prefill(void* address, ByteSize length) { vm_.prefill(pages_of(address, length)); }

Status Pool::lock(void* address, ByteSize length, Lock when) {
  return vm_.lock(pages_of(address, length), when == Lock::kOnFault);
}

Status Pool::unlock(void* address, ByteSize length) {
  return vm_.unlock(pages_of(address, length));
}

Status Pool::lock_all(Lock when) { return vm_.lock_all(when == Lock::kOnFault); }

Status Pool::residency(void* address, ByteSize length, unsigned char* vec) {
  const PageRun run = pages_of(address, length);
  for (PageCount done; done < run.count;) {
    unsigned char chunk[512];
    const PageCount n(std::min<std::uint64_t>(sizeof chunk, (run.count - done).value()));
    if (const Status s = vm_.residency({run.first + done, n}, chunk); !s) return s;
    for (std::uint64_t i = 0; i < n.value(); ++i) {
      const auto r = static_cast<Residency>(chunk[i]);
      const bool resident =
          r == Residency::kMapped || r == Residency::kLazyFree || r == Residency::kStandby;
      vec[done.value() + i] = resident ? 1 : 0;
    }
    done += n;
  }
  return {};
}

// ---- As buoy.h --------------------------------------------------------------------------------

bool Pool::is_mapped(void* address, ByteSize length) {
  return vm_.is_mapped(pages_of(address, length));
}

Status Pool::advise(void* address, ByteSize length, Advice advice) {
  const PageRun run = pages_of(address, length);
  const bool lets_go = advice == Advice::kFree || advice == Advice::kDontNeed ||
                       advice == Advice::kCold || advice == Advice::kPageOut;
  if (lets_go && vm_.has_mlocked(run)) return Error{EINVAL};
  switch (advice) {
    case Advice::kFree:
      return vm_.free_lazily(run);
    case Advice::kFreeUntilReuse:
      return vm_.free_lazily(run, Vm::Until::kReuse);
    case Advice::kReuse:
      return vm_.reuse(run);
    case Advice::kDontNeed:
      return vm_.discard(run);
    case Advice::kCold:
      return vm_.cold(run);
    case Advice::kPageOut:
      return vm_.page_out(run);
    case Advice::kWillNeed:
      return vm_.will_need(run);
    case Advice::kPopulate:
      return vm_.populate(run, PinFor::kWriting);
  }
  return Error{EINVAL};
}

Status Pool::pin(void* address, ByteSize length, PinFor purpose) {
  return vm_.pin(pages_of(address, length), purpose);
}

Status Pool::unpin(void* address, ByteSize length, Dirtied dirtied) {
  return vm_.unpin(pages_of(address, length), dirtied);
}

Vm::Marked Pool::mark_volatile(void* address, ByteSize length, unsigned priority) {
  return vm_.mark_volatile(pages_of(address, length), priority);
}

Vm::Unmarked Pool::mark_nonvolatile(void* address, ByteSize length) {
  return vm_.mark_nonvolatile(pages_of(address, length));
}

Status Pool::page_states(void* address, ByteSize length, unsigned char* values) {
  return vm_.residency(pages_of(address, length), values);
}

}  // namespace buoy
