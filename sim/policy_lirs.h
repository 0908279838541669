// LIRS (Jiang and Zhang, "LIRS: An Efficient Low Inter-reference Recency Set Replacement Policy",
// SIGMETRICS 2002). Pages whose last two accesses lie close together (LIR) hold all of the room but a
// hundredth; the others (HIR) pass through that.
//
//   stack S   by recency: all LIR pages, and the HIR pages, resident or not, that are more recent
//             than the least recent LIR page, which is its bottom
//   queue Q   the resident HIR pages, which leave first in first out
//
// The length of S is not limited.
#pragma once

#include "page_list.h"
#include "policy.h"

namespace buoy::sim {

class Lirs final : public Policy {
 public:
  Lirs(Page pages, std::size_t capacity);
  Lookup access(Page page) override;
  void forget(Page page) override;
  [[nodiscard]] std::size_t resident() const override { return lir_pages_ + queue_.size(); }
  // For tests.
  [[nodiscard]] std::size_t lir_pages() const { return lir_pages_; }

 private:
  struct Status {
    bool is_lir = false;
    bool is_on_stack = false;
    bool is_queued = false;  // a resident HIR page
  };
  void put_on_top(Page page);
  void take_off_stack(Page page);
  void enqueue(Page page);
  void dequeue(Page page);
  void make_lir(Page page);
  // The LIR page at the bottom becomes HIR; then the bottom is LIR again.
  void demote_bottom();
  void prune();

  std::size_t capacity_;
  std::size_t most_lir_;
  std::size_t lir_pages_ = 0;
  PageLinks stack_links_, queue_links_;
  PageList stack_{stack_links_}, queue_{queue_links_};
  std::vector<Status> status_;
};

}  // namespace buoy::sim
