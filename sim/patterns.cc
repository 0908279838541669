#include "patterns.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "base/random.h"
#include "pattern_index.h"

namespace buoy::sim {

namespace {

// What the patterns share: the trace under construction and the random numbers.
class Maker {
 public:
  Maker(const PatternRequest& request, Trace& trace)
      : random(request.seed), request_(request), trace_(trace) {
    trace_.events.reserve(request.accesses + request.pages);
  }
  [[nodiscard]] double parameter(std::string_view name) const {
    return request_.parameters.at(std::string(name));
  }
  // Every page is stored to once, in order; not counted.
  void fill() {
    for (Page p = 0; p < request_.pages; ++p) trace_.events.emplace_back(Act::kStore, p);
    trace_.uncounted = request_.pages;
  }
  void access(Page page, double stores) {
    trace_.events.emplace_back(random.with_probability(stores) ? Act::kStore : Act::kLoad, page);
    ++done_;
  }
  void advise(Act act, Page page, std::uint32_t count) {
    trace_.events.emplace_back(act, page, count);
  }
  [[nodiscard]] bool is_done() const { return done_ >= request_.accesses; }
  [[nodiscard]] std::uint64_t done() const { return done_; }
  [[nodiscard]] Page pages() const { return request_.pages; }
  // A part of the pages, one at least.
  [[nodiscard]] Page part(std::string_view name) const {
    const double n = static_cast<double>(request_.pages) * parameter(name);
    return std::clamp(static_cast<Page>(n), Page{1}, request_.pages);
  }

  Random random;

 private:
  const PatternRequest& request_;
  Trace& trace_;
  std::uint64_t done_ = 0;
};

void make_random(const PatternRequest& request, Trace& trace) {
  Maker maker(request, trace);
  maker.fill();
  const double stores = maker.parameter("stores");
  while (!maker.is_done())
    maker.access(static_cast<Page>(maker.random.below(maker.pages())), stores);
}

void make_zipf(const PatternRequest& request, Trace& trace) {
  Maker maker(request, trace);
  maker.fill();
  const auto page_of_rank = shuffled(maker.pages(), maker.random);
  const Zipf zipf(maker.pages(), maker.parameter("theta"));
  const double stores = maker.parameter("stores");
  while (!maker.is_done()) maker.access(page_of_rank[zipf.next(maker.random)], stores);
}

void make_scan(const PatternRequest& request, Trace& trace) {
  Maker maker(request, trace);
  maker.fill();
  const double stores = maker.parameter("stores");
  const auto touches = static_cast<unsigned>(maker.parameter("touches"));
  for (Page page = 0; !maker.is_done(); page = (page + 1) % maker.pages())
    for (unsigned i = 0; i < touches && !maker.is_done(); ++i) maker.access(page, stores);
}

void make_loop(const PatternRequest& request, Trace& trace) {
  Maker maker(request, trace);
  maker.fill();
  const auto order = shuffled(maker.pages(), maker.random);
  const double stores = maker.parameter("stores");
  for (std::size_t i = 0; !maker.is_done(); i = (i + 1) % order.size())
    maker.access(order[i], stores);
}

// A zipfian set in the first part of the pages; now and then a page of a scan through the rest.
void make_scan_zipf(const PatternRequest& request, Trace& trace) {
  Maker maker(request, trace);
  maker.fill();
  const Page hot = std::min(maker.part("hot"), maker.pages() - 1);
  const auto page_of_rank = shuffled(hot, maker.random);
  const Zipf zipf(hot, maker.parameter("theta"));
  const double scan = maker.parameter("scan");
  const double stores = maker.parameter("stores");
  for (Page at = hot; !maker.is_done();) {
    if (!maker.random.with_probability(scan)) {
      maker.access(page_of_rank[zipf.next(maker.random)], stores);
      continue;
    }
    maker.access(at, 0);
    if (++at == maker.pages()) at = hot;
  }
}

// Each phase has a working set of its own, scattered over the pages, and strays a little.
void make_phases(const PatternRequest& request, Trace& trace) {
  Maker maker(request, trace);
  maker.fill();
  const Page set = maker.part("set");
  const auto length = static_cast<std::uint64_t>(maker.parameter("length"));
  const double stray = maker.parameter("stray");
  const double stores = maker.parameter("stores");
  while (!maker.is_done()) {
    const auto pages = shuffled(maker.pages(), maker.random);
    const std::uint64_t end = maker.done() + length;
    while (maker.done() < end && !maker.is_done()) {
      const bool strays = maker.random.with_probability(stray);
      maker.access(pages[maker.random.below(strays ? pages.size() : set)], stores);
    }
  }
}

// Objects of 1 to 64 pages: allocated first fit, stored to, touched for a while (some more than
// others), freed, most freed memory discarded as allocators do.
void make_churn(const PatternRequest& request, Trace& trace) {
  struct Object {
    Page page;
    std::uint32_t count;
  };
  Maker maker(request, trace);
  const Page live_most = maker.part("live");
  const double discard = maker.parameter("discard");
  const double stores = maker.parameter("stores");
  const auto touches = static_cast<unsigned>(maker.parameter("touches"));
  std::vector<bool> taken(maker.pages());
  std::vector<Object> objects;
  Page live = 0;
  Page at = 0;
  const auto find_room = [&](std::uint32_t count) {
    std::uint32_t run = 0;
    for (Page tried = 0; tried < 2 * maker.pages(); ++tried, ++at) {
      if (at == maker.pages()) at = run = 0;
      run = taken[at] ? 0 : run + 1;
      if (run == count) return at++ + 1 - count;
    }
    return kNoPage;
  };
  const auto free_one = [&] {
    // Young objects die first: of two, the younger.
    const std::size_t i =
        std::max(maker.random.below(objects.size()), maker.random.below(objects.size()));
    const Object object = objects[i];
    objects.erase(objects.begin() + static_cast<std::ptrdiff_t>(i));
    std::fill_n(taken.begin() + object.page, object.count, false);
    live -= object.count;
    if (maker.random.with_probability(discard))
      maker.advise(Act::kDiscard, object.page, object.count);
  };
  while (!maker.is_done()) {
    const auto count = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(std::uint64_t{1} << maker.random.below(7), maker.pages()));
    while (!objects.empty() && live + count > live_most) free_one();
    const Page page = find_room(count);
    if (page == kNoPage) {
      if (objects.empty()) throw std::runtime_error("churn: too few pages");
      free_one();
      continue;
    }
    objects.push_back({page, count});
    std::fill_n(taken.begin() + page, count, true);
    live += count;
    for (std::uint32_t i = 0; i < count; ++i) maker.access(page + i, 1);
    for (unsigned i = 0; i < touches * count; ++i) {
      // The newest are touched most: of three, the youngest.
      std::uint64_t index = 0;
      for (int k = 0; k < 3; ++k) index = std::max(index, maker.random.below(objects.size()));
      const Object& object = objects[index];
      maker.access(object.page + static_cast<Page>(maker.random.below(object.count)), stores);
    }
  }
}

void make_index(const PatternRequest& request, Trace& trace) {
  Maker maker(request, trace);
  IndexBuild build({.pages = maker.pages(),
                    .rows_per_page = static_cast<unsigned>(maker.parameter("rows")),
                    .entries_per_leaf = static_cast<unsigned>(maker.parameter("entries"))},
                   maker.random);
  // Built again and again until there are as many accesses as asked for, each time over pages that
  // were dropped.
  while (!maker.is_done()) {
    build.run([&](Page page, bool is_store) {
      maker.access(page, is_store ? 1 : 0);
      return !maker.is_done();
    });
    maker.advise(Act::kDiscard, 0, maker.pages());
  }
}

double number_of(std::string_view text, std::string_view what) {
  const std::string copy(text);
  char* end = nullptr;
  const double value = std::strtod(copy.c_str(), &end);
  if (copy.empty() || *end != '\0' || !(value >= 0) || value > 1e12)
    throw std::runtime_error(fmt::format("'{}' is no value for {}", text, what));
  return value;
}

void check(bool ok, std::string_view line) {
  if (!ok) throw std::runtime_error(std::string(line));
}

void check_parameters(const PatternRequest& request) {
  for (const auto& [name, value] : request.parameters) {
    if (name == "theta") {
      check(value > 0 && value < 1, "theta is above 0 and below 1");
    } else if (name == "touches" || name == "length" || name == "rows") {
      check(value >= 1, name + " is 1 or more");
    } else if (name == "entries") {
      check(value >= 4, name + " is 4 or more");
    } else {
      check(value <= 1, name + " is a part: 0 to 1");
    }
  }
}

}  // namespace

const std::vector<NamedPattern>& patterns() {
  static const std::vector<NamedPattern> all = {
      {"random", "uniform over all pages", {{"stores", 0.5}}, make_random},
      {"zipf", "zipfian, hot pages scattered", {{"theta", 0.99}, {"stores", 0.5}}, make_zipf},
      {"scan",
       "in the order of addresses, again and again",
       {{"touches", 1}, {"stores", 0}},
       make_scan},
      {"loop", "in one random order, again and again", {{"stores", 0}}, make_loop},
      {"scan+zipf",
       "zipfian in the part `hot`; the part `scan` of the accesses scans the rest",
       {{"theta", 0.99}, {"hot", 0.5}, {"scan", 0.2}, {"stores", 0.5}},
       make_scan_zipf},
      {"phases",
       "a working set (the part `set`) that is another every `length` accesses",
       {{"set", 0.4}, {"length", 500000}, {"stray", 0.02}, {"stores", 0.5}},
       make_phases},
      {"churn",
       "an allocator: objects stored, touched, freed and mostly discarded",
       {{"live", 0.7}, {"touches", 8}, {"discard", 0.7}, {"stores", 0.5}},
       make_churn},
      {"index",
       "a table is appended to, then its rows enter a B-tree at random",
       {{"rows", 16}, {"entries", 64}},
       make_index},
  };
  return all;
}

void parse_pattern(std::string_view text, PatternRequest& request) {
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  const auto& all = patterns();
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const NamedPattern& p) { return p.name == name; });
  if (found == all.end())
    throw std::runtime_error(fmt::format("no pattern '{}'; see `buoy-sim --list`", name));
  request.name = name;
  for (const auto& [key, value] : found->parameters) request.parameters[std::string(key)] = value;
  std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  while (!rest.empty()) {
    const std::string_view setting = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(setting.size() + 1, rest.size()));
    const std::size_t equals = setting.find('=');
    const auto parameter = request.parameters.find(std::string(setting.substr(0, equals)));
    if (equals == std::string_view::npos || parameter == request.parameters.end())
      throw std::runtime_error(
          fmt::format("{} has no parameter '{}'; see `buoy-sim --list`", name, setting));
    parameter->second = number_of(setting.substr(equals + 1), parameter->first);
  }
  check_parameters(request);
}

Trace generate(const PatternRequest& request) {
  Trace trace;
  trace.pages = request.pages;
  for (const NamedPattern& pattern : patterns())
    if (pattern.name == request.name) pattern.generate(request, trace);
  trace.recount();
  return trace;
}

}  // namespace buoy::sim
