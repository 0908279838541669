#include "cli/control_protocol.h"

#include <climits>
#include <nlohmann/json.hpp>

#include "api/pool.h"
#include "cli/run_options.h"
#include "cli/size.h"

namespace buoy::cli {
namespace {

using Json = nlohmann::json;
using Kind = ControlRequest::Kind;

constexpr std::uint64_t kShortestInterval = 100;        // ms
constexpr std::uint64_t kLongestInterval = 86'400'000;  // a day

struct Word {
  std::string_view name;
  Kind kind;
};
constexpr Word kWords[] = {{"stats", Kind::kStats},         {"set-budget", Kind::kSetBudget},
                           {"reclaim", Kind::kReclaim},     {"compact", Kind::kCompact},
                           {"subscribe", Kind::kSubscribe}, {"picture", Kind::kPicture}};

Failure wrong(std::string why) { return {kUsage, std::move(why)}; }

const Word* find_word(std::string_view name) {
  for (const Word& word : kWords)
    if (word.name == name) return &word;
  return nullptr;
}

// A whole number within limits, or a sentence that names the field.
Outcome<std::uint64_t> number_in(const Json& object, const char* name, std::uint64_t least,
                                 std::uint64_t most) {
  const auto field = object.find(name);
  if (field != object.end() && field->is_number_unsigned()) {
    const auto value = field->get<std::uint64_t>();
    if (value >= least && value <= most) return value;
  }
  return wrong(std::string(name) + ": a whole number from " + std::to_string(least) + " to " +
               std::to_string(most) + " is wanted");
}

// Invalid UTF-8 (a program's name may hold anything) is replaced.
std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::uint64_t word_named(const MemberReply& reply, std::string_view name) {
  for (std::size_t i = 0; i < reply.words.size() && i < Pool::stat_count(); ++i)
    if (Pool::stat_name(i) == name) return reply.words[i];
  return 0;
}

Json statistics_of(const MemberReply& reply) {
  Json object = Json::object();
  for (std::size_t i = 0; i < reply.words.size() && i < Pool::stat_count(); ++i)
    object[std::string(Pool::stat_name(i))] = reply.words[i];
  return object;
}

// Rows of numbers; their meaning is in docs/control.md.
Json picture_of(const Picture& picture) {
  Json cells = Json::array();
  for (const PictureCell& cell : picture.cells) {
    Json row = {cell.first_block * kBlockSize, cell.blocks, cell.region * kPageSize};
    for (const std::uint32_t pages : cell.pages) row.push_back(pages);
    row.push_back(cell.faults);
    cells.push_back(std::move(row));
  }
  Json arena = Json::array();
  for (const PictureBlock& block : picture.blocks)
    arena.push_back({block.state == PictureBlock::kPresent ? 1 : 0, block.free, block.movable});
  return {{"cells", std::move(cells)},
          {"cells_left_out", picture.cells_left_out},
          {"arena", std::move(arena)},
          {"arena_left_out", picture.blocks_left_out}};
}

Json process_of(Kind kind, const MemberReply& reply) {
  Json object = {{"pid", reply.pid}, {"command", reply.command}};
  if (!reply.error.empty()) object["error"] = reply.error;
  if (reply.picture) object["picture"] = picture_of(*reply.picture);
  if (reply.words.empty() || kind == Kind::kPicture) return object;
  if (kind == Kind::kStats || kind == Kind::kSubscribe) {
    object["stats"] = statistics_of(reply);
    return object;
  }
  object["budget_bytes"] = word_named(reply, "budget_bytes");
  object["resident_bytes"] = word_named(reply, "resident_bytes");
  if (kind == Kind::kReclaim) object["reclaimed_bytes"] = reply.result;
  return object;
}

}  // namespace

Outcome<ControlRequest> parse_request(std::string_view line) {
  if (line.size() >= kMostRequestBytes)
    return wrong("a request of more than " + std::to_string(kMostRequestBytes) + " bytes");
  const Json json = Json::parse(line, nullptr, false);
  if (json.is_discarded() || !json.is_object())
    return wrong(R"(not a JSON object on one line, as in {"op":"stats"})");
  const auto op = json.find("op");
  if (op == json.end() || !op->is_string())
    return wrong(R"("op" is missing, as in {"op":"stats"})");
  const Word* word = find_word(op->get_ref<const std::string&>());
  if (word == nullptr)
    return wrong("unknown op; there are stats, set-budget, reclaim, compact, subscribe, picture");
  ControlRequest request;
  request.kind = word->kind;
  if (json.contains("pid") || word->kind == Kind::kPicture) {
    const auto pid = number_in(json, "pid", 1, INT_MAX);
    if (!pid) return pid.failure();
    request.pid = static_cast<pid_t>(*pid);
  }
  if (word->kind == Kind::kSetBudget || word->kind == Kind::kReclaim) {
    const ByteSize least = word->kind == Kind::kSetBudget ? Budget::kMinimum : 1;
    const auto bytes = number_in(json, "bytes", least, kLargestBudget);
    if (!bytes) return bytes.failure();
    request.bytes = *bytes;
  }
  if (word->kind == Kind::kSubscribe) {
    const auto interval = number_in(json, "interval_ms", kShortestInterval, kLongestInterval);
    if (!interval) return interval.failure();
    request.interval = std::chrono::milliseconds(*interval);
  }
  return request;
}

std::string format_error(const std::string& why) {
  return line_of({{"ok", false}, {"error", why}});
}

std::string format_answer(Kind kind, const RunFacts& run, const std::vector<MemberReply>& replies) {
  bool all_well = true;
  Json processes = Json::array();
  for (const MemberReply& reply : replies) {
    all_well = all_well && reply.error.empty();
    processes.push_back(process_of(kind, reply));
  }
  Json about = {{"pid", run.pid},
                {"command", run.command},
                {"version", BUOY_VERSION},
                {"budget_bytes", run.budget},
                {"budget_scope", run.is_tree ? "tree" : "process"},
                {"not_shown", run.turned_away}};
  if (run.is_tree) about["leased_bytes"] = run.leased;
  return line_of(
      {{"ok", all_well}, {"run", std::move(about)}, {"processes", std::move(processes)}});
}

}  // namespace buoy::cli
