#include "gate/memory.h"

#include <cerrno>

namespace buoy::gate {

namespace {

constexpr std::uintptr_t kUserEnd = (std::uintptr_t{1} << 47) - kPageSize;

// The pages under some bytes; none if they are not user memory.
PageRun pages_of(Bytes b) {
  if (b.length == 0 || b.address >= kUserEnd || b.length > kUserEnd - b.address) return {};
  const Vpn first = Vpn::of_address(b.address);
  const Vpn last = Vpn::of_address(b.address + b.length - 1);
  return {first, last - first + PageCount(1)};
}

// Calls body(PageRun) -> bool for each managed and mapped stretch, until it says false.
template <typename Body>
bool for_each_stretch(const Vm& vm, PageRun run, Body body) {
  while (!run.count.is_zero()) {
    const Vm::Stretch s = vm.first_stretch(run);
    if (s.owner == Vm::Owner::kProgram && !body(PageRun{run.first, s.count})) return false;
    run = {run.first + s.count, run.count - s.count};
  }
  return true;
}

}  // namespace

bool Memory::is_ready(Bytes b, PinFor purpose) const {
  const PageRun run = pages_of(b);
  for (PageCount i; i < run.count; i += PageCount(1)) {
    const Vpn v = run.first + i;
    if (!vm_.is_ready(v, purpose) &&
        vm_.first_stretch({v, PageCount(1)}).owner != Vm::Owner::kElsewhere)
      return false;
  }
  return true;
}

bool Memory::is_permitted(Bytes b, PinFor purpose) const {
  return permitted(b, purpose).length == b.length;
}

// Up to the first managed page that may not be touched so.
Bytes Memory::permitted(Bytes b, PinFor purpose) const {
  PageRun run = pages_of(b);
  while (!run.count.is_zero()) {
    const PageCount permitted = vm_.permitted_prefix(run, purpose);
    run = {run.first + permitted, run.count - permitted};
    if (run.count.is_zero()) break;
    const Vm::Stretch s = vm_.first_stretch(run);
    if (s.owner != Vm::Owner::kElsewhere)
      return b.first(run.first.address() <= b.address ? 0 : run.first.address() - b.address);
    run = {run.first + s.count, run.count - s.count};
  }
  return b;
}

Bytes Memory::touchable(Bytes b, PinFor* purpose) const {
  for (const PinFor p : {PinFor::kWriting, PinFor::kReading}) {
    *purpose = p;
    if (const Bytes found = permitted(b, p); found.length != 0) return found;
  }
  return b.first(1);  // the kernel will say so
}

Had Memory::bring_in(Bytes b, PinFor purpose) {
  const PageRun run = pages_of(b);
  if (run.count.is_zero()) return b.length == 0 ? Had::kAll : Had::kNot;
  if (is_ready(b, purpose)) return Had::kAll;
  Had had = Had::kAll;
  for_each_stretch(vm_, run, [&](PageRun part) {
    const PageRun permitted{part.first, vm_.permitted_prefix(part, purpose)};
    const bool was_ready = is_ready({permitted.first.address(), permitted.count.bytes()}, purpose);
    const Status s = was_ready ? Status() : vm_.populate(permitted, purpose);
    if (!s && s.code() == EAGAIN) {
      had = Had::kFull;
    } else if (s && !was_ready) {
      had = Had::kBroughtIn;
    } else if ((!s || permitted.count != part.count) && had == Had::kAll) {
      had = Had::kNot;
    }
    return s.ok() && permitted.count == part.count;
  });
  return had;
}

Had Memory::pin(Bytes b, PinFor purpose) {
  Had had = Had::kAll;
  PageCount pinned;
  const PageRun run = pages_of(b);
  for_each_stretch(vm_, run, [&](PageRun part) {
    const Status s = vm_.pin(part, purpose);
    if (!s) had = s.code() == EAGAIN ? Had::kFull : Had::kNot;
    if (s) pinned = part.end() - run.first;
    return s.ok();
  });
  if (had != Had::kAll && !pinned.is_zero()) unpin({run.first.address(), pinned.bytes()}, purpose);
  return had;
}

void Memory::unpin(Bytes b, PinFor purpose) {
  for_each_stretch(vm_, pages_of(b), [&](PageRun part) {
    (void)vm_.unpin(part, purpose == PinFor::kWriting ? Dirtied::kYes : Dirtied::kNo);
    return true;
  });
}

}  // namespace buoy::gate
