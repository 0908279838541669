// Commitment: how much memory a program has been promised that it has not touched yet, and whether one
// promise more could be kept (--on-exhausted enomem).
//
//   promised   pages that the program may store to: mapped with some access, or handed out by Extents
//   contents   pages of it that hold something: resident, compressed, in the file; not those that are
//              zeros all over and take no room (calloc's), which are stored to sooner or later
//   owed       promised - contents: what touches may ask for without a word
//   room       free frames of the budget, those inside blocks of the arena (what is resident can be
//              squeezed into them), what is lazily freed, what the file can still take
//
// A promise is refused where `owed` would come to more than `room` less a reserve. Compression counts
// only once it has happened: nobody knows how well the next pages compress. So whoever finds too
// little room squeezes first, and looks again.
//
// Not kept, it costs one load a question. Counts only; which pages are promised Vm knows, and Extents.
#pragma once

#include <atomic>
#include <cstdint>

#include "reclaim/reclaimer.h"

namespace buoy {

class Commitment {
 public:
  Commitment(Context& context, Reclaimer& reclaimer) : context_(context), reclaimer_(reclaimer) {}
  Commitment(const Commitment&) = delete;
  Commitment& operator=(const Commitment&) = delete;

  // From now on. Before anything is promised.
  void begin() { is_kept_ = true; }
  [[nodiscard]] bool is_kept() const { return is_kept_; }

  // Promises so many pages more, reclaiming if that makes the room. False: they might not be had; no
  // promise is made. The caller is outside the gate and holds no engine lock. True where promises are
  // not kept count of.
  [[nodiscard]] bool try_promise(PageCount n);
  // A promise that is made already, or need not be asked for, counted from here on.
  void add(PageCount n) { promised_.fetch_add(n.value(), std::memory_order_relaxed); }
  void drop(PageCount n) { promised_.fetch_sub(n.value(), std::memory_order_relaxed); }
  // So much of what was promised is tables of an allocator, most of which it will never touch: what it
  // has touched so far is what they come to.
  void settle_tables(PageCount promised) {
    drop(promised);
    add(contents());
  }

 private:
  [[nodiscard]] PageCount contents() const;
  [[nodiscard]] PageCount owed() const;
  // What is missing for `n` pages that are counted already; zero: nothing.
  [[nodiscard]] PageCount missing(PageCount n) const;
  [[nodiscard]] PageCount reserve_for(PageCount n) const;

  Context& context_;
  Reclaimer& reclaimer_;
  bool is_kept_ = false;
  std::atomic<std::uint64_t> promised_{0};
};

// A promise that is asked for ahead of the locks under which it is entered: counted twice in between,
// and dropped at the end. Nothing where promises are not kept count of.
class Pledge {
 public:
  Pledge(Commitment& commitment, PageCount n)
      : commitment_(commitment), held_(commitment.is_kept() ? n : PageCount()) {
    is_made_ = held_.is_zero() || commitment_.try_promise(held_);
  }
  ~Pledge() {
    if (is_made_) commitment_.drop(held_);
  }
  Pledge(const Pledge&) = delete;
  Pledge& operator=(const Pledge&) = delete;
  // False: ENOMEM.
  [[nodiscard]] bool is_made() const { return is_made_; }

 private:
  Commitment& commitment_;
  PageCount held_;
  bool is_made_;
};

}  // namespace buoy
