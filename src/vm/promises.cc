// Promises that a program makes, or wants made, of ranges of its memory: what a fork child finds there
// (MADV_DONTFORK, MADV_WIPEONFORK), and guards (MADV_GUARD_INSTALL).
//
// And what is promised to a program: memory that it may touch (commitment.h).
//
// They are kept in maps of extents beside the page table, which are empty in nearly every program
// and cost it nothing then. A guard is a page without access that remembers the access it would have;
// to the kernel it is PROT_NONE, so that no fault of ours can fill it.

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

namespace {

using InChild = Vm::InChild;

constexpr InChild both(InChild a, InChild b) {
  return static_cast<InChild>(static_cast<unsigned>(a) | static_cast<unsigned>(b));
}
constexpr InChild without(InChild a, InChild b) {
  return static_cast<InChild>(static_cast<unsigned>(a) & ~static_cast<unsigned>(b));
}
constexpr bool includes(InChild a, InChild b) { return both(a, b) == a; }

// Every page that a program can have.
constexpr PageRun kEverywhere{Vpn(1), PageCount((std::uint64_t{1} << 35) - 1)};

// Calls body(PageRun, const V*) -> Status for each part of the run that has one value, or none (null).
// The body may change the map within that part.
template <typename V, typename Body>
Status for_each_part(const ExtentMap<V>& map, PageRun run, Body body) {
  for (Vpn at = run.first; at < run.end();) {
    const PageRun rest{at, run.end() - at};
    const PageCount gap = map.gap_prefix(rest);
    PageRun part{at, gap};
    V value{};
    const bool has_value = gap.is_zero();
    if (has_value) {
      const auto* extent = map.find(at);
      value = extent->value;
      part.count = std::min(run.end(), extent->end) - at;
    }
    at = part.end();
    if (Status s = body(part, has_value ? &value : nullptr); !s) return s;
  }
  return {};
}

}  // namespace

template <typename Body>
Status Vm::for_each_mapped_part(PageRun run, Body body) {
  for (Vpn at = run.first; at < run.end();) {
    Region* region = context_.table.find_region(at);
    const auto* extent = region == nullptr ? nullptr : region->extents.find(at);
    if (extent == nullptr) return Error{ENOMEM};
    const PageRun part{at, std::min(run.end(), extent->end) - at};
    const mmu::Access access = extent->value;
    if (Status s = region->extents.prepare(); !s) return s;
    if (Status s = body(*region, part, access); !s) return s;
    at = part.end();
  }
  return {};
}

// ---- In a fork child --------------------------------------------------------------------------

Status Vm::promise(PageRun run, InChild what) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  return for_each_part(in_child_, run, [&](PageRun part, const InChild* before) -> Status {
    if (Status s = in_child_.prepare(); !s) return s;
    in_child_.assign(part, before == nullptr ? what : both(*before, what));
    return {};
  });
}

Status Vm::withdraw(PageRun run, InChild what) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  return for_each_part(in_child_, run, [&](PageRun part, const InChild* before) -> Status {
    if (before == nullptr) return {};
    if (Status s = in_child_.prepare(); !s) return s;
    const InChild left = without(*before, what);
    if (left == InChild::kContents)
      in_child_.erase(part);
    else
      in_child_.assign(part, left);
    return {};
  });
}

// The child is alone, and its gate is closed.
Status Vm::keep_promises_in_child() {
  const Guard guard(context_.table.region_lock());
  return for_each_part(
      in_child_, kEverywhere, [&](PageRun run, const InChild* what) BUOY_NO_TSA -> Status {
        if (what == nullptr) return {};
        if (!includes(*what, InChild::kNothing)) {
          clear_leaves(run, PteState::kEmpty);
          return {};
        }
        for (const auto [region, part] : context_.table.regions_in(run)) {
          if (Status s = region.extents.prepare(); !s) return s;
          if (Status s = prepare_to_void_promises(); !s) return s;
          if (Status s = context_.mmu->permit(region.reservation, part, mmu::Access::kNone); !s)
            return s;
          region.extents.erase(part);
          clear_leaves(part, PteState::kHole);
          void_promises(part);
        }
        return {};
      });
}

// ---- Guards -----------------------------------------------------------------------------------

Status Vm::install_guards(PageRun run) {
  const SignalBlock signals;
  const MarksPass pass(context_.gate, volatile_.lock());
  const Guard guard(context_.table.region_lock());
  const PageRun unlocked{run.first, unlocked_prefix(run)};
  const Status installed = for_each_mapped_part(
      unlocked, [&](Region& region, PageRun part, mmu::Access access) BUOY_NO_TSA -> Status {
        if (Status s = volatile_.prepare(); !s) return s;
        if (Status s = for_each_part(guards_, part,
                                     [&](PageRun fresh, const mmu::Access* is) -> Status {
                                       if (is != nullptr) return {};
                                       if (Status prepared = guards_.prepare(); !prepared)
                                         return prepared;
                                       guards_.assign(fresh, access);
                                       return {};
                                     });
            !s)
          return s;
        if (Status s = context_.mmu->permit(region.reservation, part, mmu::Access::kNone); !s)
          return s;
        region.extents.assign(part, mmu::Access::kNone);
        volatile_.forget(part);
        clear_leaves(part, PteState::kEmpty);
        return {};
      });
  return installed.ok() && unlocked != run ? Status(Error{EINVAL}) : installed;
}

Status Vm::remove_guards(PageRun run) {
  const Pledge pledge(commitment_, unpromised_in(run));
  if (!pledge.is_made()) return Error{ENOMEM};
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  return for_each_part(
      guards_, run, [&](PageRun part, const mmu::Access* access) BUOY_NO_TSA -> Status {
        if (access == nullptr) return {};
        if (Status s = guards_.prepare(); !s) return s;
        guards_.erase(part);
        return for_each_mapped_part(part,
                                    [&](Region& region, PageRun mapped, mmu::Access)
                                        BUOY_NO_TSA { return permit(region, mapped, *access); });
      });
}

// What the program may do with a mapped run from now on; at guards, once they are removed.
Status Vm::permit(Region& region, PageRun mapped, mmu::Access access) {
  return for_each_part(guards_, mapped,
                       [&](PageRun part, const mmu::Access* guarded) BUOY_NO_TSA -> Status {
                         if (guarded != nullptr) {
                           if (Status s = guards_.prepare(); !s) return s;
                           guards_.assign(part, access);
                           return {};
                         }
                         if (Status s = region.extents.prepare(); !s) return s;
                         if (Status s = prepare_to_void_promises(); !s) return s;
                         if (Status s = context_.mmu->permit(region.reservation, part, access); !s)
                           return s;
                         region.extents.assign(part, access);
                         if (access != mmu::Access::kNone) note_promised(region, part);
                         return {};
                       });
}

// ---- Of memory --------------------------------------------------------------------------------

namespace {
PageCount pages_in(const ExtentMap<bool>& map, PageRun run) {
  PageCount n;
  map.for_each_in(run, [&n](PageRun part, bool) { n += part.count; });
  return n;
}
}  // namespace

PageCount Vm::unpromised_in(PageRun run) {
  if (!commitment_.is_kept()) return {};
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  PageCount n;
  for (const auto [region, part] : context_.table.regions_in(run))
    if (!region.is(RegionFlags::kOwnersPromise)) n += part.count - pages_in(promised_, part);
  return n;
}

void Vm::note_promised(const Region& region, PageRun run) {
  if (!commitment_.is_kept() || region.is(RegionFlags::kOwnersPromise)) return;
  commitment_.add(run.count - pages_in(promised_, run));
  promised_.assign(run, true);
}

// ---- Mapped anew, unmapped, moved -------------------------------------------------------------

Status Vm::prepare_to_void_promises() {
  // One change to void them, one to make them anew.
  if (commitment_.is_kept())
    if (Status s = promised_.prepare(2); !s) return s;
  if (sealed_.size() != 0)
    if (Status s = sealed_.prepare(); !s) return s;
  if (in_child_.size() != 0)
    if (Status s = in_child_.prepare(); !s) return s;
  if (guards_.size() != 0) return guards_.prepare();
  return {};
}

void Vm::void_promises(PageRun run) {
  if (in_child_.size() != 0) in_child_.erase(run);
  if (guards_.size() != 0) guards_.erase(run);
  if (sealed_.size() != 0) sealed_.erase(run);  // in a child that has not got it
  if (promised_.size() == 0) return;
  commitment_.drop(pages_in(promised_, run));
  promised_.erase(run);
}

// A mapping takes along what a child finds. Without memory for that the child finds the contents:
// more than was asked for, never less than there was.
void Vm::move_promises(PageRun from, Vpn to) {
  if (in_child_.size() == 0) return;
  (void)for_each_part(in_child_, from, [&](PageRun part, const InChild* what) -> Status {
    if (what == nullptr) return {};
    if (Status s = in_child_.prepare(); !s) return s;
    in_child_.assign({to + (part.first - from.first), part.count}, *what);
    return {};
  });
}

}  // namespace buoy
