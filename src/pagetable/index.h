// AddressIndex: address -> leaf in two loads, without a lock.
//
//   47-bit address:  [ root 13 bits | table 13 bits | within the block 21 bits ]
//   root_[8192] -> Table of 8192 leaf pointers (64 KiB, covers 16 GiB)
//
// Tables are made on demand and stay for the index's life. A reader gets a leaf that was right at
// some moment; it locks the leaf and checks that the block is still the leaf's.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "base/units.h"
#include "pagetable/leaf.h"

namespace buoy {

class AddressIndex {
 public:
  AddressIndex() = default;
  ~AddressIndex() { destroy(); }
  AddressIndex(const AddressIndex&) = delete;
  AddressIndex& operator=(const AddressIndex&) = delete;

  [[nodiscard]] Status create();
  void destroy();

  // Null if there is none. Async-signal-safe, lock-free.
  [[nodiscard]] Leaf* find(Vpn vpn) const {
    const std::uint64_t block = vpn.block();
    if (block >= kBlocks) return nullptr;
    const Table* table = root_[block / kTableSize].load(std::memory_order_acquire);
    if (table == nullptr) return nullptr;
    return table->leaves[block % kTableSize].load(std::memory_order_acquire);
  }
  // The first block in [block, end) that has a leaf; `end` if none has. Where nothing was ever touched
  // it steps by tables.
  [[nodiscard]] std::uint64_t first_with_leaf(std::uint64_t block, std::uint64_t end) const;
  // Makes the table that covers the block. ENOMEM.
  [[nodiscard]] Status prepare(std::uint64_t block);
  // The table must have been prepared. Null withdraws the leaf.
  void put(std::uint64_t block, Leaf* leaf);
  [[nodiscard]] ByteSize touched_bytes() const {
    return (tables_.load(std::memory_order_relaxed) + 1) * sizeof(Table);
  }

 private:
  static constexpr std::uint64_t kTableSize = 8192;
  static constexpr std::uint64_t kRootSize = 8192;
  static constexpr std::uint64_t kBlocks = kTableSize * kRootSize;
  struct Table {
    std::atomic<Leaf*> leaves[kTableSize];
  };
  std::atomic<Table*>* root_ = nullptr;
  std::atomic<std::uint32_t> tables_{0};
};

}  // namespace buoy
