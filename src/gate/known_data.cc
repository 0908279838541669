#include "gate/known_data.h"

#include <atomic>

#include "base/units.h"

namespace buoy::gate::known_data {

namespace {

constexpr unsigned kMost = 256;
constexpr std::uintptr_t kFree = UINTPTR_MAX;
constexpr std::uintptr_t kTaken = UINTPTR_MAX - 1;  // being entered

// The end is written before the beginning: who reads the same beginning before and after the end has
// read two that belong together.
struct Slot {
  std::atomic<std::uintptr_t> begin{kFree};
  std::atomic<std::uintptr_t> end{0};
};
constinit Slot slots[kMost];
constinit std::atomic<unsigned> used{0};  // of the slots, from the first on

}  // namespace

void note(CodeRange data) {
  if (data.begin >= data.end) return;
  for (unsigned i = 0; i < kMost; ++i) {
    std::uintptr_t free = kFree;
    if (!slots[i].begin.compare_exchange_strong(free, kTaken)) continue;
    slots[i].end.store(data.end);
    slots[i].begin.store(data.begin);
    unsigned now = used.load();
    while (now <= i && !used.compare_exchange_weak(now, i + 1)) {
    }
    return;
  }
}

void forget(std::uintptr_t address, std::size_t length) {
  const std::uintptr_t begin = address & ~(kPageSize - 1);
  const std::uintptr_t end = length > UINTPTR_MAX - address ? UINTPTR_MAX : address + length;
  for (unsigned i = 0; i < used.load(); ++i) {
    std::uintptr_t first = slots[i].begin.load();
    // (Up to a page's end: what is protected is whole pages.)
    const std::uintptr_t last = (slots[i].end.load() + kPageSize - 1) & ~(kPageSize - 1);
    if (first < end && begin < last) slots[i].begin.compare_exchange_strong(first, kFree);
  }
}

bool holds(std::uintptr_t address, std::size_t length) {
  const unsigned count = used.load(std::memory_order_acquire);
  for (unsigned i = 0; i < count; ++i) {
    const std::uintptr_t begin = slots[i].begin.load(std::memory_order_acquire);
    if (address < begin) continue;
    const std::uintptr_t end = slots[i].end.load(std::memory_order_acquire);
    if (address < end && length <= end - address)
      return slots[i].begin.load(std::memory_order_acquire) == begin;
  }
  return false;
}

}  // namespace buoy::gate::known_data
