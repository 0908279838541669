// VolatileMap against a model that keeps a record for each page, and in every interleaving of a
// purge with those who change the mark.
#include "vm/volatile_map.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

namespace buoy {
namespace {

constexpr Vpn kBase(0x10000);
constexpr unsigned kPages = 192;

struct PageModel {
  bool mapped = true;
  bool mlocked = false;
  RegionFlags flags = RegionFlags::kNone;
  bool is_volatile = false;
  bool spent = false;
  unsigned priority = 0;
  std::uint64_t mark = 0;  // number of the call that marked it
  bool purged = false;
};

class Model final : public VolatileMap::Ground {
 public:
  explicit Model(std::uint64_t seed) : random(seed) { EXPECT_TRUE(map.create().ok()); }

  Part part_at(PageRun run) override {
    unsigned n = 0;
    const RegionFlags flags = page(run.first).flags;
    for (Vpn v = run.first; v < run.end() && page(v).mapped && page(v).flags == flags; ++v) ++n;
    return {PageCount(n), flags};
  }
  bool has_mlocked(PageRun run) override {
    for (Vpn v = run.first; v < run.end(); ++v)
      if (page(v).mlocked) return true;
    return false;
  }

  PageModel& page(Vpn v) { return pages[(v - kBase).value()]; }
  unsigned pick(unsigned n) { return static_cast<unsigned>(random() % n); }
  PageRun some_run() {
    // Often the same few bounds, so that runs meet exactly.
    const unsigned grain = pick(3) == 0 ? 1 : 16;
    const unsigned first = pick(kPages / grain) * grain;
    const unsigned most = kPages - first;
    const unsigned n = std::min(most, (1 + pick(pick(4) == 0 ? 8 : 3)) * grain);
    return {kBase + PageCount(first), PageCount(n)};
  }

  void mark() {
    const PageRun run = some_run();
    const unsigned priority = pick(4);
    unsigned mapped = 0;
    while (mapped < run.count.value() && page(run.first + PageCount(mapped)).mapped) ++mapped;
    bool mlocked = false;
    for (unsigned i = 0; i < mapped; ++i)
      mlocked = mlocked || page(run.first + PageCount(i)).mlocked;
    const auto marked = map.mark(run, priority);
    if (mlocked) {
      ASSERT_EQ(marked.error, EINVAL);
      ASSERT_TRUE(marked.done.is_zero());
      return;
    }
    ASSERT_EQ(marked.done.value(), mapped);
    ASSERT_EQ(marked.error, mapped == run.count.value() ? 0 : ENOMEM);
    ++calls;
    unsigned newly = 0;
    for (unsigned i = 0; i < mapped; ++i) {
      PageModel& p = page(run.first + PageCount(i));
      if (!p.is_volatile) ++newly;
      p.is_volatile = true;
      p.spent = false;
      p.priority = priority;
      p.mark = calls;
    }
    ASSERT_EQ(marked.newly.value(), newly);
  }

  // As Vm::mark_nonvolatile does it.
  VolatileMap::Withdrawn withdraw(PageRun run, bool* lost) {
    VolatileMap::Withdrawn sum;
    *lost = false;
    for (;;) {
      const PageRun rest{run.first + sum.done, run.count - sum.done};
      if (rest.count.is_zero()) return sum;
      const auto step = map.withdraw(rest);
      sum.done += step.done;
      sum.newly += step.newly;
      sum.outcome = step.outcome;
      if (step.outcome != VolatileMap::Outcome::kPurged) return sum;
      const PageRun purged{rest.first + step.done, rest.count - step.done};
      VolatileMap::Clearing clearing = map.begin_clearing_exact(purged);
      if (clearing.run.count.is_zero()) {
        if (!map.lock().lock()) std::abort();
        const auto begun = map.begin_clearing(purged, &clearing);
        sum.done += begun.done;
        sum.newly += begun.newly;
        // Unless somebody else had it meanwhile.
        if (begun.outcome == VolatileMap::Outcome::kPurged) finish(clearing, &sum, lost);
        map.lock().unlock();
      } else {
        finish(clearing, &sum, lost);
      }
      sum.outcome = VolatileMap::Outcome::kDone;
    }
  }
  void finish(const VolatileMap::Clearing& clearing, VolatileMap::Withdrawn* sum, bool* lost) {
    for (Vpn v = clearing.run.first; v < clearing.run.end(); ++v) {
      *lost = *lost || page(v).purged;
      page(v).purged = false;
    }
    sum->done += clearing.run.count;
    sum->newly += map.finish_clearing(clearing);
  }

  void withdraw() {
    const PageRun run = some_run();
    bool expect_lost = false;
    unsigned mapped = 0;
    unsigned newly = 0;
    for (; mapped < run.count.value(); ++mapped) {
      const PageModel& p = page(run.first + PageCount(mapped));
      if (!p.mapped) break;
      expect_lost = expect_lost || p.purged;
      if (p.is_volatile) ++newly;
    }
    bool lost = false;
    const auto withdrawn = withdraw(run, &lost);
    ASSERT_EQ(withdrawn.done.value(), mapped);
    ASSERT_EQ(withdrawn.newly.value(), newly);
    ASSERT_EQ(withdrawn.outcome, mapped == run.count.value() ? VolatileMap::Outcome::kDone
                                                             : VolatileMap::Outcome::kHole);
    ASSERT_EQ(lost, expect_lost);
    for (unsigned i = 0; i < mapped; ++i) {
      PageModel& p = page(run.first + PageCount(i));
      ASSERT_FALSE(p.purged);
      p.is_volatile = p.spent = false;
    }
  }

  void purge() {
    const PurgeEffort effort = pick(8) == 0 ? PurgeEffort::kHard : PurgeEffort::kGentle;
    const auto eligible = [effort](const PageModel& p) {
      return p.is_volatile && (effort == PurgeEffort::kHard ||
                               (!p.spent && !has(p.flags, RegionFlags::kVolatileMayCompress)));
    };
    std::optional<std::pair<unsigned, std::uint64_t>> first;
    for (const PageModel& p : pages)
      if (eligible(p) && (!first || std::pair(p.priority, p.mark) < *first))
        first = std::pair(p.priority, p.mark);
    const auto claim = map.claim(effort);
    ASSERT_EQ(static_cast<bool>(claim), first.has_value());
    if (!claim) return;
    ASSERT_FALSE(map.is_awaited(claim));
    for (Vpn v = claim.run.first; v < claim.run.end(); ++v) {
      const PageModel& p = page(v);
      ASSERT_TRUE(eligible(p));
      // A hard purge goes once through all of them before it comes back to those it has emptied.
      if (effort == PurgeEffort::kGentle) {
        ASSERT_EQ(std::pair(p.priority, p.mark), *first);
      }
    }
    const Vpn reached = pick(3) == 0
                            ? claim.resume + PageCount(pick(static_cast<unsigned>(
                                                 (claim.run.end() - claim.resume).value() + 1)))
                            : claim.run.end();
    auto lost = VolatileMap::Lost::kNothing;
    for (Vpn v = claim.resume; v < reached; ++v) {
      if (pick(4) == 0) continue;  // pinned
      page(v).purged = true;
      lost = VolatileMap::Lost::kPages;
    }
    map.finish(claim, lost, reached);
    if (reached == claim.run.end())
      for (Vpn v = claim.run.first; v < claim.run.end(); ++v) page(v).spent = true;
  }

  void unmap_or_map() {
    const PageRun run = some_run();
    const bool unmap = pick(2) == 0;
    const RegionFlags flags = pick(3) == 0 ? RegionFlags::kVolatileMayCompress : RegionFlags::kNone;
    for (Vpn v = run.first; v < run.end(); ++v) {
      if (unmap) {
        page(v) = PageModel();
        page(v).mapped = false;
      } else if (!page(v).mapped) {
        page(v) = PageModel();
        page(v).flags = flags;
      }
    }
    if (!unmap) return;
    if (!map.lock().lock()) std::abort();
    ASSERT_TRUE(map.prepare().ok());
    map.forget(run);
    map.lock().unlock();
  }

  void relocate() {
    const unsigned n = 1 + pick(24);
    const Vpn from = kBase + PageCount(pick(kPages - n));
    const Vpn to = kBase + PageCount(pick(kPages - n));
    if (from < to + PageCount(n) && to < from + PageCount(n)) return;
    for (unsigned i = 0; i < n; ++i)
      if (page(to + PageCount(i)).is_volatile || page(from + PageCount(i)).mlocked ||
          !page(to + PageCount(i)).mapped || !page(from + PageCount(i)).mapped ||
          page(to + PageCount(i)).flags != page(from + PageCount(i)).flags)
        return;
    if (!map.lock().lock()) std::abort();
    ASSERT_TRUE(map.prepare().ok());
    map.forget({to, PageCount(n)});
    ASSERT_TRUE(map.prepare().ok());
    map.relocate({from, PageCount(n)}, to);
    map.lock().unlock();
    for (unsigned i = 0; i < n; ++i) {
      page(to + PageCount(i)) = page(from + PageCount(i));
      const RegionFlags flags = page(from + PageCount(i)).flags;
      page(from + PageCount(i)) = PageModel();
      page(from + PageCount(i)).flags = flags;
    }
  }

  void toggle_mlock() {
    // Vm::lock() refuses volatile pages and forgets withdrawn extents.
    const Vpn v = kBase + PageCount(pick(kPages));
    if (page(v).is_volatile || !page(v).mapped) return;
    if (!page(v).mlocked) {
      if (!map.lock().lock()) std::abort();
      ASSERT_TRUE(map.prepare().ok());
      map.forget({v, PageCount(1)});
      map.lock().unlock();
    }
    page(v).mlocked = !page(v).mlocked && pick(4) == 0;
  }

  void compare() {
    if (!map.lock().lock()) std::abort();
    map.validate();
    std::vector<bool> is_volatile(kPages);
    map.for_each_volatile({kBase, PageCount(kPages)}, [&](PageRun run) {
      for (Vpn v = run.first; v < run.end(); ++v) is_volatile[(v - kBase).value()] = true;
    });
    std::uint64_t n = 0;
    for (unsigned i = 0; i < kPages; ++i) {
      ASSERT_EQ(is_volatile[i], pages[i].is_volatile) << "page " << i;
      if (pages[i].is_volatile) ++n;
      if (pages[i].purged) {
        ASSERT_TRUE(map.is_all_purged({kBase + PageCount(i), PageCount(1)})) << "page " << i;
      }
    }
    ASSERT_EQ(map.volatile_pages().value(), n);
    map.lock().unlock();
  }

  std::mt19937_64 random;
  std::vector<PageModel> pages{kPages};
  std::uint64_t calls = 0;
  VolatileMap map{*this};
};

std::uint64_t seed_of_this_run() {
  const char* given = std::getenv("BUOY_TEST_SEED");
  return given != nullptr ? std::strtoull(given, nullptr, 0) : 20260101;
}

TEST(SoftVolatileMap, AgreesWithAPerPageModel) {
  const std::uint64_t first_seed = seed_of_this_run();
  std::cout << "BUOY_TEST_SEED=" << first_seed << '\n';
  constexpr unsigned kRuns = 20;
#ifdef BUOY_DEBUG_CHECKS
  constexpr unsigned kOperations = 20'000;
#else
  constexpr unsigned kOperations = 200'000;
#endif
  for (unsigned run = 0; run < kRuns; ++run) {
    Model model(first_seed + run);
    for (unsigned i = 0; i < kOperations; ++i) {
      switch (model.pick(16)) {
        case 0:
          model.unmap_or_map();
          break;
        case 1:
          model.relocate();
          break;
        case 2:
          model.toggle_mlock();
          break;
        case 3:
        case 4:
        case 5:
        case 6:
          model.purge();
          break;
        case 7:
        case 8:
        case 9:
        case 10:
          model.withdraw();
          break;
        default:
          model.mark();
      }
      if (i % 16 == 0) model.compare();
      if (HasFatalFailure()) FAIL() << "seed " << first_seed + run << ", operation " << i;
    }
  }
}

TEST(SoftVolatileMap, KeepsManyExtentsFindableAndSweepsIdleOnes) {
  class AllMapped final : public VolatileMap::Ground {
    Part part_at(PageRun run) override { return {run.count, RegionFlags::kNone}; }
    bool has_mlocked(PageRun) override { return false; }
  } ground;
  VolatileMap map(ground);
  ASSERT_TRUE(map.create().ok());
  constexpr unsigned kExtents = 50'000;
  const auto run = [](unsigned i) { return PageRun{kBase + PageCount(8 * i), PageCount(8)}; };
  for (unsigned i = 0; i < kExtents; ++i) ASSERT_EQ(map.mark(run(i), i % 4).error, 0);
  EXPECT_EQ(map.volatile_pages().value(), 8 * kExtents);
  for (unsigned i = 0; i < kExtents; ++i) {
    if (i % 10 == 0) continue;
    EXPECT_EQ(map.withdraw(run(i)).newly.value(), 8U);
  }
  const ByteSize before = map.touched_bytes();
  for (unsigned i = 0; i < kExtents; ++i) {
    const PageRun other{kBase + PageCount(8 * (kExtents + i)), PageCount(8)};
    ASSERT_EQ(map.mark(other, 0).error, 0);
    EXPECT_EQ(map.withdraw(other).newly.value(), 8U);
  }
  EXPECT_LT(map.touched_bytes(), before * 3);
  if (!map.lock().lock()) std::abort();
  map.validate();
  map.lock().unlock();
}

TEST(SoftVolatileMap, AHandlerThatInterruptsItsOwnChangeIsTold) {
  Model model(1);
  if (!model.map.lock().lock()) std::abort();
  EXPECT_EQ(model.map.mark({kBase, PageCount(4)}, 0).error, EDEADLK);
  EXPECT_EQ(model.map.withdraw({kBase, PageCount(4)}).outcome, VolatileMap::Outcome::kReentered);
  model.map.lock().unlock();
  EXPECT_EQ(model.map.mark({kBase, PageCount(4)}, 0).error, 0);
}

// Who only tries, because it must not wait, is not passed by those who may.
TEST(SoftMarksLock, WhoTriesGoesBeforeWhoComes) {
  MarksLock lock;
  std::atomic<bool> stop{false};
  std::atomic<unsigned> taken{0};
  std::thread other([&] {
    while (!stop) {
      if (!lock.lock()) std::abort();
      ++taken;
      lock.unlock();
    }
  });
  while (taken == 0) std::this_thread::yield();
  lock.begin_trying();
  while (!lock.try_lock()) std::this_thread::yield();
  lock.unlock();
  const unsigned before = taken;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_LE(taken - before, 1U);  // the one that was past the door
  lock.end_trying();
  while (taken < before + 10) std::this_thread::yield();
  stop = true;
  other.join();
}

// ---- Interleavings ----------------------------------------------------------------------------

// Runs a few actors, one at a time, switching between them at the map's steps as a schedule says;
// then all other schedules, depth first.
class Interleaver {
 public:
  using Actors = std::vector<std::function<void()>>;

  // Sets up anew for each schedule; returns how many there were.
  template <typename Setup>
  unsigned run_all(std::size_t deepest, Setup setup) {
    unsigned schedules = 0;
    deepest_ = deepest;
    choices_.clear();
    do {
      at_ = 0;
      Actors actors = setup();
      run_once(actors);
      ++schedules;
    } while (next_schedule() && !testing::Test::HasFatalFailure());
    return schedules;
  }

  static void hook(void* self, VolatileMap::Step step) {
    static_cast<Interleaver*>(self)->pause(step);
  }
  // A step of the actor's own.
  void pause(VolatileMap::Step step = VolatileMap::Step::kNext) {
    if (actor_ < 0) return;
    std::unique_lock lock(mutex_);
    hand_on(lock, step);
  }

 private:
  struct Choice {
    unsigned taken;
    unsigned count;
  };

  void run_once(Actors& actors) {
    alive_.assign(actors.size(), true);
    turn_ = -1;
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < actors.size(); ++i)
      threads.emplace_back([this, i, &actors] {
        actor_ = static_cast<int>(i);
        {
          std::unique_lock lock(mutex_);
          changed_.wait(lock, [this] { return turn_ == actor_; });
        }
        actors[i]();
        std::unique_lock lock(mutex_);
        alive_[i] = false;
        choose();
        changed_.notify_all();
        actor_ = -1;
      });
    {
      std::unique_lock lock(mutex_);
      choose();
      changed_.notify_all();
    }
    for (std::thread& t : threads) t.join();
  }

  void hand_on(std::unique_lock<std::mutex>& lock, VolatileMap::Step step) {
    choose(step);
    if (turn_ == actor_) return;
    changed_.notify_all();
    changed_.wait(lock, [this] { return turn_ == actor_; });
  }

  // Going on is choice 0, so that the first schedule runs each actor to its end. Who waits is not
  // able to go on.
  void choose(VolatileMap::Step step = VolatileMap::Step::kNext) {
    std::vector<int> able;
    if (turn_ >= 0 && alive_[static_cast<std::size_t>(turn_)] && step == VolatileMap::Step::kNext)
      able.push_back(turn_);
    for (std::size_t i = 1; i <= alive_.size(); ++i) {
      const int next = (turn_ + static_cast<int>(i)) % static_cast<int>(alive_.size());
      if (next != turn_ && next >= 0 && alive_[static_cast<std::size_t>(next)])
        able.push_back(next);
    }
    if (able.empty()) {
      if (turn_ >= 0 && !alive_[static_cast<std::size_t>(turn_)]) turn_ = -1;
      return;
    }
    unsigned taken = 0;
    if (able.size() > 1 && at_ < deepest_) {
      if (at_ == choices_.size()) choices_.push_back({0, static_cast<unsigned>(able.size())});
      taken = choices_[at_++].taken;
    }
    turn_ = able[taken];
  }

  bool next_schedule() {
    while (!choices_.empty() && choices_.back().taken + 1 == choices_.back().count)
      choices_.pop_back();
    if (choices_.empty()) return false;
    ++choices_.back().taken;
    return true;
  }

  static thread_local int actor_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<bool> alive_;
  int turn_ = -1;
  std::size_t deepest_ = 0;  // choices behind it go the first way
  std::vector<Choice> choices_;
  std::size_t at_ = 0;
};
thread_local int Interleaver::actor_ = -1;

constexpr std::size_t kAll = 1000;

// One extent of a few pages, whose contents a purge destroys page by page.
class Race {
 public:
  static constexpr unsigned kRacePages = 3;
  static constexpr PageRun kRun{kBase, PageCount(kRacePages)};

  explicit Race(Interleaver& interleaver) : interleaver_(interleaver), model(1) {
    EXPECT_EQ(model.map.mark(kRun, 1).error, 0);
    model.map.set_step_hook(&Interleaver::hook, &interleaver);
  }
  void purge() {
    const auto claim = model.map.claim(PurgeEffort::kGentle);
    if (!claim) return;
    auto lost = VolatileMap::Lost::kNothing;
    Vpn at = claim.resume;
    while (at < claim.run.end() && !model.map.is_awaited(claim)) {
      interleaver_.pause();
      // Whoever has the memory back must never lose it now.
      EXPECT_FALSE(is_kept[(at - kBase).value()]);
      model.page(at).purged = true;
      destroyed[(at - kBase).value()] = true;
      lost = VolatileMap::Lost::kPages;
      ++at;
    }
    model.map.finish(claim, lost, at);
  }
  // Returns whether the program was told of a loss.
  bool withdraw(PageRun run) {
    bool lost = false;
    const auto done = model.withdraw(run, &lost);
    EXPECT_EQ(done.done, run.count);
    for (Vpn v = run.first; v < run.end(); ++v) {
      EXPECT_FALSE(model.page(v).purged);
      is_kept[(v - kBase).value()] = true;
    }
    return lost;
  }
  bool is_any_destroyed(PageRun run) const {
    for (Vpn v = run.first; v < run.end(); ++v)
      if (destroyed[(v - kBase).value()]) return true;
    return false;
  }
  ~Race() {
    model.map.set_step_hook(nullptr, nullptr);
    if (!model.map.lock().lock()) std::abort();
    model.map.validate();
    model.map.lock().unlock();
  }

 private:
  Interleaver& interleaver_;

 public:
  Model model;
  bool destroyed[kRacePages] = {};
  bool is_kept[kRacePages] = {};
};

TEST(SoftVolatileRace, WithdrawAgainstPurge) {
  Interleaver interleaver;
  std::optional<Race> race;
  std::optional<bool> told;
  bool was_lost = false;
  bool was_kept = false;
  const auto check = [&] {
    if (!told) return;
    EXPECT_EQ(*told, race->is_any_destroyed(Race::kRun));
    (*told ? was_lost : was_kept) = true;
  };
  const unsigned n = interleaver.run_all(kAll, [&]() -> Interleaver::Actors {
    check();
    race.emplace(interleaver);
    told.reset();
    return {[&] { told = race->withdraw(Race::kRun); }, [&] { race->purge(); }};
  });
  check();
  std::cout << n << " interleavings\n";
  EXPECT_GT(n, 50U);
  EXPECT_TRUE(was_lost && was_kept);
}

TEST(SoftVolatileRace, WithdrawAPartAgainstPurge) {
  Interleaver interleaver;
  std::optional<Race> race;
  std::optional<bool> told;
  const PageRun part{kBase + PageCount(1), PageCount(1)};
  const auto check = [&] {
    if (!told) return;
    EXPECT_EQ(*told, race->is_any_destroyed(part));
  };
  const unsigned n = interleaver.run_all(kAll, [&]() -> Interleaver::Actors {
    check();
    race.emplace(interleaver);
    told.reset();
    return {[&] { told = race->withdraw(part); }, [&] { race->purge(); }};
  });
  check();
  std::cout << n << " interleavings\n";
}

TEST(SoftVolatileRace, TwoWithdrawersAgainstPurgeAreToldOnce) {
  Interleaver interleaver;
  std::optional<Race> race;
  unsigned told = 0;
  bool has_run = false;
  const auto check = [&] {
    if (!has_run) return;
    EXPECT_EQ(told, race->is_any_destroyed(Race::kRun) ? 1U : 0U);
  };
  const unsigned n = interleaver.run_all(8, [&]() -> Interleaver::Actors {
    check();
    race.emplace(interleaver);
    told = 0;
    has_run = true;
    const auto withdraw = [&] { told += race->withdraw(Race::kRun) ? 1 : 0; };
    return {withdraw, withdraw, [&] { race->purge(); }};
  });
  check();
  std::cout << n << " interleavings\n";
}

TEST(SoftVolatileRace, MarkAgainAndWithdrawAgainstPurge) {
  Interleaver interleaver;
  std::optional<Race> race;
  std::optional<bool> told;
  const auto check = [&] {
    if (!told) return;
    EXPECT_EQ(*told, race->is_any_destroyed(Race::kRun));
  };
  const unsigned n = interleaver.run_all(kAll, [&]() -> Interleaver::Actors {
    check();
    race.emplace(interleaver);
    told.reset();
    return {[&] {
              EXPECT_EQ(race->model.map.mark(Race::kRun, 2).error, 0);
              const PageRun part{kBase, PageCount(2)};
              EXPECT_EQ(race->model.map.mark(part, 0).error, 0);
              told = race->withdraw(Race::kRun);
            },
            [&] { race->purge(); }};
  });
  check();
  std::cout << n << " interleavings\n";
}

TEST(SoftVolatileRace, UnmapAgainstPurge) {
  Interleaver interleaver;
  std::optional<Race> race;
  const unsigned n = interleaver.run_all(kAll, [&]() -> Interleaver::Actors {
    race.emplace(interleaver);
    return {[&] {
              while (!race->model.map.lock().try_lock()) interleaver.pause();
              EXPECT_TRUE(race->model.map.prepare().ok());
              race->model.map.forget(Race::kRun);
              race->model.map.lock().unlock();
              // A fresh mapping is nobody's to purge.
              for (bool& kept : race->is_kept) kept = true;
              for (unsigned i = 0; i < Race::kRacePages; ++i)
                race->model.page(kBase + PageCount(i)).purged = false;
            },
            [&] { race->purge(); }};
  });
  std::cout << n << " interleavings\n";
}

}  // namespace
}  // namespace buoy
