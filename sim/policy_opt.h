// OPT: the page whose next access is furthest in the future goes (Belady, "A Study of Replacement
// Algorithms for a Virtual-Storage Computer", IBM Systems Journal 1966). No policy that brings in
// one page an access, when it is accessed, misses less. What is forgotten before its next access is
// never needed.
#pragma once

#include <queue>

#include "policy.h"

namespace buoy::sim {

class Opt final : public Policy {
 public:
  Opt(const Trace& trace, std::size_t capacity);
  // The accesses are those of the trace, from its first on.
  Lookup access(Page page) override;
  void forget(Page page) override;
  [[nodiscard]] std::size_t resident() const override { return resident_; }

 private:
  using Time = std::uint32_t;  // number of an access
  static constexpr Time kNever = ~Time{0};
  static constexpr Time kAbsent = 0;  // no access has number 0 as its next one
  struct Candidate {
    Time next;
    Page page;
    bool operator<(const Candidate& other) const { return next < other.next; }
  };
  void evict();

  std::size_t capacity_;
  std::size_t resident_ = 0;
  std::vector<Time> next_of_access_;
  std::size_t now_ = 0;
  std::vector<Time> next_;  // of each page; kAbsent: it is not resident
  // The furthest first. An entry holds if it is the page's latest: others were overtaken.
  std::priority_queue<Candidate> candidates_;
};

}  // namespace buoy::sim
