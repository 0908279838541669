#include "trace.h"

#include <algorithm>
#include <stdexcept>

namespace buoy::sim {

namespace {
constexpr std::uint64_t kBlock = 512;  // pages
constexpr std::uint64_t kMostBlocks = (std::uint64_t{1} << 32) / kBlock - 1;
}  // namespace

void Trace::recount() {
  accesses = 0;
  footprint = 0;
  Page end = 0;
  for (const Event& e : events)
    if (e.is_access()) end = std::max(end, e.page() + 1);
  std::vector<bool> seen(end);
  for (const Event& e : events) {
    if (!e.is_access()) continue;
    ++accesses;
    if (seen[e.page()]) continue;
    seen[e.page()] = true;
    ++footprint;
  }
  pages = std::max(pages, end);
}

// The blocks that are accessed, in the order of their addresses.
TraceBuilder::Ranks TraceBuilder::rank_blocks() const {
  Ranks ranks;
  std::vector<std::uint64_t> blocks;
  for (const Raw& raw : raw_) {
    if (raw.act > Act::kStore) continue;
    if (ranks.emplace(raw.page / kBlock, 0).second) blocks.push_back(raw.page / kBlock);
  }
  if (blocks.size() > kMostBlocks)
    throw std::runtime_error("the trace touches more than 16 TiB, which is beyond the simulator");
  std::sort(blocks.begin(), blocks.end());
  for (std::uint32_t rank = 0; rank < blocks.size(); ++rank) ranks[blocks[rank]] = rank;
  return ranks;
}

void TraceBuilder::emit(const Raw& raw, const Ranks& ranks, Trace& trace) const {
  const std::uint64_t end = raw.page + raw.count;
  // A run over more blocks than there are is looked up the other way round: most are not there.
  if (raw.count / kBlock > ranks.size()) {
    std::vector<std::pair<std::uint64_t, std::uint32_t>> there;
    for (const auto& [block, rank] : ranks)
      if ((block + 1) * kBlock > raw.page && block * kBlock < end) there.emplace_back(block, rank);
    std::sort(there.begin(), there.end());
    for (const auto& [block, rank] : there) {
      const std::uint64_t first = std::max(raw.page, block * kBlock);
      const std::uint64_t last = std::min(end, (block + 1) * kBlock);
      trace.events.emplace_back(raw.act, static_cast<Page>(rank * kBlock + first % kBlock),
                                static_cast<std::uint32_t>(last - first));
    }
    return;
  }
  for (std::uint64_t first = raw.page; first < end;) {
    const std::uint64_t last = std::min(end, (first / kBlock + 1) * kBlock);
    const auto found = ranks.find(first / kBlock);
    if (found != ranks.end())
      trace.events.emplace_back(raw.act, static_cast<Page>(found->second * kBlock + first % kBlock),
                                static_cast<std::uint32_t>(last - first));
    first = last;
  }
}

Trace TraceBuilder::finish() && {
  Trace trace;
  const Ranks ranks = rank_blocks();
  trace.events.reserve(raw_.size());
  for (const Raw& raw : raw_) emit(raw, ranks, trace);
  trace.pages = static_cast<Page>(ranks.size() * kBlock);
  trace.lost_records = lost_;
  trace.recount();
  return trace;
}

}  // namespace buoy::sim
