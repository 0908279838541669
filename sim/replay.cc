#include "replay.h"

#include <algorithm>
#include <ctime>

namespace buoy::sim {

namespace {

// Of this process's own time: the machine may have other work.
class Stopwatch {
 public:
  [[nodiscard]] double seconds() const {
    return static_cast<double>(std::clock() - start_) / CLOCKS_PER_SEC;
  }

 private:
  std::clock_t start_ = std::clock();
};

// Which pages have contents: their next access can be a miss.
class Known {
 public:
  explicit Known(Page pages) : is_known_(pages) {}
  // True for the first access.
  bool is_first(Page page) {
    const bool first = !is_known_[page];
    is_known_[page] = true;
    return first;
  }
  void forget(const Event& e) {
    for (Page p = e.page(); p < e.page() + e.count(); ++p) is_known_[p] = false;
  }

 private:
  std::vector<bool> is_known_;
};

// Takes samples of the engine's tiers, and draws.
class Observer {
 public:
  Observer(const Trace& trace, Detail detail, Replayed& result) : result_(result) {
    constexpr std::uint64_t kColumns = 240;
    constexpr std::uint64_t kRows = 128;
    every_ = std::max<std::uint64_t>(trace.accesses / kColumns, 1);
    if (detail == Detail::kCounts) return;
    Picture& picture = result_.picture;
    picture.pages_per_row = (trace.pages + kRows - 1) / kRows;
    picture.rows =
        static_cast<unsigned>((trace.pages + picture.pages_per_row - 1) / picture.pages_per_row);
    picture.accesses_per_column = every_;
  }
  void note(const Engine& engine, Page page, bool was_miss) {
    Picture& picture = result_.picture;
    if (picture.rows != 0 && seen_ % every_ == 0) {
      ++picture.columns;
      picture.misses.resize(picture.cell(0, picture.columns));
    }
    if (was_miss) {
      ++misses_;
      if (picture.rows != 0)
        ++picture.misses[picture.cell(static_cast<unsigned>(page / picture.pages_per_row),
                                      picture.columns - 1)];
    }
    if (++seen_ % every_ == 0) sample(engine);
  }
  void finish(const Engine& engine) {
    if (seen_ % every_ != 0) sample(engine);
  }

 private:
  void sample(const Engine& engine) {
    TierSample sample = engine.tiers();
    sample.access = seen_;
    sample.misses = misses_;
    misses_ = 0;
    result_.tiers.push_back(sample);
    Picture& picture = result_.picture;
    for (unsigned row = 0; row < picture.rows; ++row)
      picture.tiers.push_back(tier_of_row(engine, row));
  }
  // The tier that most of the row's pages are in; none only if no page is in any.
  [[nodiscard]] Picture::Tier tier_of_row(const Engine& engine, unsigned row) const {
    std::array<std::uint64_t, 5> pages_in{};
    const std::uint64_t first = row * result_.picture.pages_per_row;
    for (std::uint64_t p = first; p < first + result_.picture.pages_per_row; ++p)
      ++pages_in[static_cast<std::size_t>(engine.tier_of(static_cast<Page>(p)))];
    pages_in[0] = 0;
    const auto most = std::max_element(pages_in.begin(), pages_in.end());
    return *most == 0 ? Picture::Tier::kNone : static_cast<Picture::Tier>(most - pages_in.begin());
  }

  Replayed& result_;
  std::uint64_t every_ = 1;
  std::uint64_t seen_ = 0;
  std::uint64_t misses_ = 0;  // since the last sample
};

EngineCounts difference(EngineCounts a, const EngineCounts& b) {
  a.standby_touches -= b.standby_touches;
  a.protect_faults -= b.protect_faults;
  a.pages_in -= b.pages_in;
  a.pages_in_file -= b.pages_in_file;
  a.pages_out -= b.pages_out;
  return a;
}

}  // namespace

Replayed replay_policy(const NamedPolicy& named, const Trace& trace, std::uint64_t budget_bytes) {
  const Stopwatch watch;
  Replayed result;
  result.policy = named.name;
  result.budget_bytes = budget_bytes;
  const auto policy = named.make(trace, budget_bytes / kPageSize);
  Known known(trace.pages);
  std::uint64_t seen = 0;
  for (const Event& e : trace.events) {
    if (e.is_access()) {
      const bool first = known.is_first(e.page());
      const Lookup lookup = policy->access(e.page());
      if (seen++ < trace.uncounted) continue;
      ++result.tally.accesses;
      if (first)
        ++result.tally.first;
      else if (lookup == Lookup::kMiss)
        ++result.tally.misses;
    } else if (e.forgets()) {
      known.forget(e);
      for (Page p = e.page(); p < e.page() + e.count(); ++p) policy->forget(p);
    }
  }
  result.cpu_seconds = watch.seconds();
  return result;
}

Replayed replay_engine(const EngineOptions& options, const Trace& trace, Detail detail) {
  const Stopwatch watch;
  Replayed result;
  result.policy = "engine";
  result.is_engine = true;
  result.budget_bytes = options.budget;
  Engine engine(options, trace.pages);
  Observer observer(trace, detail, result);
  Known known(trace.pages);
  EngineCounts before;
  std::uint64_t seen = 0;
  for (const Event& e : trace.events) {
    if (!e.is_access()) {
      if (e.forgets()) known.forget(e);
      engine.advise(e);
      continue;
    }
    if (seen == trace.uncounted) before = engine.counts();
    const bool first = known.is_first(e.page());
    const bool was_miss = engine.access(e.page(), e.act() == Act::kStore);
    observer.note(engine, e.page(), was_miss);
    if (seen++ < trace.uncounted) continue;
    ++result.tally.accesses;
    if (first) ++result.tally.first;
    if (was_miss) ++result.tally.misses;
  }
  observer.finish(engine);
  result.engine = difference(engine.counts(), before);
  engine.validate();
  result.cpu_seconds = watch.seconds();
  return result;
}

}  // namespace buoy::sim
