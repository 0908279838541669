// PageList: pages in an order, for the reference policies. Links are arrays that pages index, so
// that an access costs no allocation; several lists share one PageLinks as long as a page is on
// one of them at a time.
#pragma once

#include <cstddef>
#include <vector>

#include "trace.h"

namespace buoy::sim {

class PageLinks {
 public:
  explicit PageLinks(Page pages) : newer(pages, kNoPage), older(pages, kNoPage) {}
  std::vector<Page> newer;
  std::vector<Page> older;
};

class PageList {
 public:
  explicit PageList(PageLinks& links) : links_(links) {}

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool is_empty() const { return size_ == 0; }
  [[nodiscard]] Page oldest() const { return oldest_; }
  [[nodiscard]] Page newer_than(Page p) const { return links_.newer[p]; }

  void push_newest(Page p) {
    links_.older[p] = newest_;
    links_.newer[p] = kNoPage;
    (newest_ == kNoPage ? oldest_ : links_.newer[newest_]) = p;
    newest_ = p;
    ++size_;
  }
  void remove(Page p) {
    const Page newer = links_.newer[p];
    const Page older = links_.older[p];
    (newer == kNoPage ? newest_ : links_.older[newer]) = older;
    (older == kNoPage ? oldest_ : links_.newer[older]) = newer;
    --size_;
  }
  void make_newest(Page p) {
    remove(p);
    push_newest(p);
  }
  // The list is not empty.
  Page pop_oldest() {
    const Page p = oldest_;
    remove(p);
    return p;
  }

 private:
  PageLinks& links_;
  Page newest_ = kNoPage;
  Page oldest_ = kNoPage;
  std::size_t size_ = 0;
};

}  // namespace buoy::sim
