// Capabilities: what this kernel and these rights allow, and the remedy for what is missing.
// For `buoy info`, for the choice of a fault delivery, and for messages when nothing works.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "mmu/uffd_mmu.h"

namespace buoy::mmu {

struct Capability {
  std::string_view name;
  bool available = false;
  bool required = false;    // nothing works without it
  std::string_view remedy;  // what to do, or what is lost; empty where available
};

class Capabilities {
 public:
  // Asks the kernel now; takes well under a millisecond, changes nothing.
  [[nodiscard]] static Capabilities probe();

  [[nodiscard]] bool allows(Delivery delivery) const {
    return delivery == Delivery::kSignal ? signal_ : thread_;
  }
  // Pages that the kernel holds pinned are noticed: what unmodified programs need.
  [[nodiscard]] bool detects_pins() const { return move_; }
  // The first required line that is missing; null if there is none.
  [[nodiscard]] const Capability* missing() const;

  [[nodiscard]] const Capability* begin() const { return lines_; }
  [[nodiscard]] const Capability* end() const { return lines_ + size_; }

 private:
  static constexpr std::size_t kMaxLines = 16;
  void add(std::string_view name, bool available, bool required, std::string_view remedy);

  Capability lines_[kMaxLines];
  std::size_t size_ = 0;
  bool signal_ = false;
  bool thread_ = false;
  bool move_ = false;
};

}  // namespace buoy::mmu
