#include "base/list.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <deque>
#include <vector>

namespace buoy {
namespace {

struct Item {
  int name = 0;
  ListNode node;
};
using Items = List<Item, &Item::node>;

std::vector<int> names(Items& list) {
  std::vector<int> found;
  for (Item* item = list.front(); item != nullptr; item = list.next(*item))
    found.push_back(item->name);
  return found;
}

RC_GTEST_PROP(List, BehavesAsADeque, ()) {
  std::vector<Item> items(16);
  for (int i = 0; i < 16; ++i) items[static_cast<std::size_t>(i)].name = i;
  Items list;
  std::deque<int> reference;
  const auto steps = *rc::gen::container<std::vector<std::pair<int, int>>>(
      rc::gen::pair(rc::gen::inRange(0, 5), rc::gen::inRange(0, 16)));
  for (const auto& [step, which] : steps) {
    Item& item = items[static_cast<std::size_t>(which)];
    const auto at = std::ranges::find(reference, which);
    RC_ASSERT(item.node.is_linked() == (at != reference.end()));
    switch (step) {
      case 0:
        if (at != reference.end()) break;
        list.push_back(item);
        reference.push_back(which);
        break;
      case 1:
        if (at != reference.end()) break;
        list.push_front(item);
        reference.push_front(which);
        break;
      case 2:
        if (at == reference.end()) break;
        list.remove(item);
        reference.erase(at);
        break;
      case 3:
        RC_ASSERT((list.pop_front() == nullptr) == reference.empty());
        if (!reference.empty()) reference.pop_front();
        break;
      default:
        RC_ASSERT((list.pop_back() == nullptr) == reference.empty());
        if (!reference.empty()) reference.pop_back();
    }
    RC_ASSERT(list.size() == reference.size());
    RC_ASSERT(list.is_empty() == reference.empty());
    RC_ASSERT(std::ranges::equal(names(list), reference));
  }
  while (list.pop_back() != nullptr) {
  }
}

}  // namespace
}  // namespace buoy
