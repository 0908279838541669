// Block: the memory that the processes of one `buoy run` share with their supervisor, so that it can
// ask each of them for its statistics, and to change its budget.
//
//   supervisor                                     a process of the run
//   creates the block, keeps it mapped             maps it at its start, takes a place in it
//   writes what it wants into the place,           a thread of its own sleeps on `request`;
//     raises `request`, wakes the sleeper  ------> does what is asked, publishes its numbers,
//   reads the numbers and the result       <------   sets `answered` to the same, wakes
//
// Inherited through exec (base/inherited_memory.h). A process that has it mapped needs the descriptor
// for its own children only.
//
//   [ header: layout, budget of the run | owners: one word a place | places | a canvas ]
//
// With one budget for all of them, it is the ledger of that, too: see ledger.h.
//
// Every process of the run can write anywhere in it, whoever it has become since: the supervisor
// takes nothing here for true but what harms nobody if it is not.
//
// Not here: what a request means, who waits for how long. Allocates nothing; async-signal-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/inherited_memory.h"
#include "base/result.h"

namespace buoy::control {

enum class Op : std::uint32_t {
  kStats = 1,      // publish
  kSetBudget = 2,  // argument: bytes
  kReclaim = 3,    // argument: bytes; the result: bytes that were freed
  kCompact = 4,
  kPicture = 5,  // draw on the canvas; argument: the tag that it gets
};

inline constexpr unsigned kPlaces = 512;
// What a process of a tree with one budget has at least: the smallest budget that can work. Bytes.
inline constexpr std::uint64_t kFirstLease = std::uint64_t{16} << 20;
inline constexpr unsigned kMostWords = 160;

// One process. What the supervisor writes and what the process writes are lines of their own.
struct Place {
  // The owner's word (see Block::owners), once the place is set up for it.
  std::atomic<std::uint64_t> ready;
  // CLOCK_BOOTTIME when it was taken: a process that started later is not its owner, whatever its
  // id says. Nanoseconds.
  std::atomic<std::uint64_t> taken_at;

  // By the supervisor. A request is there while `request` differs from `answered`.
  alignas(64) std::atomic<std::uint32_t> request;
  std::atomic<std::uint32_t> op;
  std::atomic<std::uint64_t> argument;

  // By the process. `words`: its statistics, in the order of Pool::stat_name().
  alignas(64) std::atomic<std::uint32_t> answered;
  std::atomic<std::int32_t> error;  // an errno, or 0
  std::atomic<std::uint64_t> result;
  alignas(64) std::atomic<std::uint64_t> words[kMostWords];

  // Of the ledger. Bytes of the one budget that are this process's.
  alignas(64) std::atomic<std::uint64_t> lease;
  // By anybody: bytes that it is to give back.
  std::atomic<std::uint64_t> lease_wanted;
  // By the process: bytes of its lease that it does not use, and how long its pages stay, in
  // milliseconds.
  std::atomic<std::uint64_t> unused;
  std::atomic<std::uint64_t> age_ms;
  // Raised and woken for whatever there is to do: a request, or a lease that is wanted.
  alignas(64) std::atomic<std::uint32_t> bell;
};

// Where a process draws what its memory looks like: one for the whole run, for who asks is served one
// after the other. The tag says whose it is and that it is whole; who draws late is told by it.
struct Canvas {
  static constexpr unsigned kWords = 12304;
  std::atomic<std::uint64_t> tag;
  std::atomic<std::uint64_t> words[kWords];
};

class Block {
 public:
  // Room for the word that tells those who are executed where the block is.
  static constexpr std::size_t kTextBytes = InheritedMemory::kTextBytes;

  // The supervisor's: a new one, mapped, its descriptor inherited through exec. `layout`: what the
  // words mean; processes that mean something else do not take part. `*fd` is the descriptor.
  [[nodiscard]] static Result<Block*> create(std::uint64_t layout, char (&text)[kTextBytes],
                                             int* fd);
  // A process's: maps what the text tells of, and keeps the descriptor for its children. Null: it is
  // not there (any more), or of another layout.
  [[nodiscard]] static Block* accept(const char* text, std::uint64_t layout);
  static void unmap(Block* block);

  // A place for the calling process, whose id this is; its number: the one that it had before an exec, a free one, or
  // that of a process that is no more. kPlaces: all are taken; counted.
  [[nodiscard]] unsigned take_place(int process);
  // Is the place still the calling process's, as it was when it was taken?
  [[nodiscard]] bool is_owner(unsigned place, std::uint64_t word) const {
    return owners_[place].load(std::memory_order_acquire) == word;
  }
  // 0: free. Otherwise the process id, and above it how often the place was taken.
  [[nodiscard]] std::uint64_t owner(unsigned place) const {
    return owners_[place].load(std::memory_order_acquire);
  }
  [[nodiscard]] static int pid_of(std::uint64_t owner) {
    return static_cast<int>(owner & kPidMask);
  }
  // Gives the place of a process that is no more back, and its lease. Nothing, if it is another's by
  // now.
  void free_place(unsigned place, std::uint64_t owner);

  // For a fork: a place that is the parent's until it is the child's; kPlaces: none is free. Its
  // word then is that of `owner()`.
  [[nodiscard]] unsigned reserve_place(int parent);
  // By the parent, the child or both: it is the child's, unless it died and another has it.
  void hand_over(unsigned place, std::uint64_t reserved, int child);
  // By the child.
  void settle_in(unsigned place);

  [[nodiscard]] Place& place(unsigned i) { return places_[i]; }

  [[nodiscard]] Canvas& canvas() { return canvas_; }

  // What processes that start from now on have as their budget, in place of what the environment
  // says. Bytes; 0: nothing else.
  std::atomic<std::uint64_t> budget_of_run;
  // Processes that found no place.
  std::atomic<std::uint64_t> turned_away;

  // The ledger: what all processes may have together, 0 if each has a budget of its own; how much of
  // it is leased; raised and woken whenever some comes back.
  std::atomic<std::uint64_t> tree_limit;
  std::atomic<std::uint64_t> leased;
  std::atomic<std::uint32_t> returns;

 private:
  static constexpr std::uint64_t kPidMask = 0xffffffffU;
  // Nobody's for a moment. Process 1 is always there, so nobody takes it for gone.
  static constexpr std::uint64_t kBeingFreed = (std::uint64_t{1} << 63) | 1;
  [[nodiscard]] bool try_take(unsigned place, std::uint64_t from, int process);
  void drop_lease(unsigned place, std::uint64_t kept);
  std::uint64_t layout_;
  std::atomic<std::uint64_t> owners_[kPlaces];
  Place places_[kPlaces];
  Canvas canvas_;
};

// The supervisor's half. Raises the request; its number, to wait for.
std::uint32_t post(Place& place, Op op, std::uint64_t argument);
// Has it been answered? Not so: waits for at most this time, or until somebody wakes it.
[[nodiscard]] bool wait_for_answer(Place& place, std::uint32_t request, std::uint64_t timeout_ns);

// Wakes the process's thread to look what there is to do.
void ring(Place& place);

// The process's half. Sleeps until there is something to do: a request, or a lease that is wanted.
void wait_for_work(Place& place);
// Is there a request? Its number.
[[nodiscard]] bool has_request(const Place& place, std::uint32_t* request);
void answer(Place& place, std::uint32_t request, int error, std::uint64_t result);

// A word for what the given names in this order mean, and for this file's own shape.
class LayoutOf {
 public:
  void add(std::string_view name);
  [[nodiscard]] std::uint64_t word() const { return hash_; }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325U ^ sizeof(Block);  // FNV-1a
};

}  // namespace buoy::control
