// S3-FIFO (Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP
// 2023), as in its algorithm 1. A new page enters a small queue, a tenth of the room; if it was
// accessed more than once by the time it leaves, it enters the main queue, else it becomes a ghost
// there are as many of as the main queue has pages. A ghost that is wanted enters the main queue, in
// which a page goes round as often as it was accessed, three times at most.
#pragma once

#include "page_list.h"
#include "policy.h"

namespace buoy::sim {

class S3Fifo final : public Policy {
 public:
  S3Fifo(Page pages, std::size_t capacity);
  Lookup access(Page page) override;
  void forget(Page page) override;
  [[nodiscard]] std::size_t resident() const override { return small_.size() + main_.size(); }
  // For tests.
  [[nodiscard]] std::size_t small_pages() const { return small_.size(); }
  [[nodiscard]] std::size_t ghosts() const { return ghost_.size(); }

 private:
  enum class Place : std::uint8_t { kNowhere, kSmall, kMain, kGhost };
  static constexpr std::uint8_t kMostCounted = 3;

  [[nodiscard]] PageList& list(Place place);
  void drop(Page page);
  void move(Page page, Place to);
  void evict();
  void evict_from_small();
  void evict_from_main();

  std::size_t capacity_;
  std::size_t most_small_;
  PageLinks links_;
  PageList small_{links_}, main_{links_}, ghost_{links_};
  std::vector<Place> place_;
  std::vector<std::uint8_t> accesses_;  // since it came, or went round
};

}  // namespace buoy::sim
