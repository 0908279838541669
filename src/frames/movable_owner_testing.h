// MovableOwner: an owner of movable pages for tests. It has a table from key to page, as a driver
// has, stamps what it owns, and misbehaves as the test says, in every way the contract permits.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "frames/arena.h"

namespace buoy::frames {

// An owner with a table from key to page, as a driver has; what it answers is up to the test.
class MovableOwner final : public MovableOps {
 public:
  MovableOwner(Arena& arena, Callers callers) : arena_(arena) {
    id_ = *arena.owners().add(*this, callers);
  }
  ~MovableOwner() {
    for (const auto& [key, head] : pages_) arena_.release(head);
    arena_.owners().remove(id_);
  }
  MovableOwner(const MovableOwner&) = delete;
  MovableOwner& operator=(const MovableOwner&) = delete;

  // A new movable page, stamped with its key.
  Pfn add(std::uint64_t key, unsigned order = 0) {
    const Pfn head = arena_.try_allocate(
        {Order(order), MigrateType::kMovable, FrameOwner::kDriver, Charge::kReclaim});
    if (head.is_none()) return head;
    stamp(head, key);
    arena_.page(head).owner_word.store(key);
    pages_[key] = head;
    EXPECT_TRUE(arena_.try_set_movable(head, id_));
    return head;
  }
  void free(std::uint64_t key) {
    arena_.release(pages_.at(key));
    pages_.erase(key);
  }
  [[nodiscard]] Pfn at(std::uint64_t key) const { return pages_.at(key); }
  [[nodiscard]] bool is_intact() const {
    for (const auto& [key, head] : pages_)
      if (!holds(head, key)) return false;
    return true;
  }
  [[nodiscard]] std::uint64_t frames() const {
    std::uint64_t n = 0;
    for (const auto& [key, head] : pages_) n += arena_.page(head).load().order().pages().value();
    return n;
  }
  [[nodiscard]] OwnerId id() const { return id_; }
  [[nodiscard]] std::map<std::uint64_t, Pfn>& pages() { return pages_; }

  bool isolate(Pfn page, MigrateMode) override {
    ++isolates;
    EXPECT_TRUE(arena_.page(page).load().has(PageFlag::kMovable));
    return !keeps;
  }
  MigrateOutcome migrate(Pfn from, Pfn to, MigrateMode) override {
    ++migrates;
    if (agains > 0) {
      --agains;
      return MigrateOutcome::kAgain;
    }
    if (fails) return MigrateOutcome::kFailed;
    const std::uint64_t key = arena_.page(to).owner_word.load();
    EXPECT_EQ(pages_.at(key), from);
    std::memcpy(arena_.pointer(to), arena_.pointer(from),
                arena_.page(from).load().order().pages().bytes());
    pages_[key] = to;
    return MigrateOutcome::kDone;
  }
  void put_back(Pfn) override { ++put_backs; }

  bool keeps = false;
  bool fails = false;
  unsigned agains = 0;
  unsigned isolates = 0;
  unsigned migrates = 0;
  unsigned put_backs = 0;

 private:
  void stamp(Pfn head, std::uint64_t key) {
    const std::uint64_t frames = arena_.page(head).load().order().pages().value();
    for (std::uint64_t f = 0; f < frames; ++f) {
      const std::uint64_t value = key << 16 | f;
      std::memcpy(arena_.pointer(head + PageCount(f)), &value, sizeof value);
      std::memcpy(arena_.pointer(head + PageCount(f)) + kPageSize - 8, &value, sizeof value);
    }
  }
  [[nodiscard]] bool holds(Pfn head, std::uint64_t key) const {
    const std::uint64_t frames = arena_.page(head).load().order().pages().value();
    for (std::uint64_t f = 0; f < frames; ++f) {
      std::uint64_t first = 0;
      std::uint64_t last = 0;
      std::memcpy(&first, arena_.pointer(head + PageCount(f)), 8);
      std::memcpy(&last, arena_.pointer(head + PageCount(f)) + kPageSize - 8, 8);
      if (first != (key << 16 | f) || last != first) return false;
    }
    return true;
  }

  Arena& arena_;
  OwnerId id_ = 0;
  std::map<std::uint64_t, Pfn> pages_;
};

}  // namespace buoy::frames
