// The reference policies against traces whose misses were counted by hand, against slow and obvious
// models, and against what must always hold.
//
// A letter is a page; of the answers, a letter is an access: h a hit, m a miss.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <string_view>

#include "base/random.h"
#include "policy_arc.h"
#include "policy_clock.h"
#include "policy_lirs.h"
#include "policy_lru.h"
#include "policy_opt.h"
#include "policy_s3fifo.h"

namespace buoy::sim {
namespace {

constexpr Page kLetters = 26;

Trace trace_of(std::string_view letters) {
  Trace trace;
  for (const char c : letters) trace.events.emplace_back(Act::kLoad, static_cast<Page>(c - 'A'));
  trace.pages = kLetters;
  trace.recount();
  return trace;
}

std::string answers_of(Policy& policy, std::string_view letters) {
  std::string answers;
  for (const char c : letters)
    answers += policy.access(static_cast<Page>(c - 'A')) == Lookup::kHit ? 'h' : 'm';
  return answers;
}

template <typename P>
std::string answers_of(std::size_t capacity, std::string_view letters) {
  P policy(kLetters, capacity);
  return answers_of(policy, letters);
}

std::string answers_of_opt(std::size_t capacity, std::string_view letters) {
  const Trace trace = trace_of(letters);
  Opt opt(trace, capacity);
  return answers_of(opt, letters);
}

// 7 0 1 2 0 3 0 4 2 3 0 3 2 1 2 0 1 7 0 1, which textbooks replay with three frames (Silberschatz,
// Galvin, Gagne, "Operating System Concepts"): OPT faults 9 times, LRU 12 times.
constexpr std::string_view kTextbook = "HABCADAECDADCBCABHAB";

TEST(Opt, FaultsNineTimesOnTheTextbooksString) {
  EXPECT_EQ(answers_of_opt(3, kTextbook), "mmmmhmhmhhmhhmhhhmhh");
}

TEST(Lru, FaultsTwelveTimesOnTheTextbooksString) {
  EXPECT_EQ(answers_of<Lru>(3, kTextbook), "mmmmhmhmmmmhhmhmhmhh");
}

TEST(Opt, NeedsNoRoomForWhatIsForgottenBeforeItIsNeeded) {
  // A is forgotten before its next access, so that C drives A out and not B.
  Trace trace = trace_of("ABC");
  trace.events.emplace_back(Act::kDiscard, Page{0});
  for (const char c : std::string_view("AB"))
    trace.events.emplace_back(Act::kLoad, static_cast<Page>(c - 'A'));
  trace.recount();
  Opt opt(trace, 2);
  EXPECT_EQ(answers_of(opt, "ABC"), "mmm");
  opt.forget(0);
  EXPECT_EQ(answers_of(opt, "AB"), "mh");
}

// ---- CLOCK --------------------------------------------------------------------------------------

TEST(Clock, GivesAReferencedPageASecondChance) {
  // D: the hand finds A referenced and B not. FIFO would take A.
  EXPECT_EQ(answers_of<Clock>(3, "ABCADA"), "mmmhmh");
}

TEST(Clock, KnowsNoOrderAmongReferencedPages) {
  // All are referenced when D comes: A, the first, goes, though it was the last accessed.
  EXPECT_EQ(answers_of<Clock>(3, "ABCCBADAC"), "mmmhhhmmh");
  EXPECT_EQ(answers_of<Lru>(3, "ABCCBADAC"), "mmmhhhmhm");
}

// ---- ARC ----------------------------------------------------------------------------------------

TEST(Arc, FollowsFigureFourByHand) {
  //            A: T1 | B: T1 | A to T2 | C: B becomes a ghost of T1 | B comes back: target 1, A becomes
  //            a ghost of T2 | A comes back: target 0, C becomes a ghost of T1 | D: B leaves T2 | C
  //            comes back: target 1, A leaves T2 | D is there
  Arc arc(kLetters, 2);
  EXPECT_EQ(answers_of(arc, "ABACBADCD"), "mmhmmmmmh");
  const Arc::Sizes sizes = arc.sizes();
  EXPECT_EQ(sizes.t1, 0U);
  EXPECT_EQ(sizes.t2, 2U);
  EXPECT_EQ(sizes.b1, 0U);
  EXPECT_EQ(sizes.b2, 2U);
  EXPECT_EQ(sizes.target, 1.0);
}

TEST(Arc, RemembersNoGhostOfAScanThatFillsT1) {
  // Case IV, T1 as large as the cache: its oldest page goes without a ghost.
  Arc arc(kLetters, 2);
  EXPECT_EQ(answers_of(arc, "ABCA"), "mmmm");
  EXPECT_EQ(arc.sizes().b1, 0U);
  EXPECT_EQ(arc.sizes().target, 0.0);
}

TEST(Arc, KeepsWhatWasAccessedTwiceThroughAScan) {
  constexpr std::string_view kHot = "ABCDE";
  constexpr std::string_view kScan = "FGHIJKLMNOPQRSTUVWXYZ";
  Arc arc(kLetters, 10);
  (void)answers_of(arc, std::string(kHot) + std::string(kHot) + std::string(kScan));
  EXPECT_EQ(answers_of(arc, kHot), "hhhhh");
  Lru lru(kLetters, 10);
  (void)answers_of(lru, std::string(kHot) + std::string(kHot) + std::string(kScan));
  EXPECT_EQ(answers_of(lru, kHot), "mmmmm");
}

TEST(Arc, HoldsThePapersInvariants) {
  constexpr std::size_t kCapacity = 50;
  constexpr Page kPages = 200;
  Arc arc(kPages, kCapacity);
  Random random(7);
  const Zipf zipf(kPages, 0.7);
  bool target_moved = false;
  for (int i = 0; i < 20000; ++i) {
    arc.access(static_cast<Page>(i % 3 == 0 ? random.below(kPages) : zipf.next(random)));
    const Arc::Sizes s = arc.sizes();
    ASSERT_LE(s.t1 + s.t2, kCapacity);
    ASSERT_LE(s.t1 + s.b1, kCapacity);
    ASSERT_LE(s.t1 + s.t2 + s.b1 + s.b2, 2 * kCapacity);
    // Nothing is a ghost while there is room (the paper's A.2).
    const bool has_room = s.t1 + s.t2 < kCapacity;
    ASSERT_TRUE(!has_room || s.b1 + s.b2 == 0);
    ASSERT_GE(s.target, 0);
    ASSERT_LE(s.target, kCapacity);
    target_moved = target_moved || s.target > 5;
  }
  EXPECT_TRUE(target_moved);
}

// ---- LIRS ---------------------------------------------------------------------------------------

// The example of the paper's section 3: room for two LIR pages and one HIR page; at its time 10, A and
// B are LIR and E is the resident HIR page.
constexpr std::string_view kToTimeTen = "ABADBCBADAE";
constexpr std::string_view kAnswersToTimeTen = "mmhmhmhhmhm";

TEST(Lirs, MakesDLirInThePapersExample) {
  Lirs lirs(kLetters, 3);
  EXPECT_EQ(answers_of(lirs, kToTimeTen), kAnswersToTimeTen);
  // D is a miss, E goes and not B, though B was not accessed for the longest; D takes B's place among
  // the LIR pages, and B is the resident HIR page.
  EXPECT_EQ(answers_of(lirs, "DB"), "mh");
  // B, not recent enough to be LIR again, is what the next new page drives out.
  EXPECT_EQ(answers_of(lirs, "FDAB"), "mhhm");
}

TEST(Lirs, LeavesTheLirPagesAloneIfCComesInstead) {
  Lirs lirs(kLetters, 3);
  EXPECT_EQ(answers_of(lirs, kToTimeTen), kAnswersToTimeTen);
  EXPECT_EQ(answers_of(lirs, "CBA"), "mhh");
}

TEST(Lirs, StartsWithLirPages) {
  // A, D LIR; B's second access makes it LIR and A HIR; A's second makes it LIR again and B HIR.
  EXPECT_EQ(answers_of<Lirs>(3, "ADBCBADAED"), "mmmmmhhhmh");
}

TEST(Lirs, HoldsAllButAHundredthOfALoop) {
  constexpr Page kPages = 110;
  Lirs lirs(kPages, 100);
  Lru lru(kPages, 100);
  std::size_t misses = 0;
  std::size_t lru_misses = 0;
  for (int pass = 0; pass < 10; ++pass)
    for (Page page = 0; page < kPages; ++page) {
      misses += lirs.access(page) == Lookup::kMiss ? 1 : 0;
      lru_misses += lru.access(page) == Lookup::kMiss ? 1 : 0;
    }
  EXPECT_EQ(misses, 110U + 9 * 11);
  EXPECT_EQ(lru_misses, 1100U);
}

// ---- S3-FIFO ------------------------------------------------------------------------------------

TEST(S3Fifo, FollowsAlgorithmOneByHand) {
  // Small 1, main 3, ghosts 3.  E: A becomes a ghost.  A: from the ghosts to main.  F: C, accessed
  // twice, goes to main, D, accessed once, does not.  B: by the time there is room for it, it is no
  // ghost any more.  H: B goes to main; there A goes round, then C, and D leaves for good.
  EXPECT_EQ(answers_of<S3Fifo>(4, "ABCDEACCDFDCAGBBBHDACB"), "mmmmmmhhhmmhhmmhhmmhhh");
}

TEST(S3Fifo, LetsAScanThroughTheSmallQueue) {
  S3Fifo s3fifo(kLetters, 10);
  (void)answers_of(s3fifo, "ABCDEABCDEABCDE");
  (void)answers_of(s3fifo, "FGHIJKLMNOPQRSTUVWXYZ");
  EXPECT_EQ(answers_of(s3fifo, "ABCDE"), "hhhhh");
  EXPECT_LE(s3fifo.small_pages(), 5U);
  EXPECT_EQ(s3fifo.ghosts(), 9U);
}

// ---- Against models, and what always holds ------------------------------------------------------

// A zipfian trace with now and then a page that is forgotten.
Trace random_trace(std::uint64_t seed) {
  constexpr Page kPages = 60;
  Trace trace;
  trace.pages = kPages;
  Random random(seed);
  const Zipf zipf(kPages, 0.6);
  for (int i = 0; i < 3000; ++i) {
    if (random.with_probability(0.02))
      trace.events.emplace_back(Act::kDiscard, static_cast<Page>(random.below(kPages)));
    trace.events.emplace_back(Act::kLoad, static_cast<Page>(zipf.next(random)));
  }
  trace.recount();
  return trace;
}

std::size_t misses_of(Policy& policy, const Trace& trace, std::size_t capacity) {
  std::size_t misses = 0;
  for (const Event& e : trace.events) {
    if (e.is_access()) {
      misses += policy.access(e.page()) == Lookup::kMiss ? 1 : 0;
    } else {
      policy.forget(e.page());
    }
    EXPECT_LE(policy.resident(), capacity);
  }
  return misses;
}

// The same by a list that is searched: the oldest first.
std::size_t misses_of_lru_model(const Trace& trace, std::size_t capacity) {
  std::size_t misses = 0;
  std::vector<Page> list;
  for (const Event& e : trace.events) {
    const auto found = std::find(list.begin(), list.end(), e.page());
    const bool was_there = found != list.end();
    if (was_there) list.erase(found);
    if (!e.is_access()) continue;
    if (!was_there) ++misses;
    if (list.size() == capacity) list.erase(list.begin());
    list.push_back(e.page());
  }
  return misses;
}

// The same by looking ahead in the trace for each page.
std::size_t misses_of_opt_model(const Trace& trace, std::size_t capacity) {
  std::size_t misses = 0;
  std::set<Page> there;
  for (std::size_t i = 0; i < trace.events.size(); ++i) {
    const Event& e = trace.events[i];
    if (!e.is_access()) {
      there.erase(e.page());
      continue;
    }
    if (there.contains(e.page())) continue;
    ++misses;
    const auto next_need = [&](Page page) {
      for (std::size_t k = i + 1; k < trace.events.size(); ++k)
        if (trace.events[k].page() == page)
          return trace.events[k].is_access() ? k : trace.events.size();
      return trace.events.size();
    };
    if (there.size() == capacity)
      there.erase(*std::max_element(there.begin(), there.end(),
                                    [&](Page a, Page b) { return next_need(a) < next_need(b); }));
    there.insert(e.page());
  }
  return misses;
}

TEST(Policies, LruAndOptDoAsTheModelsDo) {
  for (const std::size_t capacity : {2U, 7U, 30U}) {
    const Trace trace = random_trace(capacity);
    Lru lru(trace.pages, capacity);
    EXPECT_EQ(misses_of(lru, trace, capacity), misses_of_lru_model(trace, capacity));
    Opt opt(trace, capacity);
    EXPECT_EQ(misses_of(opt, trace, capacity), misses_of_opt_model(trace, capacity));
  }
}

TEST(Policies, NoneMissesLessThanOptNorMoreThanAlways) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Trace trace = random_trace(seed);
    for (const std::size_t capacity : {2U, 3U, 11U, 40U}) {
      const std::size_t least =
          misses_of(*find_policy("opt")->make(trace, capacity), trace, capacity);
      for (const NamedPolicy& named : policies()) {
        const auto policy = named.make(trace, capacity);
        const std::size_t misses = misses_of(*policy, trace, capacity);
        EXPECT_GE(misses, least) << named.name << " with " << capacity;
        EXPECT_LT(misses, trace.accesses) << named.name << " with " << capacity;
      }
    }
  }
}

TEST(Policies, MissOnlyFirstAccessesWhereAllFits) {
  const Trace trace = random_trace(3);
  std::size_t first = 0;
  std::set<Page> seen;
  for (const Event& e : trace.events) {
    if (!e.is_access())
      seen.erase(e.page());
    else if (seen.insert(e.page()).second)
      ++first;
  }
  for (const NamedPolicy& named : policies()) {
    const std::size_t capacity = trace.pages * 10 / 9 + 1;  // LIRS keeps a hundredth apart, S3-FIFO
    const auto policy = named.make(trace, capacity);        // a tenth
    EXPECT_EQ(misses_of(*policy, trace, capacity), first) << named.name;
  }
}

}  // namespace
}  // namespace buoy::sim
