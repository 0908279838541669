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

unsigned Block::take_place(int process) {
  const auto pid = static_cast<std::uint64_t>(process);
  const auto try_take = [&](unsigned i, std::uint64_t from) {
    Place& mine = places_[i];
    // How often it was taken is told by its last owner, who need not be there any more.
    const std::uint64_t last = mine.ready.load(std::memory_order_relaxed);
    const std::uint64_t word = ((((last >> 32) + 1) << 32) & ~kPidMask) | pid;
    if (!owners_[i].compare_exchange_strong(from, word)) return false;
    mine.taken_at.store(boottime_ns(), std::memory_order_relaxed);
    mine.answered.store(mine.request.load(std::memory_order_relaxed), std::memory_order_relaxed);
    mine.ready.store(word, std::memory_order_seq_cst);  // before it looks at the run's budget
    return true;
  };
  // Before an exec, this process was another program.
  for (unsigned i = 0; i < kPlaces; ++i)
    if (const std::uint64_t seen = owner(i); seen != 0 && (seen & kPidMask) == pid)
      if (try_take(i, seen)) return i;
  for (unsigned i = 0; i < kPlaces; ++i)
    if (owner(i) == 0 && try_take(i, 0)) return i;
  for (unsigned i = 0; i < kPlaces; ++i)
    if (const std::uint64_t seen = owner(i); is_gone(pid_of(seen)) && try_take(i, seen)) return i;
  turned_away.fetch_add(1, std::memory_order_relaxed);
  return kPlaces;
}

std::uint32_t post(Place& place, Op op, std::uint64_t argument) {
  place.op.store(static_cast<std::uint32_t>(op), std::memory_order_relaxed);
  place.argument.store(argument, std::memory_order_relaxed);
  const std::uint32_t request = place.request.load(std::memory_order_relaxed) + 1;
  place.request.store(request, std::memory_order_release);
  sys::futex_wake_shared(&place.request, 1);
  return request;
}

bool wait_for_answer(Place& place, std::uint32_t request, std::uint64_t timeout_ns) {
  const std::uint32_t seen = place.answered.load(std::memory_order_acquire);
  if (seen == request) return true;
  sys::futex_wait_shared(&place.answered, seen, timeout_ns);
  return place.answered.load(std::memory_order_acquire) == request;
}

std::uint32_t wait_for_request(Place& place) {
  for (;;) {
    const std::uint32_t request = place.request.load(std::memory_order_acquire);
    if (request != place.answered.load(std::memory_order_relaxed)) return request;
    sys::futex_wait_shared(&place.request, request);
  }
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
