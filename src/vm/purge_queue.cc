#include "vm/purge_queue.h"

#include <algorithm>

namespace buoy {

PurgeQueue::MarksMade PurgeQueue::marks_made() const {
  MarksMade made;
  for (unsigned p = 0; p < kPriorities; ++p)
    made[p] = marks_made_[p].load(std::memory_order_acquire);
  return made;
}

std::uint64_t PurgeQueue::sum(const MarksMade& made) {
  std::uint64_t sum = 0;
  for (const std::uint64_t m : made) sum += m;
  return sum;
}

bool PurgeQueue::is_overtaken(unsigned priority) const {
  for (unsigned p = 0; p < priority; ++p)
    if (marks_made_[p].load(std::memory_order_acquire) != batch_marks_[p]) return true;
  return false;
}

void PurgeQueue::push_candidate(const Candidate& candidate) {
  // A heap with the last to go on top, so that it makes room for better ones.
  if (batch_size_ == kBatch) {
    if (!goes_before(candidate, batch_[0])) return;
    std::pop_heap(batch_.begin(), batch_.begin() + batch_size_, goes_before);
    --batch_size_;
  }
  batch_[batch_size_++] = candidate;
  std::push_heap(batch_.begin(), batch_.begin() + batch_size_, goes_before);
}

bool PurgeQueue::is_wanted(const Extent& e, MarkWord word, PurgeEffort effort) const {
  if (effort == PurgeEffort::kHard) return true;
  return !word.has(MarkWord::kSpent) &&
         !has(e.flags.load(std::memory_order_relaxed), RegionFlags::kVolatileMayCompress);
}

std::uint64_t PurgeQueue::order_of(MarkWord word, std::uint64_t now) {
  std::uint64_t age = (now - word.stamp()) & MarkWord::kStampMask;
  if (age > MarkWord::kStampMask / 2) age = 0;  // marked while we look
  // What was emptied before comes last: only what is held or was filled again is in it.
  const std::uint64_t spent = word.has(MarkWord::kSpent) ? kPriorities : 0;
  return (spent + word.priority()) << MarkWord::kStampBits | (MarkWord::kStampMask - age);
}

PurgeQueue::Others PurgeQueue::collect(PurgeEffort effort) {
  batch_marks_ = marks_made();
  batch_effort_ = effort;
  batch_next_ = batch_size_ = 0;
  auto others = Others::kNothing;
  const std::uint64_t now = stamp_.load(std::memory_order_relaxed);
  const std::uint32_t end = extents_.high_water();
  for (std::uint32_t i = 1; i < end; ++i) {
    const Extent& e = extents_.at(i);
    const MarkWord word = e.mark.load();
    if (!word.has(MarkWord::kVolatile)) continue;
    if (word.has(MarkWord::kPurging | MarkWord::kSeized)) {
      others = std::max(others, word.has(MarkWord::kPurging) ? Others::kPurge : Others::kChange);
      continue;
    }
    if (is_wanted(e, word, effort)) push_candidate({order_of(word, now), word, i});
  }
  std::sort_heap(batch_.begin(), batch_.begin() + batch_size_, goes_before);
  return others;
}

PurgeQueue::Claim PurgeQueue::claim_from_batch() {
  while (batch_next_ < batch_size_) {
    const Candidate& c = batch_[batch_next_];
    if (is_overtaken(c.word.priority())) break;
    ++batch_next_;
    Extent& e = extents_.at(c.extent);
    MarkWord seen = c.word;
    step_();
    if (e.mark.try_change(&seen, c.word.with(MarkWord::kPurging)))
      return {c.extent, e.run(), std::max(e.resume, e.first_page()), c.word, Others::kNothing};
    // If it was cut, its parts are as old as it was, and not in the batch.
    if (!seen.has_same_generation_as(c.word)) break;
  }
  batch_next_ = batch_size_;
  return {};
}

PurgeQueue::Claim PurgeQueue::claim(PurgeEffort effort) {
  if (effort == PurgeEffort::kGentle &&
      sum(marks_made()) == nothing_at_.load(std::memory_order_acquire))
    return {};
  const Guard guard(lock_);
  Claim none;
  if (batch_effort_ != effort) batch_next_ = batch_size_;
  for (unsigned collected = 0;; ++collected) {
    if (const Claim claimed = claim_from_batch()) return claimed;
    none.others = Others::kChange;
    if (collected == 2) return none;  // others were faster, twice
    none.others = collect(effort);
    if (batch_size_ != 0) continue;
    if (none.others == Others::kNothing && effort == PurgeEffort::kGentle)
      nothing_at_.store(sum(batch_marks_), std::memory_order_release);
    return none;
  }
}

void PurgeQueue::put_back(const Claim& claim, MarkWord now) {
  const Guard guard(lock_);
  nothing_at_.store(kNever, std::memory_order_release);
  if (batch_next_ > 0 && now.has_same_mark_as(claim.word))
    batch_[--batch_next_] = {0, now, claim.extent};
}

}  // namespace buoy
