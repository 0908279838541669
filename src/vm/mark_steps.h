// MarkSteps: for tests. A hook that runs between any two steps of a change of marks that others could
// see, so that a test decides who goes next. Null in the product.
#pragma once

#include <cstdint>

namespace buoy {

class MarkSteps {
 public:
  enum class Step : std::uint8_t { kNext, kWaiting };
  using Hook = void (*)(void* context, Step step);

  void set(Hook hook, void* context) {
    hook_ = hook;
    context_ = context;
  }
  // With a hook, waiting is steps.
  [[nodiscard]] bool is_hooked() const { return hook_ != nullptr; }
  void operator()(Step step = Step::kNext) const {
    if (hook_ != nullptr) hook_(context_, step);
  }

 private:
  Hook hook_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace buoy
