// Treap against std::map, with and without sums over subtrees.
#include "base/treap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace buoy {
namespace {

struct Plain {
  Vpn page;
  std::uint32_t left = 0;
  std::uint32_t right = 0;
  [[nodiscard]] Vpn first_page() const { return page; }
};

// Knows the greatest value below it.
struct Summing {
  Vpn page;
  std::uint32_t left = 0;
  std::uint32_t right = 0;
  unsigned value = 0;
  unsigned greatest = 0;
  [[nodiscard]] Vpn first_page() const { return page; }
  void sum_up(const Summing* below, const Summing* above) {
    greatest = value;
    for (const Summing* child : {below, above})
      if (child != nullptr) greatest = std::max(greatest, child->greatest);
  }
};

template <typename Node>
class TreapTest : public testing::Test {
 protected:
  TreapTest() { EXPECT_TRUE(nodes_.create(4096).ok()); }
  std::uint32_t add(std::uint64_t page) {
    const std::uint32_t i = nodes_.try_allocate();
    nodes_.at(i).page = Vpn(page);
    treap_.insert(i);
    model_[page] = i;
    return i;
  }
  void remove(std::uint64_t page) {
    treap_.erase(model_[page]);
    nodes_.release(model_[page]);
    model_.erase(page);
  }
  void expect_agreement() {
    auto next = model_.begin();
    treap_.validate([&](const Node& n) {
      ASSERT_NE(next, model_.end());
      EXPECT_EQ(n.first_page(), Vpn(next->first));
      ++next;
    });
    EXPECT_EQ(next, model_.end());
  }
  Slab<Node> nodes_;
  Treap<Node> treap_{nodes_};
  std::map<std::uint64_t, std::uint32_t> model_;
};

using Both = testing::Types<Plain, Summing>;
TYPED_TEST_SUITE(TreapTest, Both);

TYPED_TEST(TreapTest, AgreesWithAMap) {
  std::mt19937_64 random(1);
  for (int step = 0; step < 4000; ++step) {
    const std::uint64_t page = random() % 300;
    if (this->model_.contains(page))
      this->remove(page);
    else
      this->add(page);
    const std::uint64_t from = random() % 300;
    const auto above = this->model_.lower_bound(from);
    EXPECT_EQ(this->treap_.first([&](const TypeParam& n) { return n.page >= Vpn(from); }),
              above == this->model_.end() ? 0 : above->second);
    EXPECT_EQ(this->treap_.last([&](const TypeParam& n) { return n.page < Vpn(from); }),
              above == this->model_.begin() ? 0 : std::prev(above)->second);
    if (step % 50 == 0) this->expect_agreement();
  }
  this->expect_agreement();
}

// In rising order, as an allocator of address space meets them: priorities must not rise along.
TYPED_TEST(TreapTest, StaysShallowWhateverTheOrder) {
  for (std::uint64_t page = 0; page < 4096; ++page) this->add(page);
  unsigned depth = 0;
  const auto measure = [&](const auto& self, std::uint32_t i, unsigned at) -> void {
    if (i == 0) return;
    depth = std::max(depth, at);
    self(self, this->nodes_.at(i).left, at + 1);
    self(self, this->nodes_.at(i).right, at + 1);
  };
  measure(measure, this->treap_.root(), 1);
  EXPECT_LT(depth, 48U);
  this->expect_agreement();
}

using SummingTreap = TreapTest<Summing>;

TEST_F(SummingTreap, EveryNodeKnowsTheGreatestBelowIt) {
  std::mt19937_64 random(2);
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t page = random() % 200;
    if (model_.contains(page)) {
      remove(page);
    } else {
      const std::uint32_t i = nodes_.try_allocate();
      nodes_.at(i) = {Vpn(page), 0, 0, static_cast<unsigned>(random() % 1000)};
      treap_.insert(i);
      model_[page] = i;
    }
    treap_.validate([&](const Summing& n) {
      Summing anew = n;
      anew.sum_up(n.left == 0 ? nullptr : &nodes_.at(n.left),
                  n.right == 0 ? nullptr : &nodes_.at(n.right));
      ASSERT_EQ(n.greatest, anew.greatest);
    });
  }
}

}  // namespace
}  // namespace buoy
