// CLOCK: the hand goes round the pages in the order of their arrival; a page that was referenced
// since it passed the last time is left for another round. A page arrives unreferenced: what is
// accessed once goes at the first look.
#pragma once

#include "page_list.h"
#include "policy.h"

namespace buoy::sim {

class Clock final : public Policy {
 public:
  Clock(Page pages, std::size_t capacity)
      : capacity_(capacity), links_(pages), state_(pages, State::kAbsent) {}

  Lookup access(Page page) override {
    if (state_[page] != State::kAbsent) {
      state_[page] = State::kReferenced;
      return Lookup::kHit;
    }
    if (list_.size() == capacity_) evict();
    list_.push_newest(page);
    state_[page] = State::kUnreferenced;
    return Lookup::kMiss;
  }
  void forget(Page page) override {
    if (state_[page] == State::kAbsent) return;
    list_.remove(page);
    state_[page] = State::kAbsent;
  }
  [[nodiscard]] std::size_t resident() const override { return list_.size(); }

 private:
  enum class State : std::uint8_t { kAbsent, kUnreferenced, kReferenced };

  // The oldest of the list is what the hand points at; behind the hand is the newest.
  void evict() {
    while (state_[list_.oldest()] == State::kReferenced) {
      state_[list_.oldest()] = State::kUnreferenced;
      list_.make_newest(list_.oldest());
    }
    state_[list_.pop_oldest()] = State::kAbsent;
  }

  std::size_t capacity_;
  PageLinks links_;
  PageList list_{links_};
  std::vector<State> state_;
};

}  // namespace buoy::sim
