#include "pagetable/index.h"

#include <sys/mman.h>

#include <cerrno>

#include "base/sys.h"

namespace buoy {

Status AddressIndex::create() {
  auto memory =
      sys::reserve(sizeof(std::atomic<Table*>) * kRootSize, kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  root_ = reinterpret_cast<std::atomic<Table*>*>(*memory);
  return {};
}

void AddressIndex::destroy() {
  if (root_ == nullptr) return;
  for (std::uint64_t i = 0; i < kRootSize; ++i) {
    Table* table = root_[i].load(std::memory_order_relaxed);
    if (table != nullptr) sys::unmap(table, sizeof(Table));
  }
  sys::unmap(root_, sizeof(std::atomic<Table*>) * kRootSize);
  root_ = nullptr;
}

std::uint64_t AddressIndex::first_with_leaf(std::uint64_t block, std::uint64_t end) const {
  const std::uint64_t last = end < kBlocks ? end : kBlocks;
  while (block < last) {
    const std::uint64_t table_end = (block / kTableSize + 1) * kTableSize;
    const std::uint64_t stop = table_end < last ? table_end : last;
    const Table* table = root_[block / kTableSize].load(std::memory_order_acquire);
    if (table == nullptr) {
      block = stop;
      continue;
    }
    for (; block < stop; ++block)
      if (table->leaves[block % kTableSize].load(std::memory_order_relaxed) != nullptr)
        return block;
  }
  return end;
}

Status AddressIndex::prepare(std::uint64_t block) {
  if (block >= kBlocks) return Error{EINVAL};
  std::atomic<Table*>& slot = root_[block / kTableSize];
  if (slot.load(std::memory_order_acquire) != nullptr) return {};
  auto memory = sys::reserve(sizeof(Table), kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  Table* expected = nullptr;
  if (slot.compare_exchange_strong(expected, reinterpret_cast<Table*>(*memory),
                                   std::memory_order_acq_rel))
    tables_.fetch_add(1, std::memory_order_relaxed);
  else
    sys::unmap(*memory, sizeof(Table));
  return {};
}

void AddressIndex::put(std::uint64_t block, Leaf* leaf) {
  Table* table = root_[block / kTableSize].load(std::memory_order_acquire);
  BUOY_DCHECK(table != nullptr);
  table->leaves[block % kTableSize].store(leaf, std::memory_order_release);
}

}  // namespace buoy
