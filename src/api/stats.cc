// What a pool tells about itself: gauges computed on demand, and every event counter.

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>

#include "api/pool.h"
#include "base/descriptors.h"
#include "base/digits.h"

namespace buoy {

namespace {
constexpr std::string_view kGauges[] = {
    "budget_bytes",
    "resident_bytes",
    "resident_peak_bytes",
    "standby_bytes",
    "lazyfree_bytes",
    "volatile_bytes",
    "compressed_bytes",
    "compressed_original_bytes",
    "backing_file_bytes",
    "backing_file_disk_bytes",
    "backing_files_disk_bytes",
    "backing_files_limit_bytes",
    "metadata_bytes",
    "pagetable_bytes",
    "pinned_bytes",
    "outside_bytes",
    "resident_without_lazyfree_bytes",
    "arena_bytes",
    "arena_lost_bytes",
    "contiguous_bytes",
    "balloon_bytes",
    "cma_blocked_by",
    "cma_blocked_at",
    "same_filled_pages",
    "incompressible_pages",
    "pressure_level",
    "mmu_take_ns",
};
}  // namespace

static_assert(std::size(kGauges) == Pool::kGaugeCount);

ByteSize Pool::metadata_bytes() const {
  return context_.table.touched_bytes() + swap_->stats().metadata_bytes + arena_->metadata_bytes() +
         mmu_->metadata_bytes() + vm_.metadata_bytes() + frames::kPlacedBytes<Pool> +
         static_cast<ByteSize>(users_metadata_.load(std::memory_order_relaxed));
}

// Of /proc/self/statm: pages resident, and those of them that are of files or shared.
ByteSize Pool::outside_bytes() const {
  char text[128];
  const descriptors::RoomForOne room;
  const long n = sys::read_file("/proc/self/statm", text, sizeof text - 1);
  if (n <= 0) return 0;
  text[n] = '\0';
  const char* at = text;
  std::uint64_t pages[3] = {};  // mapped, resident, shared
  for (std::uint64_t& p : pages) {
    p = parse_digits(&at);
    if (p == kNoNumber || *at++ != ' ') return 0;
  }
  const ByteSize ours = context_.budget.used().bytes() + metadata_bytes();
  const ByteSize all = (pages[1] - std::min(pages[1], pages[2])) * kPageSize;
  return all - std::min(all, ours);
}

bool Pool::stat(std::string_view name, std::uint64_t* value) const {
  const auto bytes_in = [this](PteState s) { return context_.pages_in(s) * kPageSize; };
  const ByteSize resident = context_.budget.used().bytes();
  if (name == "budget_bytes") return *value = context_.budget.limit().bytes(), true;
  if (name == "resident_bytes") return *value = resident, true;
  if (name == "resident_peak_bytes") return *value = context_.budget.peak().bytes(), true;
  if (name == "standby_bytes") return *value = bytes_in(PteState::kStandby), true;
  if (name == "lazyfree_bytes") return *value = context_.lazyfree_pages() * kPageSize, true;
  if (name == "resident_without_lazyfree_bytes")
    return *value = resident - context_.lazyfree_pages() * kPageSize, true;
  if (name == "volatile_bytes") return *value = vm_.volatile_pages().bytes(), true;
  if (name == "pressure_level")
    return *value = static_cast<std::uint64_t>(vm_.pressure_level()), true;
  if (name == "metadata_bytes") return *value = metadata_bytes(), true;
  if (name == "outside_bytes") return *value = outside_bytes(), true;
  if (name == "pagetable_bytes") return *value = mmu_->pagetable_bytes(), true;
  // What the engine believes just now that taking a run of pages away costs.
  if (name == "mmu_take_ns") return *value = mmu_->costs().take_run_ns, true;
  if (name == "arena_bytes") return *value = arena_->taken().bytes(), true;
  if (name == "arena_lost_bytes") return *value = arena_->compactor().lost_frames().bytes(), true;
  if (name == "contiguous_bytes") return *value = arena_->contiguous().frames().bytes(), true;
  if (name == "balloon_bytes") return *value = arena_->balloon().pages().bytes(), true;
  if (name == "cma_blocked_by")
    return *value = static_cast<std::uint64_t>(blocked_by_.load(std::memory_order_relaxed)), true;
  if (name == "cma_blocked_at") return *value = blocked_at_.load(std::memory_order_relaxed), true;
  if (name == "pinned_bytes") {
    const auto held = context_.held_pages.load(std::memory_order_relaxed);
    return *value = static_cast<std::uint64_t>(held < 0 ? 0 : held) * kPageSize, true;
  }
  if (name == "backing_file_disk_bytes")
    return *value = swap_->backing_file_allocated_bytes(), true;
  if (name == "backing_files_disk_bytes") return *value = swap_->backing_file_tree_bytes(), true;
  if (name == "backing_files_limit_bytes") return *value = swap_->backing_file_bound(), true;
  for (std::size_t e = 0; e < kEventCount; ++e)
    if (name == event_name(static_cast<Event>(e)))
      return *value = context_.counters.read(static_cast<Event>(e)), true;
  const swap::SwapStats swap = swap_->stats();
  if (name == "compressed_bytes") return *value = swap.compressed_bytes, true;
  if (name == "compressed_original_bytes") return *value = swap.compressed_original_bytes, true;
  if (name == "backing_file_bytes") return *value = swap.backing_file_bytes, true;
  if (name == "same_filled_pages") return *value = swap.same_filled_pages, true;
  if (name == "incompressible_pages") return *value = swap.incompressible_pages, true;
  return false;
}

const char* Pool::stat_name(std::size_t index) {
  // All of them are literals, so a zero follows.
  if (index < std::size(kGauges)) return kGauges[index].data();
  const std::size_t event = index - std::size(kGauges);
  return event < kEventCount ? event_name(static_cast<Event>(event)).data() : nullptr;
}

void Pool::write_stats(int fd) const {
  // One write: several processes may share the descriptor.
  char text[8192];
  std::size_t size = 0;
  const auto put = [&](std::string_view s) {
    if (size + s.size() > sizeof text) return;
    std::memcpy(text + size, s.data(), s.size());
    size += s.size();
  };
  const auto field = [&](std::string_view name) {
    std::uint64_t value = 0;
    if (!stat(name, &value)) return;
    sys::Line line;
    line.text("\"").text(name).text("\":").number(value);
    if (size > 1) put(",");
    put(line.view());
  };
  put("{");
  for (std::size_t i = 0; stat_name(i) != nullptr; ++i) field(stat_name(i));
  put("}\n");
  static_cast<void>(sys::write_all(fd, text, size));  // who asked reads what came
}

}  // namespace buoy
