// The C API under any sequence of calls, on real memory: every byte that was stored is what is read, a
// bad argument gets an error and changes nothing, a pool that was emptied can be destroyed.
//
// What a page may read is kept beside it: its value, and whether zeros are allowed as well (lazily freed,
// volatile and droppable memory). What fails is printed as C, to be pasted into a test.
//
//   flags it wants: -handle_bus=0 -handle_segv=0 (faults are the engine's)
#include <buoy/buoy.h>
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kBudget = std::size_t{16} << 20;
constexpr std::size_t kMostPages = 700;  // more than a block of 512
constexpr std::size_t kMostRegions = 6;

struct Page {
  std::uint64_t value = 0;       // in its first and last word
  bool may_be_zero = false;      // as well
  bool is_lazily_freed = false;  // until the next store
  bool is_promised = false;      // not to be stored to before BUOY_REUSE
  bool is_volatile = false;
  unsigned pins = 0;
};

struct Region {
  std::byte* base = nullptr;
  unsigned flags = 0;
  unsigned name = 0;
  std::vector<Page> pages;

  [[nodiscard]] bool is_droppable() const { return (flags & BUOY_DROPPABLE) != 0; }
};

class Session {
 public:
  explicit Session(FuzzedDataProvider& input) : input_(input) {
    buoy_options options{};
    options.struct_size = sizeof options;
    options.budget = kBudget;
    options.backing_file = "none";
    options.faults = BUOY_FAULTS_SIGNAL;
    say("buoy_options o = {sizeof o, 16 << 20, \"none\", NULL, BUOY_FAULTS_SIGNAL, 0, 0};");
    say("buoy_pool* pool; buoy_pool_create(&o, &pool);");
    expect(buoy_pool_create(&options, &pool_) == 0, "the pool is created");
  }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;
  ~Session() {
    for (Region& r : regions_) {
      verify(r, 0, r.pages.size());
      say("buoy_unmap(" + at(r, 0) + ", " + std::to_string(r.pages.size() * kPage) + ");");
      expect(buoy_unmap(r.base, r.pages.size() * kPage) == 0, "all is unmapped");
    }
    say("buoy_pool_destroy(pool);");
    expect(buoy_pool_destroy(pool_) == 0, "an empty pool is destroyed");
  }

  void step() {
    if (regions_.empty()) return map();
    switch (input_.ConsumeIntegralInRange<int>(0, 13)) {
      case 0:
        return map();
      case 1:
        return unmap();
      case 2:
        return remap();
      case 3:
      case 4:
        return store();
      case 5:
      case 6:
        return load();
      case 7:
        return advise();
      case 8:
        return mark();
      case 9:
        return unmark();
      case 10:
        return pin();
      case 11:
        return unpin_all(pick());
      case 12:
        return squeeze();
      default:
        return misuse();
    }
  }

 private:
  struct Range {
    std::size_t first = 0, n = 0;
  };

  void say(std::string line) { code_ += "  " + std::move(line) + "\n"; }
  void expect(bool holds, const char* what) const {
    if (holds) return;
    std::fprintf(stderr, "%s  // expected, errno %d: %s\n", code_.c_str(), errno, what);
    std::abort();
  }
  [[nodiscard]] static std::string at(const Region& r, std::size_t page) {
    return "m" + std::to_string(r.name) + " + " + std::to_string(page * kPage);
  }
  [[nodiscard]] static std::string bytes(std::size_t pages) {
    return std::to_string(pages * kPage);
  }

  Region& pick() {
    return regions_[input_.ConsumeIntegralInRange<std::size_t>(0, regions_.size() - 1)];
  }
  Range pick_range(const Region& r) {
    const std::size_t first = input_.ConsumeIntegralInRange<std::size_t>(0, r.pages.size() - 1);
    const std::size_t n = input_.ConsumeIntegralInRange<std::size_t>(1, r.pages.size() - first);
    return {first, n};
  }
  static std::uint64_t* word(const Region& r, std::size_t page, bool last) {
    return reinterpret_cast<std::uint64_t*>(  // NOLINT
        r.base + page * kPage + (last ? kPage - sizeof(std::uint64_t) : 0));
  }

  // ---- contents

  void verify(Region& r, std::size_t first, std::size_t n) {
    say("load(" + at(r, first) + ", " + bytes(n) + ");");
    for (std::size_t i = first; i < first + n; ++i) {
      Page& p = r.pages[i];
      const std::uint64_t head = *word(r, i, false);
      const std::uint64_t tail = *word(r, i, true);
      // A page that may vanish may do so between the two.
      const bool may_change = p.is_lazily_freed || p.is_volatile || r.is_droppable();
      const bool as_stored = head == p.value && tail == p.value;
      const bool as_zeros =
          p.may_be_zero && (head == 0 || may_change) && tail == 0 && (head == 0 || head == p.value);
      if (!as_stored && !as_zeros)
        std::fprintf(stderr, "page %zu: %llx and %llx, not %llx%s\n", i,
                     static_cast<unsigned long long>(head), static_cast<unsigned long long>(tail),
                     static_cast<unsigned long long>(p.value), p.may_be_zero ? " or zeros" : "");
      expect(as_stored || as_zeros, "a load finds what was stored");
      if (tail == 0 && p.may_be_zero) p.value = 0;
      if (p.value == 0 || !may_change) p.may_be_zero = false;
    }
  }
  void store_to(Region& r, std::size_t i) {
    Page& p = r.pages[i];
    const std::uint64_t value = ++stamp_ * 0x9e3779b97f4a7c15U;
    *word(r, i, false) = value;
    *word(r, i, true) = value;
    p.value = value;
    p.is_lazily_freed = false;
    p.may_be_zero = p.is_volatile || r.is_droppable();
  }

  // ---- operations

  void map() {
    if (regions_.size() == kMostRegions) return;
    constexpr std::array<unsigned, 4> kFlags = {0, BUOY_PURGED_READS_ZERO, BUOY_DROPPABLE,
                                                BUOY_HUGE | BUOY_PURGED_READS_ZERO};
    Region r;
    r.flags = input_.PickValueInArray(kFlags);
    r.name = names_++;
    r.pages.resize(input_.ConsumeIntegralInRange<std::size_t>(1, kMostPages));
    say("char* m" + std::to_string(r.name) + " = buoy_map(pool, " + bytes(r.pages.size()) + ", " +
        std::to_string(r.flags) + ");");
    r.base = static_cast<std::byte*>(buoy_map(pool_, r.pages.size() * kPage, r.flags));
    expect(r.base != nullptr && r.base != reinterpret_cast<std::byte*>(-1), "memory is mapped");
    regions_.push_back(std::move(r));
  }
  // From the end or whole: what is left of a region stays one range here.
  void unmap() {
    Region& r = pick();
    unpin_all(r);
    const std::size_t keep = input_.ConsumeIntegralInRange<std::size_t>(0, r.pages.size() - 1);
    const std::size_t gone = r.pages.size() - keep;
    say("buoy_unmap(" + at(r, keep) + ", " + bytes(gone) + ");");
    expect(buoy_unmap(r.base + keep * kPage, gone * kPage) == 0, "a range is unmapped");
    if (keep == 0)
      regions_.erase(regions_.begin() + (&r - regions_.data()));
    else
      r.pages.resize(keep);
  }
  void remap() {
    Region& r = pick();
    unpin_all(r);
    const std::size_t n = input_.ConsumeIntegralInRange<std::size_t>(1, kMostPages);
    say("m" + std::to_string(r.name) + " = buoy_remap(" + at(r, 0) + ", " + bytes(r.pages.size()) +
        ", " + bytes(n) + ");");
    void* const moved = buoy_remap(r.base, r.pages.size() * kPage, n * kPage);
    expect(moved != nullptr && moved != reinterpret_cast<void*>(-1), "a region is resized");
    r.base = static_cast<std::byte*>(moved);
    r.pages.resize(n);
  }
  void store() {
    Region& r = pick();
    const Range range = pick_range(r);
    say("store(" + at(r, range.first) + ", " + bytes(range.n) + ");");
    for (std::size_t i = range.first; i < range.first + range.n; ++i)
      if (!r.pages[i].is_promised) store_to(r, i);
  }
  void load() {
    Region& r = pick();
    const Range range = pick_range(r);
    verify(r, range.first, range.n);
  }
  void advise() {
    constexpr std::array<int, 8> kAdvice = {BUOY_FREE,     BUOY_REUSE,           BUOY_DONTNEED,
                                            BUOY_COLD,     BUOY_PAGEOUT,         BUOY_WILLNEED,
                                            BUOY_POPULATE, BUOY_FREE_UNTIL_REUSE};
    const int advice = input_.PickValueInArray(kAdvice);
    Region& r = pick();
    const Range range = pick_range(r);
    say("buoy_advise(" + at(r, range.first) + ", " + bytes(range.n) + ", " +
        std::to_string(advice) + ");");
    const int result = buoy_advise(r.base + range.first * kPage, range.n * kPage, advice);
    expect(result == 0 || errno == EAGAIN, "advice is taken");
    for (std::size_t i = range.first; i < range.first + range.n; ++i)
      note_advice(r.pages[i], advice, result == 0);
  }
  static void note_advice(Page& p, int advice, bool whole) {
    switch (advice) {
      case BUOY_FREE:
      case BUOY_FREE_UNTIL_REUSE:
        p.may_be_zero = p.may_be_zero || p.value != 0;
        p.is_lazily_freed = true;
        p.is_promised = p.is_promised || advice == BUOY_FREE_UNTIL_REUSE;
        return;
      case BUOY_REUSE:
        p.is_lazily_freed = false;
        p.is_promised = false;
        return;
      case BUOY_DONTNEED:
        if (whole) {
          p.value = 0;
          p.may_be_zero = false;
        } else {
          p.may_be_zero = true;
        }
        p.is_lazily_freed = p.is_lazily_freed && !whole;
        return;
      default:
        return;
    }
  }
  void mark() {
    Region& r = pick();
    if ((r.flags & BUOY_PURGED_READS_ZERO) == 0)
      return;  // a touch of a purged page would be SIGBUS
    const Range range = pick_range(r);
    const int priority = input_.ConsumeIntegralInRange<int>(0, 3);
    say("buoy_mark_volatile(" + at(r, range.first) + ", " + bytes(range.n) + ", " +
        std::to_string(priority) + ");");
    const ssize_t done =
        buoy_mark_volatile(r.base + range.first * kPage, range.n * kPage, priority);
    expect(done == static_cast<ssize_t>(range.n * kPage), "all of a range is marked");
    for (std::size_t i = range.first; i < range.first + range.n; ++i) {
      r.pages[i].is_volatile = true;
      r.pages[i].may_be_zero = r.pages[i].may_be_zero || r.pages[i].value != 0;
    }
  }
  void unmark() {
    Region& r = pick();
    const Range range = pick_range(r);
    say("buoy_mark_nonvolatile(" + at(r, range.first) + ", " + bytes(range.n) + ", &purged);");
    int purged = 0;
    const ssize_t done =
        buoy_mark_nonvolatile(r.base + range.first * kPage, range.n * kPage, &purged);
    expect(done == static_cast<ssize_t>(range.n * kPage), "all of a range is unmarked");
    for (std::size_t i = range.first; i < range.first + range.n; ++i)
      r.pages[i].is_volatile = false;
  }
  void pin() {
    Region& r = pick();
    const Range range = pick_range(r);
    if (range.n > 64) return;  // pins hold the budget
    say("buoy_pin(" + at(r, range.first) + ", " + bytes(range.n) + ", BUOY_WRITE);");
    if (buoy_pin(r.base + range.first * kPage, range.n * kPage, BUOY_WRITE) != 0) {
      expect(errno == EAGAIN || errno == EIO, "a range is pinned");
      return;
    }
    pins_.push_back({r.name, range});
    for (std::size_t i = range.first; i < range.first + range.n; ++i) {
      ++r.pages[i].pins;
      r.pages[i].is_lazily_freed = false;  // a writer will come
    }
  }
  void unpin_all(Region& r) {
    std::erase_if(pins_, [&](const auto& pin) {
      if (pin.first != r.name) return false;
      const Range range = pin.second;
      say("buoy_unpin(" + at(r, range.first) + ", " + bytes(range.n) + ", BUOY_DIRTIED);");
      expect(buoy_unpin(r.base + range.first * kPage, range.n * kPage, BUOY_DIRTIED) == 0,
             "a pin is given up");
      return true;
    });
  }
  void squeeze() {
    const std::size_t pages = input_.ConsumeIntegralInRange<std::size_t>(1, 4096);
    if (input_.ConsumeBool()) {
      say("buoy_pool_reclaim(pool, " + bytes(pages) + ");");
      expect(buoy_pool_reclaim(pool_, pages * kPage) >= 0, "reclaim says what it freed");
    } else {
      say("buoy_compact(pool);");
      expect(buoy_compact(pool_) == 0, "the arena is compacted");
    }
  }
  // Arguments that nobody may pass: an error, and nothing has changed.
  void misuse() {
    Region& r = pick();
    const std::size_t odd = input_.ConsumeIntegralInRange<std::size_t>(1, kPage - 1);
    const std::size_t length = r.pages.size() * kPage;
    unsigned char vec = 0;
    switch (input_.ConsumeIntegralInRange<int>(0, 7)) {
      case 0:
        return refuse(buoy_unmap(r.base + odd, kPage) != 0, "buoy_unmap, misaligned");
      case 1:
        return refuse(buoy_advise(r.base + odd, kPage, BUOY_DONTNEED) != 0,
                      "buoy_advise, misaligned");
      case 2:
        return refuse(buoy_advise(r.base, kPage, 99) != 0, "buoy_advise, unknown advice");
      case 3:
        return refuse(buoy_mark_volatile(r.base, length, 4) < 0, "buoy_mark_volatile, priority 4");
      case 4:
        return refuse(buoy_unpin(&vec, kPage, 0) != 0, "buoy_unpin, not managed");
      case 5:
        return refuse(buoy_residency(&vec, kPage, &vec) != 0, "buoy_residency, not managed");
      case 6:
        return refuse(buoy_pool_destroy(pool_) != 0, "buoy_pool_destroy, with a region mapped");
      default:
        return refuse(buoy_pool_resize(pool_, kPage) != 0, "buoy_pool_resize, to a page");
    }
  }
  void refuse(bool refused, const char* what) {
    say(std::string("// ") + what);
    expect(refused, what);
  }

  FuzzedDataProvider& input_;
  buoy_pool* pool_ = nullptr;
  std::vector<Region> regions_;
  std::vector<std::pair<unsigned, Range>> pins_;
  std::uint64_t stamp_ = 0;
  unsigned names_ = 0;
  std::string code_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  Session session(input);
  for (int steps = 0; steps < 200 && input.remaining_bytes() > 0; ++steps) session.step();
  return 0;
}
