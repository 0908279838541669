// An intrusive doubly linked list. The element embeds a ListNode and is on one list at most.
// Not synchronised: the owner's lock guards it. O(1) for everything; never allocates.
#pragma once

#include <cstddef>

#include "base/check.h"

namespace buoy {

struct ListNode {
  ListNode* prev = nullptr;
  ListNode* next = nullptr;
  [[nodiscard]] bool is_linked() const { return next != nullptr; }
};

template <typename T, ListNode T::*kNode>
class List {
 public:
  List() { reset(); }
  List(const List&) = delete;
  List& operator=(const List&) = delete;

  [[nodiscard]] bool is_empty() const { return head_.next == &head_; }
  [[nodiscard]] std::size_t size() const { return size_; }

  void push_front(T& item) { link(head_.next, item); }
  void push_back(T& item) { link(&head_, item); }
  void remove(T& item) {
    ListNode& node = item.*kNode;
    BUOY_DCHECK(node.is_linked());
    node.prev->next = node.next;
    node.next->prev = node.prev;
    node.prev = node.next = nullptr;
    --size_;
  }
  [[nodiscard]] T* front() { return is_empty() ? nullptr : owner(head_.next); }
  [[nodiscard]] T* back() { return is_empty() ? nullptr : owner(head_.prev); }
  [[nodiscard]] T* next(T& item) {
    ListNode* n = (item.*kNode).next;
    return n == &head_ ? nullptr : owner(n);
  }
  [[nodiscard]] T* pop_front() {
    T* item = front();
    if (item != nullptr) remove(*item);
    return item;
  }
  [[nodiscard]] T* pop_back() {
    T* item = back();
    if (item != nullptr) remove(*item);
    return item;
  }

 private:
  void reset() {
    head_.prev = head_.next = &head_;
    size_ = 0;
  }
  void link(ListNode* before, T& item) {
    ListNode& node = item.*kNode;
    BUOY_DCHECK(!node.is_linked());
    node.prev = before->prev;
    node.next = before;
    before->prev->next = &node;
    before->prev = &node;
    ++size_;
  }
  static T* owner(ListNode* node) {
    const auto offset = reinterpret_cast<std::size_t>(&(static_cast<T*>(nullptr)->*kNode));
    return reinterpret_cast<T*>(reinterpret_cast<char*>(node) - offset);
  }

  ListNode head_;
  std::size_t size_ = 0;
};

}  // namespace buoy
