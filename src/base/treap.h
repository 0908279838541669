// Treap<Node>: objects of a Slab, in the order of their first pages (Seidel and Aragon, "Randomized
// Search Trees", 1996).
//
// A node has `std::uint32_t left, right`, which are the treap's while the node is in it, and
// `Vpn first_page() const`, which differs from every other's. A node that knows something of the
// whole subtree below it has `void sum_up(const Node* left, const Node* right)` besides, which is
// called when that may have changed. A node's priority is its index, mixed, so that it need not be
// kept. Index 0 is none.
//
// O(log n) each, iterative: usable on a signal stack. Not thread-safe; a plain memory copy of it (a
// fork) is whole. Why not Boost.Intrusive: docs/dependencies.md.
#pragma once

#include <array>
#include <cstdint>

#include "base/check.h"
#include "base/slab.h"
#include "base/units.h"

namespace buoy {

template <typename Node>
class Treap {
 public:
  using Index = std::uint32_t;

  explicit Treap(const Slab<Node>& nodes) : nodes_(nodes) {}

  [[nodiscard]] Index root() const { return root_; }
  // The first node that `test(node)` holds for, and the last; 0: none. It must hold from some node on,
  // or up to one.
  template <typename Test>
  [[nodiscard]] Index first(Test test) const {
    Index found = 0;
    for (Index i = root_; i != 0;) {
      const bool holds = test(at(i));
      if (holds) found = i;
      i = holds ? at(i).left : at(i).right;
    }
    return found;
  }
  template <typename Test>
  [[nodiscard]] Index last(Test test) const {
    Index found = 0;
    for (Index i = root_; i != 0;) {
      const bool holds = test(at(i));
      if (holds) found = i;
      i = holds ? at(i).right : at(i).left;
    }
    return found;
  }

  void insert(Index i) {
    Node& n = at(i);
    const Vpn key = n.first_page();
    Path path;
    Index* link = &root_;
    while (*link != 0 && weight(*link) >= weight(i)) link = descend(link, key, path);
    const Index below = *link;
    *link = i;
    path.push(i);
    split(below, key, &n.left, &n.right, path);
    sum_up(path);
  }
  // The node is in the treap, under the page that it has.
  void erase(Index i) {
    const Vpn key = at(i).first_page();
    Path path;
    Index* link = &root_;
    while (*link != i) {
      link = descend(link, key, path);
      BUOY_CHECK(*link != 0);
    }
    merge(at(i).left, at(i).right, link, path);
    sum_up(path);
  }

  // Aborts if the tree contradicts itself. Calls visit(node) for each node in order.
  template <typename Visit>
  void validate(Visit visit) const {
    validate_subtree(root_, visit);
  }

 private:
  static constexpr bool kSums = requires(Node & n, const Node* child) { n.sum_up(child, child); };

  // The nodes that a change went through, from the top: their sums are made anew from the bottom.
  class Path {
   public:
    void push(Index i) {
      if constexpr (kSums) {
        BUOY_CHECK(count_ < kMost);
        nodes_[count_++] = i;
      }
    }
    [[nodiscard]] bool is_empty() const { return count_ == 0; }
    [[nodiscard]] Index pop() { return nodes_[--count_]; }

   private:
    // Twice log2 n with the usual luck; this much never comes about.
    static constexpr unsigned kMost = kSums ? 256 : 1;
    std::array<Index, kMost> nodes_;
    unsigned count_ = 0;
  };

  [[nodiscard]] Node& at(Index i) const { return nodes_.at(i); }
  [[nodiscard]] const Node* child(Index i) const { return i == 0 ? nullptr : &at(i); }
  // The finalizer of MurmurHash3: neighbours in the slab must not be neighbours in weight.
  static std::uint32_t weight(Index i) {
    i = (i ^ i >> 16) * 0x85ebca6bU;
    i = (i ^ i >> 13) * 0xc2b2ae35U;
    return i ^ i >> 16;
  }
  [[nodiscard]] Index* descend(const Index* link, Vpn key, Path& path) const {
    path.push(*link);
    Node& n = at(*link);
    return key < n.first_page() ? &n.left : &n.right;
  }
  // The nodes of the tree before `key`, and the others.
  void split(Index tree, Vpn key, Index* below, Index* above, Path& path) const {
    while (tree != 0) {
      path.push(tree);
      Node& n = at(tree);
      if (n.first_page() < key) {
        *below = tree;
        below = &n.right;
        tree = n.right;
      } else {
        *above = tree;
        above = &n.left;
        tree = n.left;
      }
    }
    *below = *above = 0;
  }
  void merge(Index below, Index above, Index* link, Path& path) const {
    while (below != 0 && above != 0) {
      const bool below_is_root = weight(below) > weight(above);
      *link = below_is_root ? below : above;
      path.push(*link);
      link = below_is_root ? &at(below).right : &at(above).left;
      (below_is_root ? below : above) = *link;
    }
    *link = below != 0 ? below : above;
  }
  void sum_up(Path& path) const {
    if constexpr (kSums) {
      while (!path.is_empty()) {
        Node& n = at(path.pop());
        n.sum_up(child(n.left), child(n.right));
      }
    }
  }
  template <typename Visit>
  void validate_subtree(Index tree, Visit& visit) const {
    if (tree == 0) return;
    const Node& n = at(tree);
    for (const Index i : {n.left, n.right}) BUOY_CHECK(i == 0 || weight(i) <= weight(tree));
    validate_subtree(n.left, visit);
    visit(n);
    validate_subtree(n.right, visit);
  }

  const Slab<Node>& nodes_;
  Index root_ = 0;
};

}  // namespace buoy
