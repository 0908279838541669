// Memory: the program's managed memory, as a system call needs it.
//
// Whatever is asked about memory that is not managed is answered as if all were well: it is the
// kernel's. Calls of this file may be made where the program's system calls are made: in a signal
// handler of the program, with its locks held, on its stack.
#pragma once

#include <cstddef>
#include <cstdint>

#include "mmu/managed_bounds.h"
#include "vm/vm.h"

namespace buoy::gate {

// Bytes from an address on. What reaches beyond user memory is cut: the kernel says EFAULT to it.
struct Bytes {
  std::uintptr_t address = 0;
  std::size_t length = 0;
  [[nodiscard]] Bytes first(std::size_t most) const {
    return {address, length < most ? length : most};
  }
  [[nodiscard]] Bytes after(std::size_t skipped) const {
    return skipped >= length ? Bytes{} : Bytes{address + skipped, length - skipped};
  }
  // No bytes at a null pointer, whatever its length is said to be.
  [[nodiscard]] Bytes unless_null() const { return {address, address == 0 ? 0 : length}; }
  [[nodiscard]] std::byte* pointer() const {
    return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
  }
};

// Whether pages could be had.
enum class Had : std::uint8_t {
  kAll,        // all were there
  kBroughtIn,  // all are there now
  kNot,        // some may not be touched so, or are lost: let the kernel say so
  kFull,       // the budget and every tier are full
};

class Memory {
 public:
  explicit Memory(Vm& vm) : vm_(vm) {}

  // Does any of it lie in a managed region?
  [[nodiscard]] bool is_managed(Bytes b) const {
    if (b.length == 0) return false;
    const std::uintptr_t last = b.address + b.length - 1;
    if (last < b.address) return is_managed_at(b.address);
    return is_managed_at(b.address) || is_managed_at(last);
  }
  [[nodiscard]] bool is_managed_at(std::uintptr_t address) const {
    return mmu::managed_bounds.may_hold(address) && vm_.holds(Vpn::of_address(address));
  }
  // Of the page around an address that is managed. Quick.
  [[nodiscard]] bool is_page_ready(std::uintptr_t address, PinFor purpose) const {
    return vm_.is_ready(Vpn::of_address(address), purpose);
  }
  // Is every page there that is managed?
  [[nodiscard]] bool is_ready(Bytes b, PinFor purpose) const;
  // May the program touch it so, as far as it is managed?
  [[nodiscard]] bool is_permitted(Bytes b, PinFor purpose) const;
  // The same of what is all managed, as a resident page may be closed: to us, too. Quick.
  [[nodiscard]] bool may_touch(Bytes b, PinFor purpose) const {
    const Vpn first = Vpn::of_address(b.address);
    const PageCount pages = Vpn::of_address(b.address + b.length - 1) - first + PageCount(1);
    return vm_.permitted_prefix({first, pages}, purpose) == pages;
  }
  [[nodiscard]] bool may_store(Bytes b) const { return may_touch(b, PinFor::kWriting); }
  // For what may be longer than the call's real operand: as much of it, from its start, as may be
  // stored to; if none may, as much as may be read, and `purpose` says so.
  [[nodiscard]] Bytes touchable(Bytes b, PinFor* purpose) const;
  // Makes the pages ready, in order, up to the first that cannot be had.
  Had bring_in(Bytes b, PinFor purpose);
  // The same, and they stay. kFull: the budget cannot hold them.
  Had pin(Bytes b, PinFor purpose);
  void unpin(Bytes b, PinFor purpose);

  // See Vm::expect_pins().
  void expect_pins() { vm_.expect_pins(); }
  void count(Event event, std::uint64_t n = 1) { vm_.context().counters.add(event, n); }

 private:
  [[nodiscard]] Bytes permitted(Bytes b, PinFor purpose) const;

  Vm& vm_;
};

}  // namespace buoy::gate
