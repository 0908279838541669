// ARC (Megiddo and Modha, "ARC: A Self-Tuning, Low Overhead Replacement Cache", FAST 2003), as in
// its figure 4. T1: accessed once lately, T2: more than once; B1 and B2: the same, gone lately. A hit
// in a ghost list moves the target size of T1.
#pragma once

#include "page_list.h"
#include "policy.h"

namespace buoy::sim {

class Arc final : public Policy {
 public:
  Arc(Page pages, std::size_t capacity);
  Lookup access(Page page) override;
  void forget(Page page) override;
  [[nodiscard]] std::size_t resident() const override { return t1_.size() + t2_.size(); }

  // For tests: sizes of the lists, and T1's target.
  struct Sizes {
    std::size_t t1, t2, b1, b2;
    double target;
  };
  [[nodiscard]] Sizes sizes() const {
    return {t1_.size(), t2_.size(), b1_.size(), b2_.size(), target_};
  }

 private:
  enum class Place : std::uint8_t { kNowhere, kT1, kT2, kB1, kB2 };
  [[nodiscard]] PageList& list(Place place);
  void move(Page page, Place to);
  void drop(Page page);
  // Makes room for one page, if there is none: the oldest of T1 or T2 becomes a ghost.
  void replace(bool wanted_is_in_b2);
  void make_room_for_new();

  std::size_t capacity_;
  PageLinks links_;
  PageList t1_{links_}, t2_{links_}, b1_{links_}, b2_{links_};
  std::vector<Place> place_;
  double target_ = 0;  // p: how many pages T1 should have
};

}  // namespace buoy::sim
