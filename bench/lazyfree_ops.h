// The operations of the `lazyfree` benchmark, timed on one side's memory.
#pragma once

#include <cstddef>
#include <string>

#include "lazy_memory.h"
#include "samples.h"

namespace buoy::bench {

enum class Operation {
  kMark,     // mark all, `run` pages a call
  kStore,    // all marked by one call; one store to every `step`th page, in runs of `run` pages
             // that are visited in random order
  kReclaim,  // all marked; reclaimed: by one call where run is 0, else `run` pages a call
  kLimit,    // all marked; reclaimed by lowering the limit of this process's cgroup
  kSkip,     // all marked, one store into each 2 MiB; reclaim finds nothing. Per 2 MiB
  kEager,    // discarded, `run` pages a call, and stored to again in order
  kDiscard,  // discarded, `run` pages a call: the least that reclaim on such pages can cost
};

struct Task {
  Operation operation;
  std::size_t run;    // pages a call; for kStore pages on end. 0: all of them
  std::size_t step;   // kStore: one page of so many
  std::size_t pages;  // of the memory
  unsigned threads;   // 2: another thread of the process computes meanwhile
  std::size_t rounds;
  std::string cgroup;  // kLimit: the folder of the cgroup that this process is in
};

// Does the task `rounds` times, after one round that is not counted. The sample has the median of
// the thread's CPU time, in nanoseconds a page (kStore: a store; kSkip: 2 MiB), as "ns"; for kStore
// and kEager also what the stores alone took, as "store_ns". Throws Unavailable, also where the
// memory does not behave as it should: what was not discarded is there, what was reclaimed is gone.
[[nodiscard]] Sample run_task(const Task& task, LazyMemory& memory);

[[nodiscard]] Arguments to_arguments(const Task& task);
[[nodiscard]] Task task_of(const Arguments& arguments);

}  // namespace buoy::bench
