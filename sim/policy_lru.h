// LRU: the page that was not accessed for the longest goes.
#pragma once

#include "page_list.h"
#include "policy.h"

namespace buoy::sim {

class Lru final : public Policy {
 public:
  Lru(Page pages, std::size_t capacity) : capacity_(capacity), links_(pages), is_resident_(pages) {}

  Lookup access(Page page) override {
    if (is_resident_[page]) {
      list_.make_newest(page);
      return Lookup::kHit;
    }
    if (list_.size() == capacity_) is_resident_[list_.pop_oldest()] = false;
    list_.push_newest(page);
    is_resident_[page] = true;
    return Lookup::kMiss;
  }
  void forget(Page page) override {
    if (!is_resident_[page]) return;
    list_.remove(page);
    is_resident_[page] = false;
  }
  [[nodiscard]] std::size_t resident() const override { return list_.size(); }

 private:
  std::size_t capacity_;
  PageLinks links_;
  PageList list_{links_};
  std::vector<bool> is_resident_;
};

}  // namespace buoy::sim
