#include "swap/cluster_map.h"

#include <cerrno>

#include "base/check.h"

namespace buoy::swap {
namespace {
// The file grows in steps of this many clusters (4 MiB), or by one when the disk is nearly full.
constexpr std::uint32_t kGrowClusters = 16;
}  // namespace

Status ClusterMap::create() {
  Status s = Error{ENOMEM};
  // What may be in the file was in the address space before.
  constexpr std::uint64_t kLeastCluster = std::uint64_t{64} << 10;
  for (std::uint32_t n = sys::most_needed(kMaxClusters, kLeastCluster, 1U << 12);
       !s && n >= 1U << 12; n /= 2)
    s = clusters_.create(n);
  return s;
}

void ClusterMap::gather_empty(std::uint8_t file_index) {
  if (maybe_empty_.exchange(0, std::memory_order_acquire) == 0) return;
  for (std::uint32_t i = 0; i < span_; ++i) {
    Cluster& c = at(i);
    if (c.file != file_index || c.state != ClusterState::kSealed || c.frozen != 0 ||
        c.live.load(std::memory_order_acquire) != 0)
      continue;
    c.state = ClusterState::kReady;
    ++ready_;
  }
}

Status ClusterMap::grow(const OpenFile& file, std::uint8_t file_index) {
  for (const std::uint32_t count : {kGrowClusters, 1U}) {
    if (span_ + count > clusters_.count()) return Error{ENOSPC};
    const Status s = allocate_space(file, file_bytes(), count * kClusterBytes);
    if (!s && count == 1) return s;
    if (!s) continue;
    for (std::uint32_t i = 0; i < count; ++i) {
      Cluster& c = at(span_++);
      c.number = next_number_.fetch_add(1, std::memory_order_relaxed);
      c.file = file_index;
      c.state = ClusterState::kReady;
    }
    ready_ += count;
    held_.fetch_add(count, std::memory_order_relaxed);
    return {};
  }
  return Error{ENOSPC};
}

std::uint32_t ClusterMap::take(const OpenFile& file, std::uint8_t file_index, Purpose purpose,
                               Status* why) {
  *why = {};
  gather_empty(file_index);
  // One ready cluster is kept for collection, which makes more of them.
  const std::uint32_t kept = purpose == Purpose::kCollection ? 0 : 1;
  if (ready_ <= kept) {
    for (std::uint32_t i = 0; i < span_ && ready_ <= kept; ++i) {
      Cluster& c = at(i);
      if (c.file != file_index || c.state != ClusterState::kHole) continue;
      if (*why = allocate_space(file, offset_of(i), kClusterBytes); !*why) break;
      c.state = ClusterState::kReady;
      ++ready_;
      held_.fetch_add(1, std::memory_order_relaxed);
    }
    // The very first growth by one cluster would leave it to collection; hence a second.
    while (ready_ <= kept)
      if (*why = grow(file, file_index); !*why) return kNone;
  }
  for (std::uint32_t i = 0; i < span_; ++i) {
    Cluster& c = at(i);
    if (c.file != file_index || c.state != ClusterState::kReady) continue;
    --ready_;
    c.state = ClusterState::kOpen;
    c.filled = 0;
    ++c.generation;
    c.is_unreadable = false;
    c.live_bytes.store(0, std::memory_order_relaxed);
    c.live.store(1, std::memory_order_relaxed);
    return i;
  }
  return kNone;
}

void ClusterMap::seal(std::uint32_t cluster) {
  BUOY_DCHECK(at(cluster).state == ClusterState::kOpen);
  at(cluster).state = ClusterState::kSealed;
  drop(cluster);
}

std::uint32_t ClusterMap::find_sparse(std::uint8_t file_index, unsigned share) const {
  std::uint32_t best = kNone;
  auto least = static_cast<std::uint32_t>(kClusterBytes * share / 100);
  for (std::uint32_t i = 0; i < span_; ++i) {
    const Cluster& c = at(i);
    if (c.file != file_index || c.state != ClusterState::kSealed || c.frozen != 0) continue;
    if (c.uses != 0 || c.is_unreadable) continue;
    if (c.live.load(std::memory_order_relaxed) == 0) continue;  // gathered for nothing
    const std::uint32_t bytes = c.live_bytes.load(std::memory_order_relaxed);
    if (bytes >= least) continue;
    least = bytes;
    best = i;
  }
  return best;
}

void ClusterMap::release_ready(const OpenFile& file, std::uint8_t file_index, std::uint32_t keep) {
  gather_empty(file_index);
  // From the end, so that what stays lies at the start.
  for (std::uint32_t i = span_; i-- > 0 && ready_ > keep;) {
    Cluster& c = at(i);
    if (c.file != file_index || c.state != ClusterState::kReady) continue;
    if (!give_back_space(file, offset_of(i), kClusterBytes)) return;
    c.state = ClusterState::kHole;
    --ready_;
    held_.fetch_sub(1, std::memory_order_relaxed);
  }
}

void ClusterMap::freeze(std::uint8_t bit) {
  for (std::uint32_t i = 0; i < span_; ++i)
    if (at(i).live.load(std::memory_order_relaxed) != 0)
      at(i).frozen = static_cast<std::uint8_t>(at(i).frozen | bit);
}

void ClusterMap::thaw(std::uint8_t bit) {
  for (std::uint32_t i = 0; i < span_; ++i)
    at(i).frozen = static_cast<std::uint8_t>(at(i).frozen & ~bit);
  maybe_empty_.fetch_add(1, std::memory_order_release);
}

}  // namespace buoy::swap
