// What the processes of the `swap` benchmark do: the workload over a pool's memory, or over plain
// anonymous memory (in a cgroup that swaps, or under `buoy run`).
#include <sys/mman.h>

#include <cstdint>

#include "buoy/buoy.h"
#include "child.h"
#include "machine.h"
#include "swap_workload.h"

namespace buoy::bench {

BUOY_BENCH_SIDE(swap_library) {
  const Workload workload = workload_of(arguments);
  buoy_options options{};
  options.struct_size = sizeof options;
  options.budget = static_cast<std::size_t>(number_of(arguments, "budget"));
  options.faults = BUOY_FAULTS_SIGNAL;
  if (arguments.count("file") != 0) options.backing_file = text_of(arguments, "file").c_str();
  buoy_pool* pool = nullptr;
  if (buoy_pool_create(&options, &pool) != 0) throw Unavailable(because_errno("buoy_pool_create"));
  void* const memory = buoy_map(pool, workload.set_bytes, 0);
  if (memory == nullptr) throw Unavailable(because_errno("buoy_map"));

  Sample sample = run_workload(workload, static_cast<std::uint64_t*>(memory));
  for (const char* name : {"resident_peak_bytes", "resident_bytes", "arena_bytes", "standby_bytes",
                           "metadata_bytes", "compressed_bytes", "compressed_original_bytes"}) {
    std::uint64_t value = 0;
    if (buoy_pool_stat(pool, name, &value) != 0) throw Unavailable(because_errno(name));
    sample[name] = static_cast<double>(value);
  }
  answer(sample);

  if (buoy_unmap(memory, workload.set_bytes) != 0) throw Unavailable(because_errno("buoy_unmap"));
  if (buoy_pool_destroy(pool) != 0) throw Unavailable(because_errno("buoy_pool_destroy"));
}

BUOY_BENCH_SIDE(swap_plain) {
  const Workload workload = workload_of(arguments);
  void* const memory = mmap(nullptr, workload.set_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Unavailable(because_errno("mmap"));
  // 4 KiB pages, whatever the machine's huge page mode: that is what is swapped one by one.
  madvise(memory, workload.set_bytes, MADV_NOHUGEPAGE);
  answer(run_workload(workload, static_cast<std::uint64_t*>(memory)));
}

}  // namespace buoy::bench
