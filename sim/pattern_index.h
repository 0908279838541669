// IndexBuild: the pages that a database touches when it indexes a table, as sqlite3 does in memory.
//
// Rows are appended to the table: its pages are stored to one after the other, each with the one
// inner page above it. Then the table is read in order, and the key of each row, random, enters a
// B-tree: root, inner page, leaf (stored to). Full pages split, the new page is the next free one. A
// fifth of the pages is for the table.
#pragma once

#include <algorithm>
#include <map>
#include <vector>

#include "base/random.h"
#include "trace.h"

namespace buoy::sim {

class IndexBuild {
 public:
  struct Shape {
    Page pages;
    unsigned rows_per_page;
    unsigned entries_per_leaf;
  };
  IndexBuild(const Shape& shape, Random& random) : shape_(shape), random_(random) {}

  // Calls touch(page, is_store) -> bool for each access, until it answers false or no page is free.
  template <typename Touch>
  void run(Touch touch) {
    start();
    const Page table = shape_.pages / 5 + 1;
    for (Page page = 0; page < table; ++page) {
      const Page at = next_free_++;
      for (unsigned row = 0; row < shape_.rows_per_page; ++row)
        if (!touch(at, true)) return;
    }
    root_ = next_free_++;
    inners_.push_back({next_free_++, {}});
    add_leaf(0, 0);
    // Where there are more leaves to fill than the table has rows, it is read again.
    while (next_free_ + 2 < shape_.pages) {
      for (Page page = 0; page < table; ++page) {
        for (unsigned row = 0; row < shape_.rows_per_page; ++row) {
          if (!touch(page, false) || !insert(touch)) return;
        }
      }
    }
  }

 private:
  struct Leaf {
    Page page;
    unsigned entries;
    std::size_t inner;  // index into inners_
  };
  struct Inner {
    Page page;
    std::vector<double> leaves;  // their first keys
  };
  static constexpr std::size_t kMostChildren = 256;

  void start() {
    next_free_ = 0;
    inners_.clear();
    leaves_.clear();
  }
  void add_leaf(double first_key, std::size_t inner) {
    leaves_[first_key] = {next_free_++, 0, inner};
    inners_[inner].leaves.push_back(first_key);
  }

  template <typename Touch>
  bool insert(Touch& touch) {
    const double key = random_.unit();
    const auto at = std::prev(leaves_.upper_bound(key));
    Leaf& leaf = at->second;
    if (!touch(root_, false) || !touch(inners_[leaf.inner].page, false) || !touch(leaf.page, true))
      return false;
    if (++leaf.entries < shape_.entries_per_leaf) return true;
    return next_free_ + 2 < shape_.pages && split(at, touch);
  }

  // The upper half of the leaf's keys goes to a new page.
  template <typename Touch>
  bool split(std::map<double, Leaf>::iterator at, Touch& touch) {
    const auto behind = std::next(at);
    const double end = behind == leaves_.end() ? 1.0 : behind->first;
    const double middle = at->first + (end - at->first) / 2;
    const std::size_t inner = at->second.inner;
    at->second.entries /= 2;
    add_leaf(middle, inner);
    Leaf& added = leaves_[middle];
    added.entries = at->second.entries;
    if (!touch(added.page, true) || !touch(inners_[inner].page, true)) return false;
    if (inners_[inner].leaves.size() < kMostChildren) return true;
    return split_inner(inner, touch);
  }

  template <typename Touch>
  bool split_inner(std::size_t inner, Touch& touch) {
    std::vector<double>& leaves = inners_[inner].leaves;
    std::sort(leaves.begin(), leaves.end());
    const auto half = leaves.begin() + static_cast<std::ptrdiff_t>(leaves.size() / 2);
    const std::vector<double> moved(half, leaves.end());
    leaves.erase(half, leaves.end());
    inners_.push_back({next_free_++, moved});
    for (const double key : moved) leaves_[key].inner = inners_.size() - 1;
    return touch(inners_.back().page, true) && touch(root_, true);
  }

  Shape shape_;
  Random& random_;
  Page next_free_ = 0;
  Page root_ = 0;
  std::vector<Inner> inners_;
  std::map<double, Leaf> leaves_;  // by their first key
};

}  // namespace buoy::sim
