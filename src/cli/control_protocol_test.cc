#include "cli/control_protocol.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <nlohmann/json.hpp>

#include "api/pool.h"
#include "cli/answer.h"
#include "cli/prometheus.h"

namespace buoy::cli {
namespace {

using Json = nlohmann::json;
using Kind = ControlRequest::Kind;

TEST(ControlProtocol, RequestsAreRead) {
  EXPECT_EQ(parse_request(R"({"op":"stats"})")->kind, Kind::kStats);
  EXPECT_EQ(parse_request(R"({"op":"stats","pid":12})")->pid, 12);
  const auto budget = parse_request(R"( {"bytes":16777216, "op":"set-budget"} )");
  ASSERT_TRUE(budget);
  EXPECT_EQ(budget->kind, Kind::kSetBudget);
  EXPECT_EQ(budget->bytes, 16777216U);
  EXPECT_EQ(parse_request(R"({"op":"reclaim","bytes":1})")->bytes, 1U);
  EXPECT_EQ(parse_request(R"({"op":"compact"})")->kind, Kind::kCompact);
  EXPECT_EQ(parse_request(R"({"op":"subscribe","interval_ms":250})")->interval.count(), 250);
}

TEST(ControlProtocol, WhatIsNoRequestIsToldWhy) {
  const auto why = [](std::string_view line) {
    const auto request = parse_request(line);
    return request ? std::string("accepted") : request.failure().line;
  };
  EXPECT_NE(why("").find("not a JSON object"), std::string::npos);
  EXPECT_NE(why("stats").find("not a JSON object"), std::string::npos);
  EXPECT_NE(why("[1]").find("not a JSON object"), std::string::npos);
  EXPECT_NE(why(R"({"op":"stats"} {})").find("not a JSON object"), std::string::npos);
  EXPECT_NE(why("{}").find("\"op\" is missing"), std::string::npos);
  EXPECT_NE(why(R"({"op":7})").find("\"op\" is missing"), std::string::npos);
  EXPECT_NE(why(R"({"op":"trace"})").find("unknown op"), std::string::npos);
  EXPECT_NE(why(R"({"op":"set-budget"})").find("bytes"), std::string::npos);
  for (const char* bytes : {"-1", "0", "1.5", "\"32M\"", "16777215", "18446744073709551616", "null",
                            "[]", "true", "8796093022209"})
    EXPECT_NE(why(std::string(R"({"op":"set-budget","bytes":)") + bytes + "}").find("bytes:"),
              std::string::npos)
        << bytes;
  for (const char* interval : {"0", "99", "86400001", "-5"})
    EXPECT_NE(why(std::string(R"({"op":"subscribe","interval_ms":)") + interval + "}")
                  .find("interval_ms:"),
              std::string::npos)
        << interval;
  for (const char* pid : {"0", "-1", "2147483648", "\"1\""})
    EXPECT_NE(why(std::string(R"({"op":"stats","pid":)") + pid + "}").find("pid:"),
              std::string::npos)
        << pid;
  EXPECT_NE(why(std::string(kMostRequestBytes, ' ')).find("more than"), std::string::npos);
  EXPECT_NE(why(std::string(kMostRequestBytes - 1, '[')).find("not a JSON"), std::string::npos);
}

RC_GTEST_PROP(ControlProtocol, NoLineDoesHarm, (const std::string& noise, unsigned at)) {
  std::string line = R"({"op":"set-budget","bytes":33554432,"pid":5})";
  line.insert(at % line.size(), noise);
  const auto request = parse_request(line);
  RC_ASSERT(request || !request.failure().line.empty());
  if (request) RC_ASSERT(request->bytes >= Budget::kMinimum);
}

MemberReply reply_of(pid_t pid, std::string command) {
  MemberReply reply;
  reply.pid = pid;
  reply.command = std::move(command);
  for (std::size_t i = 0; i < Pool::stat_count(); ++i) reply.words.push_back(1000 + i);
  return reply;
}

TEST(ControlProtocol, AnswersHoldEveryStatisticByItsName) {
  const std::string line =
      format_answer(Kind::kStats, {77, "a run", 1 << 25, 0}, {reply_of(5, "p")});
  const auto answer = parse_answer(line);
  ASSERT_TRUE(answer);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ((*answer)["run"]["pid"], 77);
  EXPECT_EQ((*answer)["ok"], true);
  for (std::size_t i = 0; i < Pool::stat_count(); ++i)
    EXPECT_EQ(number((*answer)["processes"][0]["stats"], std::string(Pool::stat_name(i)).c_str()),
              1000 + i);
}

TEST(ControlProtocol, OneProcessThatFailsMakesTheAnswerFail) {
  MemberReply silent;
  silent.pid = 6;
  silent.error = "process 6 does not answer";
  const auto answer = parse_answer(
      format_answer(Kind::kSetBudget, {77, "a run", 1 << 25, 0}, {reply_of(5, "p"), silent}));
  ASSERT_TRUE(answer);
  EXPECT_EQ((*answer)["ok"], false);
  EXPECT_EQ((*answer)["processes"][0]["budget_bytes"], 1000);
  EXPECT_EQ((*answer)["processes"][1]["error"], "process 6 does not answer");
  EXPECT_FALSE((*answer)["processes"][1].contains("budget_bytes"));
}

TEST(ControlProtocol, NamesThatAreNoTextAreSentAsText) {
  const std::string line =
      format_answer(Kind::kStats, {77, "\xff\xfe", 0, 0}, {reply_of(5, "a\"b\\\n\xc3")});
  EXPECT_FALSE(Json::parse(line, nullptr, false).is_discarded());
}

TEST(ControlProtocol, RefusalsAreFailures) {
  const auto refused = parse_answer(format_error("not yours"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.failure().line, "not yours");
  EXPECT_FALSE(parse_answer("{}"));
  EXPECT_FALSE(parse_answer("what"));
  EXPECT_FALSE(parse_answer(R"({"run":{},"processes":3})"));
}

TEST(Prometheus, GaugesAndCountersWithEscapedLabels) {
  const auto answer =
      parse_answer(format_answer(Kind::kStats, {77, "r", 0, 0}, {reply_of(5, R"(say "a\b")")}));
  ASSERT_TRUE(answer);
  const std::string text = format_prometheus(std::vector<Json>(1, *answer));
  EXPECT_NE(text.find("# TYPE buoy_budget_bytes gauge\nbuoy_budget_bytes{run=\"77\",pid=\"5\","
                      "command=\"say \\\"a\\\\b\\\"\"} 1000\n"),
            std::string::npos)
      << text.substr(0, 300);
  EXPECT_NE(text.find("# TYPE buoy_pgfault_total counter\n"), std::string::npos);
}

TEST(Prometheus, FaultTimesAreAHistogramOfSeconds) {
  MemberReply reply = reply_of(5, "p");
  const auto word = [&](Event e) -> std::uint64_t& {
    return reply.words[Pool::kGaugeCount + static_cast<std::size_t>(e)];
  };
  for (unsigned i = 0; i < kFaultTimeBuckets; ++i) word(fault_time_bucket(i)) = 0;
  word(Event::fault_us_0) = 3;
  word(Event::fault_us_2) = 4;
  word(Event::fault_us_16384) = 1;
  word(Event::fault_ns) = 2'000'000'123;
  const auto answer = parse_answer(format_answer(Kind::kStats, {77, "r", 0, 0}, {reply}));
  ASSERT_TRUE(answer);
  const std::string text = format_prometheus(std::vector<Json>(2, *answer));
  const auto has = [&](const std::string& line) { return text.find(line) != std::string::npos; };
  const std::string labels = R"({run="77",pid="5",command="p")";
  EXPECT_TRUE(has("# TYPE buoy_fault_seconds histogram\n"));
  EXPECT_EQ(text.find("# TYPE buoy_fault_seconds"), text.rfind("# TYPE buoy_fault_seconds"))
      << "a family is told once, however many runs there are";
  EXPECT_TRUE(has("buoy_fault_seconds_bucket" + labels + R"(,le="0.000001000"} 3)"));
  EXPECT_TRUE(has("buoy_fault_seconds_bucket" + labels + R"(,le="0.000002000"} 3)"));
  EXPECT_TRUE(has("buoy_fault_seconds_bucket" + labels + R"(,le="0.000004000"} 7)"));
  EXPECT_TRUE(has("buoy_fault_seconds_bucket" + labels + R"(,le="0.016384000"} 7)"));
  EXPECT_TRUE(has("buoy_fault_seconds_bucket" + labels + R"(,le="+Inf"} 8)"));
  EXPECT_TRUE(has("buoy_fault_seconds_count" + labels + "} 8"));
  EXPECT_TRUE(has("buoy_fault_seconds_sum" + labels + "} 2.000000123"));
  EXPECT_FALSE(has("fault_us_"));
}

}  // namespace
}  // namespace buoy::cli
