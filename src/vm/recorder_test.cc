#include "vm/recorder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace buoy {
namespace {

class RecorderTest : public ::testing::Test {
 protected:
  RecorderTest() {
    char name[] = "/tmp/buoy-recorder-test.XXXXXX";
    fd_ = mkstemp(name);
    unlink(name);
    fcntl(fd_, F_SETFL, O_APPEND);
    EXPECT_TRUE(recorder_.create().ok());
  }
  ~RecorderTest() override { close(fd_); }
  void start() { ASSERT_TRUE(recorder_.start(fd_, trace::make_header(0, 7, 0)).ok()); }
  void note(trace::Kind kind, std::uint64_t page, std::uint64_t count = 1) {
    recorder_.note(kind, {Vpn(page), PageCount(count)});
  }
  [[nodiscard]] std::uint64_t file_bytes() const {
    struct stat s {};
    fstat(fd_, &s);
    return static_cast<std::uint64_t>(s.st_size);
  }
  // What is behind the header, by sequence.
  [[nodiscard]] std::vector<trace::Record> records() const {
    std::vector<trace::Record> all((file_bytes() - sizeof(trace::Header)) / sizeof(trace::Record));
    const auto bytes = static_cast<ssize_t>(all.size() * sizeof(trace::Record));
    EXPECT_EQ(pread(fd_, all.data(), static_cast<std::size_t>(bytes), sizeof(trace::Header)),
              bytes);
    std::sort(all.begin(), all.end(),
              [](const auto& a, const auto& b) { return a.sequence() < b.sequence(); });
    return all;
  }

  Recorder recorder_;
  int fd_ = -1;
};

TEST_F(RecorderTest, WritesNothingButTheHeaderUntilARingIsFullOrFlushed) {
  start();
  EXPECT_EQ(file_bytes(), sizeof(trace::Header));
  note(trace::Kind::kStore, 12345);
  note(trace::Kind::kUnmap, 1 << 20, 300);
  EXPECT_EQ(file_bytes(), sizeof(trace::Header));
  recorder_.flush();
  const auto all = records();
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].kind(), trace::Kind::kStore);
  EXPECT_EQ(all[0].page(), 12345U);
  EXPECT_EQ(all[0].count(), 1U);
  EXPECT_EQ(all[1].kind(), trace::Kind::kUnmap);
  EXPECT_EQ(all[1].page(), 1U << 20);
  EXPECT_EQ(all[1].count(), 300U);
  trace::Header header;
  ASSERT_EQ(pread(fd_, &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  EXPECT_EQ(std::memcmp(header.magic, trace::kMagic, sizeof header.magic), 0);
  EXPECT_EQ(header.pid, 7U);
  recorder_.flush();
  EXPECT_EQ(records().size(), 2U) << "what was written is not written again";
}

TEST_F(RecorderTest, NotesALongRunInPieces) {
  start();
  note(trace::Kind::kDiscard, 5, trace::Record::kMostPages + 10);
  recorder_.flush();
  const auto all = records();
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].count(), trace::Record::kMostPages);
  EXPECT_EQ(all[1].page(), 5 + trace::Record::kMostPages);
  EXPECT_EQ(all[1].count(), 10U);
}

TEST_F(RecorderTest, LosesNoRecordOfAFewThreads) {
  start();
  constexpr std::uint64_t kThreads = 6;
  constexpr std::uint64_t kEach = 20000;
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < kThreads; ++t)
    threads.emplace_back([this, t] {
      for (std::uint64_t i = 0; i < kEach; ++i) note(trace::Kind::kLoad, t * kEach + i);
    });
  for (std::thread& t : threads) t.join();
  recorder_.flush();
  std::vector<bool> seen(kThreads * kEach);
  std::vector<std::uint64_t> last(kThreads);
  std::uint64_t found = 0;
  std::uint64_t sequence = 0;
  for (const trace::Record& r : records()) {
    ASSERT_EQ(r.sequence(), sequence++) << "each number once";
    ASSERT_EQ(r.kind(), trace::Kind::kLoad);
    ASSERT_FALSE(seen[r.page()]);
    seen[r.page()] = true;
    ++found;
    // Each thread's own records are in its order.
    ASSERT_GE(r.page() + 1, last[r.page() / kEach]);
    last[r.page() / kEach] = r.page() + 1;
  }
  EXPECT_EQ(found, kThreads * kEach);
}

TEST_F(RecorderTest, CountsWhatItLosesWhileAllRingsWaitForTheFile) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  ASSERT_TRUE(recorder_.start(pipe_fds[1], trace::make_header(0, 7, 0)).ok());
  // Nobody reads: one after the other of 20 threads stops in a write with its ring, until the others
  // find none. More records than the rings and the pipe hold cannot be but lost.
  constexpr std::uint64_t kMoreThanFits = 16 * 1024 + (1 << 20) / sizeof(trace::Record);
  std::atomic<std::uint64_t> noted{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 20; ++t)
    threads.emplace_back([&] {
      while (noted.fetch_add(1) < kMoreThanFits) note(trace::Kind::kLoad, 1);
      noted.fetch_sub(1);  // that one was not
    });
  while (noted.load() < kMoreThanFits) std::this_thread::yield();
  std::string bytes;
  std::thread reader([&] {
    char chunk[65536];
    for (ssize_t n; (n = read(pipe_fds[0], chunk, sizeof chunk)) > 0;)
      bytes.append(chunk, static_cast<std::size_t>(n));
  });
  for (std::thread& t : threads) t.join();
  note(trace::Kind::kLoad, 1);  // tells of those that were lost last
  recorder_.flush();
  close(pipe_fds[1]);
  reader.join();
  close(pipe_fds[0]);
  std::uint64_t found = 0;
  std::uint64_t lost = 0;
  for (std::size_t at = sizeof(trace::Header); at < bytes.size(); at += sizeof(trace::Record)) {
    trace::Record r;
    std::memcpy(&r, bytes.data() + at, sizeof r);
    if (r.kind() == trace::Kind::kLost)
      lost += r.count();
    else
      ++found;
  }
  EXPECT_GT(lost, 0U);
  EXPECT_EQ(found + lost, kMoreThanFits + 1);
}

TEST_F(RecorderTest, StartsAnewInAForkChild) {
  start();
  note(trace::Kind::kLoad, 1);
  start();  // as the child does, to its own file
  note(trace::Kind::kLoad, 2);
  recorder_.flush();
  EXPECT_EQ(file_bytes(), 2 * sizeof(trace::Header) + sizeof(trace::Record));
}

TEST_F(RecorderTest, EndsWithOneLineWhereTheFileIsFull) {
  const int full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  EXPECT_EQ(recorder_.start(full, trace::make_header(0, 7, 0)).code(), ENOSPC);
  start();
  ASSERT_EQ(dup2(full, fd_), fd_);
  testing::internal::CaptureStderr();
  for (std::uint64_t i = 0; i < 100000; ++i) note(trace::Kind::kLoad, i);
  recorder_.flush();
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "buoy: the trace ends here: No space left on device; the program goes on\n");
  close(full);
}

TEST_F(RecorderTest, DoesNothingWithoutAFile) {
  ASSERT_TRUE(recorder_.start(-1, trace::make_header(0, 7, 0)).ok());
  note(trace::Kind::kLoad, 1);
  recorder_.flush();
  EXPECT_EQ(file_bytes(), 0U);
}

}  // namespace
}  // namespace buoy
