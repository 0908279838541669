// Replaying a trace: by a reference policy with room for so many pages, or by the engine.
#pragma once

#include "engine.h"
#include "policy.h"
#include "result.h"
#include "trace.h"

namespace buoy::sim {

// What to keep of a replay by the engine besides the counts.
enum class Detail : std::uint8_t { kCounts, kPicture };

[[nodiscard]] Replayed replay_policy(const NamedPolicy& policy, const Trace& trace,
                                     std::uint64_t budget_bytes);
[[nodiscard]] Replayed replay_engine(const EngineOptions& options, const Trace& trace,
                                     Detail detail);

}  // namespace buoy::sim
