#include "trace_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "base/trace_format.h"

namespace buoy::sim {
namespace {

class TraceFile : public ::testing::Test {
 protected:
  ~TraceFile() override { unlink(path_.c_str()); }
  const std::string& file(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    return path_;
  }
  // A letter an event and its page: l3 s4 d5+2 (two pages).
  static std::string drawn(const Trace& trace) {
    std::string text;
    for (const Event& e : trace.events) {
      text += (text.empty() ? "" : " ") +
              std::string(1, "lsdfcpw"[static_cast<unsigned>(e.act())]) + std::to_string(e.page());
      if (e.count() != 1) text += "+" + std::to_string(e.count());
    }
    return text;
  }
  std::string refusal(const std::string& bytes, TraceFormat format = TraceFormat::kAuto) {
    try {
      (void)read_trace(file(bytes), format);
    } catch (const std::exception& e) {
      return e.what();
    }
    return "read";
  }
  std::string path_ = "/tmp/buoy-trace-test." + std::to_string(getpid());
};

std::string header(std::uint32_t version = trace::kVersion) {
  trace::Header h = trace::make_header(trace::kFaultsOnly, 42, 1 << 26);
  h.version = version;
  return {reinterpret_cast<const char*>(&h), sizeof h};
}
std::string record(trace::Kind kind, std::uint64_t page, std::uint64_t count,
                   std::uint64_t sequence) {
  const trace::Record r(kind, page, count, sequence);
  return {reinterpret_cast<const char*>(&r), sizeof r};
}

TEST_F(TraceFile, ReadsPageNumbersAndThePublicLirsFormat) {
  const Trace trace =
      read_trace(file("* a comment\n5\n7 w\n*\n\n# another\n5 r\r\n"), TraceFormat::kAuto);
  EXPECT_EQ(drawn(trace), "l5 s7 l5");
  EXPECT_EQ(trace.accesses, 3U);
  EXPECT_EQ(trace.footprint, 2U);
}

TEST_F(TraceFile, ReadsThePublicArcFormat) {
  const Trace trace = read_trace(file("10 3 0 0\n11 1 0 1\n"), TraceFormat::kAuto);
  EXPECT_EQ(drawn(trace), "l10 l11 l12 l11");
  // The same words as page numbers, if the user says so.
  EXPECT_EQ(drawn(read_trace(path_, TraceFormat::kPages)), "l10 l11");
}

TEST_F(TraceFile, ClosesGapsByWholeBlocks) {
  // Blocks 0, 1 and 4000000: the places in the blocks and the neighbours stay.
  const Trace trace = read_trace(file("2048000003\n511\n512\n"), TraceFormat::kAuto);
  EXPECT_EQ(drawn(trace), "l1027 l511 l512");
  EXPECT_EQ(trace.pages, 3U * 512);
}

TEST_F(TraceFile, SaysWhichLineIsWrong) {
  EXPECT_THAT(refusal("1\n2\nthree\n"), ::testing::HasSubstr(":3: not a page number"));
  EXPECT_THAT(refusal("-1\n"), ::testing::HasSubstr(":1: not a page number"));
  EXPECT_THAT(refusal("1 2 0 0\n1 0 0 0\n"), ::testing::HasSubstr(":2: not `start count"));
  EXPECT_THAT(refusal("99999999999999999999999\n"), ::testing::HasSubstr(":1: not a page number"));
  EXPECT_THAT(refusal("* nothing\n"), ::testing::HasSubstr("no access"));
  EXPECT_THAT(refusal("1\n", TraceFormat::kBinary), ::testing::HasSubstr("no trace of buoy run"));
}

TEST_F(TraceFile, ReadsBinaryRecordsInTheOrderOfTheirNumbers) {
  const Trace trace =
      read_trace(file(header() + record(trace::Kind::kStore, 600, 1, 3) +
                      record(trace::Kind::kLoad, 601, 2, 1) + record(trace::Kind::kLost, 0, 17, 4) +
                      record(trace::Kind::kFree, 600, 4, 5)),
                 TraceFormat::kAuto);
  EXPECT_EQ(drawn(trace), "l89 l90 s88 f88+4");
  EXPECT_EQ(trace.lost_records, 17U);
}

TEST_F(TraceFile, KeepsOfAdviceWhatLiesInAccessedBlocks) {
  // A munmap of 4 GiB around the one block that is accessed.
  const Trace trace = read_trace(file(header() + record(trace::Kind::kLoad, 1000000, 1, 0) +
                                      record(trace::Kind::kUnmap, 600000, 1 << 20, 1)),
                                 TraceFormat::kAuto);
  EXPECT_EQ(drawn(trace), "l64 d0+512");
}

TEST_F(TraceFile, ForgetsEverythingAtAnExec) {
  const Trace trace = read_trace(file(header() + record(trace::Kind::kLoad, 3, 1, 9) + header() +
                                      record(trace::Kind::kStore, 3, 1, 0)),
                                 TraceFormat::kAuto);
  EXPECT_EQ(drawn(trace), "l3 d0+512 s515");
  EXPECT_EQ(trace.footprint, 2U);
}

TEST_F(TraceFile, EndsAtARecordThatWasCutOff) {
  EXPECT_EQ(drawn(read_trace(file(header() + record(trace::Kind::kLoad, 3, 1, 0) + "cut off"),
                             TraceFormat::kAuto)),
            "l3");
}

TEST_F(TraceFile, RefusesWhatItDoesNotKnow) {
  EXPECT_THAT(refusal(header(2)), ::testing::HasSubstr("version 2"));
  EXPECT_THAT(refusal(header().substr(0, 30)), ::testing::HasSubstr("cut off"));
  EXPECT_THAT(refusal(header() + record(trace::Kind::kCount, 3, 1, 0)),
              ::testing::HasSubstr("record 0 makes no sense"));
  EXPECT_THAT(refusal(header() + record(trace::Kind::kLoad, 3, 0, 0)),
              ::testing::HasSubstr("record 0 makes no sense"));
}

TEST_F(TraceFile, WritesWhatItReads) {
  Trace trace;
  trace.events = {{Act::kStore, 1},        {Act::kLoad, 600},  {Act::kDiscard, 1, 7},
                  {Act::kFree, 600, 2},    {Act::kCold, 0, 3}, {Act::kPageOut, 1, 1},
                  {Act::kWillNeed, 600, 1}};
  write_trace(path_, trace);
  EXPECT_EQ(drawn(read_trace(path_, TraceFormat::kAuto)), drawn(trace));
}

}  // namespace
}  // namespace buoy::sim
