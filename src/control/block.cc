#include "control/block.h"

#include <time.h>

#include <cerrno>
#include <climits>

#include "base/sys.h"

namespace buoy::control {
namespace {

std::uint64_t boottime_ns() {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
         static_cast<std::uint64_t>(now.tv_nsec);
}

bool is_gone(int pid) { return sys::call(SYS_kill, pid, 0) == -ESRCH; }

}  // namespace

Result<Block*> Block::create(std::uint64_t layout, char (&text)[kTextBytes], int* fd) {
  const auto memory = InheritedMemory::create("buoy-run", sizeof(Block), text);
  if (!memory) return memory.error();
  auto* const block = reinterpret_cast<Block*>(memory->bytes);
  block->layout_ = layout;
  *fd = memory->fd;
  return block;
}

Block* Block::accept(const char* text, std::uint64_t layout) {
  const auto memory = InheritedMemory::accept(text, sizeof(Block));
  if (!memory) return nullptr;
  auto* const block = reinterpret_cast<Block*>(memory->bytes);
  if (block->layout_ == layout) return block;
  unmap(block);
  return nullptr;
}

void Block::unmap(Block* block) { InheritedMemory::unmap(block, sizeof(Block)); }

bool Block::try_take(unsigned i, std::uint64_t from, int process) {
  const auto pid = static_cast<std::uint64_t>(process);
  Place& mine = places_[i];
  // How often it was taken is told by its last owner, who need not be there any more.
  const std::uint64_t last = mine.ready.load(std::memory_order_relaxed);
  const std::uint64_t word = ((((last >> 32) + 1) << 32) & ~(kPidMask | kBeingFreed)) | pid;
  if (!owners_[i].compare_exchange_strong(from, word)) return false;
  // What this process had before an exec is gone, but what it needs to begin with it keeps.
  drop_lease(i, (from & kPidMask) == pid ? kFirstLease : 0);
  mine.taken_at.store(boottime_ns(), std::memory_order_relaxed);
  mine.answered.store(mine.request.load(std::memory_order_relaxed), std::memory_order_relaxed);
  mine.lease_wanted.store(0, std::memory_order_relaxed);
  mine.unused.store(0, std::memory_order_relaxed);
  mine.age_ms.store(0, std::memory_order_relaxed);
  return true;
}

void Block::drop_lease(unsigned i, std::uint64_t kept) {
  std::uint64_t lease = places_[i].lease.load();
  while (lease > kept && !places_[i].lease.compare_exchange_weak(lease, kept)) {
  }
  if (lease <= kept) return;
  leased.fetch_sub(lease - kept);
  returns.fetch_add(1);
  sys::futex_wake_shared(&returns, INT32_MAX);
}

void Block::free_place(unsigned i, std::uint64_t owner) {
  if (!owners_[i].compare_exchange_strong(owner, kBeingFreed)) return;
  drop_lease(i, 0);
  owners_[i].store(0);
}

unsigned Block::take_place(int process) {
  const auto pid = static_cast<std::uint64_t>(process);
  unsigned taken = kPlaces;
  // Before an exec, this process was another program; it may have been about to fork.
  for (unsigned i = 0; i < kPlaces; ++i) {
    const std::uint64_t seen = owner(i);
    if (seen == 0 || (seen & kPidMask) != pid || seen == kBeingFreed) continue;
    if (taken != kPlaces)
      free_place(i, seen);
    else if (try_take(i, seen, process))
      taken = i;
  }
  for (unsigned i = 0; i < kPlaces && taken == kPlaces; ++i)
    if (owner(i) == 0 && try_take(i, 0, process)) taken = i;
  for (unsigned i = 0; i < kPlaces && taken == kPlaces; ++i)
    if (const std::uint64_t seen = owner(i);
        seen != 0 && is_gone(pid_of(seen)) && try_take(i, seen, process))
      taken = i;
  if (taken == kPlaces)
    turned_away.fetch_add(1, std::memory_order_relaxed);
  else
    settle_in(taken);
  return taken;
}

unsigned Block::reserve_place(int parent) {
  for (unsigned i = 0; i < kPlaces; ++i)
    if (owner(i) == 0 && try_take(i, 0, parent)) return i;
  return kPlaces;
}

void Block::hand_over(unsigned i, std::uint64_t reserved, int child) {
  const std::uint64_t word = (reserved & ~kPidMask) | static_cast<std::uint64_t>(child);
  owners_[i].compare_exchange_strong(reserved, word);
}

void Block::settle_in(unsigned i) {
  places_[i].taken_at.store(boottime_ns(), std::memory_order_relaxed);
  // Before it looks at the run's budget.
  places_[i].ready.store(owner(i), std::memory_order_seq_cst);
}

std::uint32_t post(Place& place, Op op, std::uint64_t argument) {
  place.op.store(static_cast<std::uint32_t>(op), std::memory_order_relaxed);
  place.argument.store(argument, std::memory_order_relaxed);
  const std::uint32_t request = place.request.load(std::memory_order_relaxed) + 1;
  place.request.store(request, std::memory_order_release);
  ring(place);
  return request;
}

bool wait_for_answer(Place& place, std::uint32_t request, std::uint64_t timeout_ns) {
  const std::uint32_t seen = place.answered.load(std::memory_order_acquire);
  if (seen == request) return true;
  sys::futex_wait_shared(&place.answered, seen, timeout_ns);
  return place.answered.load(std::memory_order_acquire) == request;
}

bool has_request(const Place& place, std::uint32_t* request) {
  *request = place.request.load(std::memory_order_acquire);
  return *request != place.answered.load(std::memory_order_relaxed);
}

void wait_for_work(Place& place) {
  for (;;) {
    const std::uint32_t seen = place.bell.load(std::memory_order_acquire);
    std::uint32_t request = 0;
    if (has_request(place, &request) || place.lease_wanted.load() != 0) return;
    sys::futex_wait_shared(&place.bell, seen);
  }
}

void ring(Place& place) {
  place.bell.fetch_add(1, std::memory_order_release);
  sys::futex_wake_shared(&place.bell, 1);
}

void answer(Place& place, std::uint32_t request, int error, std::uint64_t result) {
  place.error.store(error, std::memory_order_relaxed);
  place.result.store(result, std::memory_order_relaxed);
  place.answered.store(request, std::memory_order_release);
  sys::futex_wake_shared(&place.answered, INT32_MAX);
}

void LayoutOf::add(std::string_view name) {
  for (std::size_t i = 0; i <= name.size(); ++i) {  // with an end: names do not run together
    hash_ ^= i < name.size() ? static_cast<unsigned char>(name[i]) : 0U;
    hash_ *= 0x100000001b3U;
  }
}

}  // namespace buoy::control
