// The stack as its users see it: a model test with failures, write-back, fork, corruption, threads.
#include "swap/swap_stack.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <array>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "base/descriptors.h"
#include "frames/arena.h"
#include "swap/file_io.h"
#include "swap/test_pages_testing.h"

namespace buoy::swap {
namespace {

using test::Fill;
using test::make_page;
using test::Page;

// Under ThreadSanitizer everything takes ten times as long, and finds as much in a tenth.
#if defined(__SANITIZE_THREAD__)
constexpr unsigned kShorter = 10;
#else
constexpr unsigned kShorter = 1;
#endif

class Stack {
 public:
  explicit Stack(ByteSize limit, const char* file = "none",
                 CompressorKind kind = CompressorKind::kLz4)
      : Stack(limit, SwapOptions{kind, file}) {}
  Stack(ByteSize limit, const SwapOptions& options) {
    budget_.set_limit(PageCount::covering(limit));
    arena_ = *frames::Arena::create(budget_, counters_, ByteSize{1} << 30);
    auto stack = SwapStack::create(options, *arena_, counters_);
    EXPECT_EQ(stack.code(), 0);
    if (stack) stack_ = *stack;
  }
  ~Stack() {
    if (stack_ != nullptr) SwapStack::destroy(stack_);
    arena_->trim();
    EXPECT_EQ(budget_.used(), PageCount(0));
    frames::Arena::destroy(arena_);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;

  SwapStack* operator->() { return stack_; }
  SwapStack& operator*() { return *stack_; }
  Budget& budget() { return budget_; }
  frames::Arena& arena() { return *arena_; }
  Counters& counters() { return counters_; }
  void validate() {
    stack_->validate();
    arena_->validate();
    EXPECT_LE(budget_.used(), budget_.limit());
  }

 private:
  Budget budget_;
  Counters counters_;
  frames::Arena* arena_ = nullptr;
  SwapStack* stack_ = nullptr;
};

// A directory on a disk; empty (and the test is skipped) where there is none.
std::string disk_directory() {
  for (const char* dir : {"/var/tmp", "/tmp", "."}) {
    auto file = open_unlinked(dir);
    if (!file) continue;
    close_file(*file, false);
    return dir;
  }
  return {};
}

class WithFile : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = disk_directory();
    if (directory_.empty()) GTEST_SKIP() << "no directory on a disk for the backing file";
    setenv("TMPDIR", directory_.c_str(), 1);
  }
  std::string directory_;
};

void expect_loads(SwapStack& stack, SwapEntry entry, const Page& page) {
  Page out;
  ASSERT_EQ(stack.load(entry, out.data()), LoadOutcome::kLoaded);
  ASSERT_EQ(out, page);
}

// Pages 0 to n - 1 of that kind.
std::vector<SwapEntry> store_pages(SwapStack& stack, Fill fill, unsigned n) {
  std::vector<SwapEntry> entries(n);
  for (unsigned i = 0; i < n; ++i)
    EXPECT_EQ(stack.store(make_page(fill, i).data(), &entries[i]), StoreOutcome::kStored) << i;
  return entries;
}

// Everything that is stored goes to the file, as far as it may.
void write_all_back(SwapStack& stack) {
  while (!stack.write_back(PageCount(4096)).is_zero()) {
  }
  stack.write_back(PageCount(4096));
}

// ---------------------------------------------------------------- one by one

class EveryCompressor : public testing::TestWithParam<CompressorKind> {};

TEST_P(EveryCompressor, GivesBackEveryKindOfPage) {
  Stack stack(64 << 20, "none", GetParam());
  std::vector<std::pair<SwapEntry, Page>> stored;
  for (unsigned i = 0; i < 400; ++i) {
    const Page page = make_page(static_cast<Fill>(i % test::kFills), i);
    SwapEntry entry;
    ASSERT_EQ(stack->store(page.data(), &entry), StoreOutcome::kStored);
    ASSERT_FALSE(entry.is_none());
    stored.emplace_back(entry, page);
  }
  stack.validate();
  EXPECT_EQ(stack->stats().compressed_pages, 400U);
  EXPECT_EQ(stack->stats().compressed_original_bytes, 400U * kPageSize);
  for (const auto& [entry, page] : stored) {
    expect_loads(*stack, entry, page);
    EXPECT_FALSE(stack->is_slow(entry));
    stack->free(entry);
  }
  stack.validate();
  EXPECT_EQ(stack->stats().compressed_bytes, 0U);
}

INSTANTIATE_TEST_SUITE_P(All, EveryCompressor,
                         testing::Values(CompressorKind::kLz4, CompressorKind::kZstd,
                                         CompressorKind::kNone));

TEST(SwapStackTest, SameFilledPagesTakeNoRoom) {
  Stack stack(64 << 20);
  for (unsigned i = 0; i < 1000; ++i) {
    SwapEntry entry;
    ASSERT_EQ(stack->store(make_page(Fill::kZero, i).data(), &entry), StoreOutcome::kStored);
  }
  EXPECT_EQ(stack->stats().same_filled_pages, 1000U);
  EXPECT_EQ(stack->stats().pool_bytes, 0U);
  EXPECT_EQ(stack.arena().taken(), PageCount(0));
}

TEST(SwapStackTest, IncompressiblePagesTakeOneFrameEach) {
  Stack stack(64 << 20);
  for (unsigned i = 0; i < 100; ++i) {
    SwapEntry entry;
    ASSERT_EQ(stack->store(make_page(Fill::kRandom, i).data(), &entry), StoreOutcome::kStored);
  }
  EXPECT_EQ(stack->stats().incompressible_pages, 100U);
  EXPECT_EQ(stack->stats().pool_bytes, 100 * kPageSize);
}

TEST(SwapStackTest, IsFullWhenTheBudgetIsAndSaysSo) {
  Stack stack(8 << 20);
  std::vector<std::pair<SwapEntry, unsigned>> stored;
  for (unsigned i = 0;; ++i) {
    SwapEntry entry;
    if (stack->store(make_page(Fill::kRandom, i).data(), &entry) == StoreOutcome::kFull) break;
    stored.emplace_back(entry, i);
    ASSERT_LT(i, 4096U);
  }
  // Squeezing may use the budget to its last block.
  EXPECT_EQ(stored.size(), 2048U);
  stack.validate();
  for (const auto& [entry, i] : stored) expect_loads(*stack, entry, make_page(Fill::kRandom, i));
  stack->free(stored.back().first);
  SwapEntry entry;
  EXPECT_EQ(stack->store(make_page(Fill::kRandom, 1).data(), &entry), StoreOutcome::kStored);
}

// ---------------------------------------------------------------- the file

TEST(SwapStackTest, CompressedPagesTakeNoMoreThanTheyMay) {
  SwapOptions options;
  options.most_compressed = 1 << 20;
  Stack stack(64 << 20, options);
  std::vector<SwapEntry> entries;
  for (SwapEntry entry;
       stack->store(make_page(Fill::kHalf, static_cast<unsigned>(entries.size())).data(), &entry) ==
       StoreOutcome::kStored;) {
    entries.push_back(entry);
    ASSERT_LE(stack->frames(), PageCount(256));
  }
  EXPECT_GT(entries.size(), 256U) << "they are compressed";
  for (const SwapEntry e : entries) stack->free(e);
  stack.validate();
}

TEST_F(WithFile, WhatMayNotBeCompressedGoesToTheFileAndTheFileKeepsItsBound) {
  char text[DiskLedger::kTextBytes];
  auto ledger = DiskLedger::create(4 << 20, text);
  ASSERT_TRUE(ledger.ok());
  SwapOptions options;
  options.backing_file = "auto";
  options.most_compressed = 1 << 20;
  options.disk_ledger = &*ledger;
  {
    Stack stack(64 << 20, options);
    const PageCount room = stack->file_room();
    EXPECT_LT(room.bytes(), ByteSize{4} << 20);
    std::vector<SwapEntry> entries;
    for (SwapEntry entry;
         stack->store(make_page(Fill::kRandom, static_cast<unsigned>(entries.size())).data(),
                      &entry) == StoreOutcome::kStored;) {
      entries.push_back(entry);
      ASSERT_LE(stack->frames(), PageCount(256));
      ASSERT_LE(stack->backing_file_tree_bytes(), ByteSize{4} << 20);
      ASSERT_LT(entries.size(), 4096U) << "neither of the two has an end";
    }
    EXPECT_GT(entries.size(), 256U + 512U) << "the file was hardly used";
    EXPECT_EQ(stack->backing_file_bound(), ByteSize{4} << 20);
    for (unsigned i = 0; i < entries.size(); ++i)
      expect_loads(*stack, entries[i], make_page(Fill::kRandom, i));
    // What is free can be used again.
    for (unsigned i = 0; i < 400; ++i) stack->free(entries[i]);
    for (unsigned i = 0; i < 200; ++i)
      EXPECT_EQ(stack->store(make_page(Fill::kRandom, i).data(), &entries[i]),
                StoreOutcome::kStored);
    stack.validate();
    for (unsigned i = 0; i < entries.size(); ++i)
      if (i < 200 || i >= 400) stack->free(entries[i]);
  }
  auto share = ledger->claim();
  ASSERT_TRUE(share.ok());
  EXPECT_TRUE(share->book(4 << 20)) << "the file is gone, and its share with it";
  share->close();
  ledger->close();
}

// The unlinked file that is open, and not another; -1 if there is none.
int find_unlinked_file() {
  for (int fd = descriptors::next_own(0); fd >= 0; fd = descriptors::next_own(fd + 1)) {
    struct stat st {};
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 0) return fd;
  }
  return -1;
}

// How many of the file's 16-byte words are the marker.
unsigned count_in_file(int fd, const std::string& marker) {
  unsigned found = 0;
  struct stat st {};
  EXPECT_EQ(fstat(fd, &st), 0);
  alignas(4096) static char bytes[64 << 10];  // the file passes by the page cache
  for (off_t at = 0; at < st.st_size; at += sizeof bytes) {
    const ssize_t n = pread(fd, bytes, sizeof bytes, at);
    for (ssize_t i = 0; i + 16 <= n; i += 16)
      found += std::memcmp(bytes + i, marker.data(), 16) == 0 ? 1 : 0;
  }
  return found;
}

TEST_F(WithFile, WhatIsEncryptedCannotBeReadInTheFile) {
  constexpr unsigned kPages = 400;
  const std::string marker = "a secret of ours";
  ASSERT_EQ(marker.size(), 16U);
  const auto page_of = [&marker](unsigned i) {
    Page page = make_page(Fill::kRandom, i);
    std::memcpy(page.data() + 512, marker.data(), marker.size());
    return page;
  };
  for (const FileEncryption encryption : {FileEncryption::kNone, FileEncryption::kChaCha20}) {
    SwapOptions options;
    options.backing_file = "auto";
    options.encryption = encryption;
    Stack stack(16 << 20, options);
    std::vector<SwapEntry> entries(kPages);
    const auto store = [&](unsigned first) {
      for (unsigned i = first; i < kPages; i += 2)
        ASSERT_EQ(stack->store(page_of(i).data(), &entries[i]), StoreOutcome::kStored);
      write_all_back(*stack);
    };
    store(0);
    store(1);
    const int fd = find_unlinked_file();
    ASSERT_GE(fd, 0);
    const unsigned readable = count_in_file(fd, marker);
    if (encryption == FileEncryption::kNone)
      EXPECT_GE(readable, kPages / 2) << "this test would not find a secret";
    else
      EXPECT_EQ(readable, 0U);
    // What is used anew has another stream; children read with their parent's key and write with theirs.
    for (unsigned i = 0; i < kPages; i += 2) stack->free(entries[i]);
    store(0);
    stack->before_fork();
    const pid_t child = fork();
    if (child == 0) {
      stack->after_fork_in_child();
      for (unsigned i = 0; i < kPages; i += 2) stack->free(entries[i]);
      store(0);
      for (unsigned i = 0; i < kPages; ++i) expect_loads(*stack, entries[i], page_of(i));
      _exit(HasFailure() ? 1 : 0);
    }
    stack->after_fork_in_parent();
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    for (unsigned i = 0; i < kPages; ++i) expect_loads(*stack, entries[i], page_of(i));
    for (const SwapEntry e : entries) stack->free(e);
    stack.validate();
  }
}

TEST_F(WithFile, WritesBackAndReadsEveryKindOfPage) {
  for (const CompressorKind kind :
       {CompressorKind::kLz4, CompressorKind::kZstd, CompressorKind::kNone}) {
    Stack stack(64 << 20, "auto", kind);
    std::vector<SwapEntry> entries;
    for (unsigned i = 0; i < 600; ++i) {
      SwapEntry entry;
      ASSERT_EQ(stack->store(make_page(static_cast<Fill>(i % test::kFills), i).data(), &entry),
                StoreOutcome::kStored);
      entries.push_back(entry);
    }
    write_all_back(*stack);
    stack.validate();
    const SwapStats s = stack->stats();
    EXPECT_EQ(s.compressed_pages, s.same_filled_pages);
    EXPECT_GT(s.backing_file_bytes, 0U);
    EXPECT_GT(stack.counters().read(Event::swap_file_write), 0U);
    unsigned backed = 0;
    for (unsigned i = 0; i < 600; ++i) {
      backed += stack->is_backed(entries[i]) ? 1 : 0;
      expect_loads(*stack, entries[i], make_page(static_cast<Fill>(i % test::kFills), i));
    }
    EXPECT_GT(backed, 300U);
    for (const SwapEntry e : entries) stack->free(e);
    stack.validate();
    EXPECT_EQ(stack->stats().backing_file_bytes, 0U);
  }
}

TEST_F(WithFile, TakesMoreThanTheBudget) {
  Stack stack(16 << 20, "auto");
  std::vector<SwapEntry> entries;
  for (unsigned i = 0; i < 10000; ++i) {
    SwapEntry entry;
    ASSERT_EQ(stack->store(make_page(Fill::kRandom, i).data(), &entry), StoreOutcome::kStored) << i;
    entries.push_back(entry);
  }
  stack.validate();
  for (unsigned i = 0; i < entries.size(); i += 7)
    expect_loads(*stack, entries[i], make_page(Fill::kRandom, i));
}

TEST_F(WithFile, StoresPastThePoolWhenThePoolCanHaveNothing) {
  Stack stack(16 << 20, "auto");
  // The regions hold every page: not one block is left for the arena.
  ASSERT_TRUE(stack.budget().try_charge(stack.budget().limit(), Charge::kReclaim));
  SwapEntry entry;
  const Page page = make_page(Fill::kHalf, 1);
  ASSERT_EQ(stack->store(page.data(), &entry), StoreOutcome::kStored);
  EXPECT_TRUE(stack->is_backed(entry));
  expect_loads(*stack, entry, page);
  stack.validate();
  stack->free(entry);
  stack.budget().uncharge(stack.budget().limit());
}

TEST_F(WithFile, ReusesTheSpaceOfFreedPages) {
  Stack stack(16 << 20, "auto");
  std::map<unsigned, SwapEntry> live;
  std::mt19937_64 random(7);
  unsigned next = 0;
  // 60 times the file's live size passes through it.
  for (unsigned i = 0; i < 120000; ++i) {
    if (live.size() < 6000) {
      SwapEntry entry;
      ASSERT_EQ(stack->store(make_page(Fill::kRandom, next % 512).data(), &entry),
                StoreOutcome::kStored);
      live.emplace(next++, entry);
    } else {
      // Here and there, so that every cluster keeps some.
      auto it = live.lower_bound(static_cast<unsigned>(random() % next));
      if (it == live.end()) it = live.begin();
      stack->free(it->second);
      live.erase(it);
    }
  }
  stack.validate();
  for (const auto& [i, entry] : live)
    expect_loads(*stack, entry, make_page(Fill::kRandom, i % 512));
  const ByteSize used = stack->stats().backing_file_bytes;
  EXPECT_GT(used, ByteSize{4} << 20);
  EXPECT_LE(stack->backing_file_allocated_bytes(), 2 * used + (ByteSize{24} << 20));
}

TEST_F(WithFile, CorruptBytesAreAnErrorAndNeverAPage) {
  const std::string path = directory_ + "/buoy-corrupt-test-" + std::to_string(getpid());
  // An existing file keeps its name, so that we can reach into it.
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  {
    Stack stack(64 << 20, path.c_str());
    const std::vector<SwapEntry> entries = store_pages(*stack, Fill::kHalf, 200);
    write_all_back(*stack);
    struct stat st {};
    ASSERT_EQ(fstat(fd, &st), 0);
    // One bit in every 1000 bytes: each record has one or two.
    for (off_t at = 256 << 10; at < st.st_size; at += 1000) {
      char byte = 0;
      if (pread(fd, &byte, 1, at) != 1) break;
      byte = static_cast<char>(byte ^ 0x10);
      ASSERT_EQ(pwrite(fd, &byte, 1, at), 1);
    }
    ASSERT_EQ(fsync(fd), 0);
    unsigned corrupt = 0;
    for (unsigned i = 0; i < 200; ++i) {
      Page out;
      ASSERT_TRUE(stack->is_backed(entries[i]));
      if (stack->load(entries[i], out.data()) == LoadOutcome::kCorrupt)
        ++corrupt;
      else
        ASSERT_EQ(out, make_page(Fill::kHalf, i));
    }
    EXPECT_GT(corrupt, 190U);
    EXPECT_EQ(stack.counters().read(Event::swap_corrupt), corrupt);
    ASSERT_EQ(ftruncate(fd, 0), 0);
    for (const SwapEntry e : entries) {
      Page out;
      EXPECT_EQ(stack->load(e, out.data()), LoadOutcome::kCorrupt);
      stack->free(e);
    }
    stack.validate();
  }
  close(fd);
  unlink(path.c_str());
}

TEST_F(WithFile, NeighboursInTheFileComeWithOneRead) {
  Stack stack(64 << 20, "auto");
  const std::vector<SwapEntry> entries = store_pages(*stack, Fill::kHalf, 400);
  write_all_back(*stack);
  SwapEntry in_pool;
  ASSERT_EQ(stack->store(make_page(Fill::kHalf, 1000).data(), &in_pool), StoreOutcome::kStored);

  // 24 of them in any order, and one of the other tier between.
  std::array<Page, 25> out;
  std::array<PageLoad, 25> loads;
  for (unsigned k = 0; k < 25; ++k) loads[k] = {entries[100 + k * 7 % 25], out[k].data()};
  loads[11].entry = in_pool;
  const std::uint64_t before = stack.counters().read(Event::swap_file_read);
  stack->load_many(loads.data(), 25);
  for (unsigned k = 0; k < 25; ++k) {
    ASSERT_EQ(loads[k].outcome, LoadOutcome::kLoaded) << k;
    EXPECT_EQ(out[k], make_page(Fill::kHalf, k == 11 ? 1000 : 100 + k * 7 % 25)) << k;
  }
  // A page that is read alone costs two pages of the file or three.
  const std::uint64_t read = stack.counters().read(Event::swap_file_read) - before;
  EXPECT_GE(read, 24 * kPageSize / 2);
  EXPECT_LE(read, 24 * kPageSize);
  stack->free(in_pool);
  for (const SwapEntry e : entries) stack->free(e);
  stack.validate();
}

TEST_F(WithFile, ACorruptNeighbourIsNobodyElsesError) {
  const std::string path = directory_ + "/buoy-neighbour-test-" + std::to_string(getpid());
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  ASSERT_GE(fd, 0);
  {
    Stack stack(64 << 20, path.c_str());
    const std::vector<SwapEntry> entries = store_pages(*stack, Fill::kHalf, 32);
    write_all_back(*stack);
    struct stat st {};
    ASSERT_EQ(fstat(fd, &st), 0);
    const off_t at = (256 << 10) + 16 * 2000;  // inside some record in the middle
    char byte = 0;
    ASSERT_EQ(pread(fd, &byte, 1, at), 1);
    byte = static_cast<char>(byte ^ 1);
    ASSERT_EQ(pwrite(fd, &byte, 1, at), 1);
    const auto outcomes = [&] {
      std::array<Page, 32> out;
      std::array<PageLoad, 32> loads;
      for (unsigned i = 0; i < 32; ++i) loads[i] = {entries[i], out[i].data()};
      stack->load_many(loads.data(), 32);
      unsigned corrupt = 0;
      for (unsigned i = 0; i < 32; ++i) {
        if (loads[i].outcome == LoadOutcome::kCorrupt)
          ++corrupt;
        else
          EXPECT_EQ(out[i], make_page(Fill::kHalf, i)) << i;
      }
      return corrupt;
    };
    EXPECT_EQ(outcomes(), 1U);
    // The end of the file is gone: what lies before it can be read all the same.
    ASSERT_EQ(ftruncate(fd, (256 << 10) + (32 << 10)), 0);
    const unsigned corrupt = outcomes();
    EXPECT_GT(corrupt, 1U);
    EXPECT_LT(corrupt, 31U);
    for (const SwapEntry e : entries) stack->free(e);
    stack.validate();
  }
  close(fd);
  unlink(path.c_str());
}

TEST_F(WithFile, AClosedDescriptorIsNoticedAndNobodyElsesFileIsWritten) {
  Stack stack(64 << 20, "auto");
  const std::vector<SwapEntry> entries = store_pages(*stack, Fill::kHalf, 64);
  // A program that closes every descriptor, and opens a file of its own under our number.
  struct stat before {};
  const int mine = open(directory_.c_str(), O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
  ASSERT_GE(mine, 0);
  for (int fd = 3; fd < 1024; ++fd) {
    struct stat st {};
    if (fd == mine || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_nlink != 0) continue;
    ASSERT_EQ(dup2(mine, fd), fd);
  }
  write_all_back(*stack);
  ASSERT_EQ(fstat(mine, &before), 0);
  EXPECT_EQ(before.st_size, 0);
  for (unsigned i = 0; i < 64; ++i) expect_loads(*stack, entries[i], make_page(Fill::kHalf, i));
  for (const SwapEntry e : entries) stack->free(e);
  close(mine);
}

TEST_F(WithFile, AFullDiskIsFullAndLosesNothing) {
  // RLIMIT_FSIZE stands for the disk: the same refusal at the same place, and no signal.
  struct rlimit old {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const struct rlimit small { 6 << 20, old.rlim_max };
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  {
    Stack stack(16 << 20, "auto");
    std::map<unsigned, SwapEntry> live;
    std::mt19937_64 random(3);
    unsigned full = 0;
    for (unsigned i = 0; i < 30000; ++i) {
      SwapEntry entry;
      if (stack->store(make_page(Fill::kRandom, i % 512).data(), &entry) == StoreOutcome::kStored) {
        live.emplace(i, entry);
        continue;
      }
      // Some go, here and there, and there is room again.
      ++full;
      for (unsigned n = 0; n < 400; ++n) {
        auto it = live.lower_bound(static_cast<unsigned>(random() % i));
        if (it == live.end()) it = live.begin();
        stack->free(it->second);
        live.erase(it);
      }
    }
    EXPECT_GT(full, 10U);
    EXPECT_GT(live.size(), (20U << 20) / kPageSize - 600);
    stack.validate();
    for (const auto& [i, entry] : live)
      expect_loads(*stack, entry, make_page(Fill::kRandom, i % 512));
  }
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
}

TEST(SwapStackTest, AutoGoesOnWithoutAFileOnTmpfsAndAPathIsRefused) {
  struct stat st {};
  if (stat("/dev/shm", &st) != 0) GTEST_SKIP() << "no /dev/shm here";
  setenv("TMPDIR", "/dev/shm", 1);
  Stack stack(64 << 20, "auto");
  unsetenv("TMPDIR");
  EXPECT_FALSE(stack->has_file());
  auto refused = SwapStack::create({CompressorKind::kLz4, "/dev/shm/buoy-swap-test"}, stack.arena(),
                                   stack.counters());
  EXPECT_EQ(refused.code(), EOPNOTSUPP);
  EXPECT_NE(access("/dev/shm/buoy-swap-test", F_OK), 0);
}

TEST_F(WithFile, APathIsTakenOnlyIfItIsNobodysOrOurs) {
  const std::string path = directory_ + "/buoy-path-test-" + std::to_string(getpid());
  Stack host(64 << 20);
  const auto create = [&](const char* where) {
    return SwapStack::create({CompressorKind::kLz4, where}, host.arena(), host.counters());
  };
  // New: created and unlinked at once, so that a killed process leaves nothing.
  auto fresh = create(path.c_str());
  ASSERT_TRUE(fresh.ok());
  EXPECT_NE(access(path.c_str(), F_OK), 0);
  SwapStack::destroy(*fresh);
  // Somebody's document: untouched.
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  ASSERT_EQ(write(fd, "a letter", 8), 8);
  EXPECT_EQ(create(path.c_str()).code(), EEXIST);
  struct stat st {};
  ASSERT_EQ(fstat(fd, &st), 0);
  EXPECT_EQ(st.st_size, 8);
  // Empty: ours to use, by one at a time, private, and empty again afterwards.
  ASSERT_EQ(ftruncate(fd, 0), 0);
  auto first = create(path.c_str());
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(create(path.c_str()).code(), EBUSY);
  ASSERT_EQ(fstat(fd, &st), 0);
  EXPECT_EQ(st.st_mode & 0777U, 0600U);
  SwapStack::destroy(*first);
  ASSERT_EQ(fstat(fd, &st), 0);
  EXPECT_EQ(st.st_size, 0);
  close(fd);
  unlink(path.c_str());
  EXPECT_EQ(create(directory_.c_str()).code(), EISDIR);
  EXPECT_EQ(create((directory_ + "/no/such/place").c_str()).code(), ENOENT);
  EXPECT_EQ(create("/dev/null").code(), EINVAL);
}

// ---------------------------------------------------------------- fork

// The child's verdict as an exit status, without GoogleTest's machinery.
bool loads(SwapStack& stack, SwapEntry entry, const Page& page) {
  Page out;
  return stack.load(entry, out.data()) == LoadOutcome::kLoaded && out == page;
}

TEST_F(WithFile, AChildFindsTheFolderOfARelativePathFromAnywhere) {
  char before[4096];
  ASSERT_NE(getcwd(before, sizeof before), nullptr);
  ASSERT_EQ(chdir(directory_.c_str()), 0);
  {
    const std::string name = "buoy-relative-test-" + std::to_string(getpid());
    Stack stack(16 << 20, name.c_str());
    stack->before_fork();
    const pid_t child = fork();
    if (child == 0) {
      stack->after_fork_in_child();
      if (chdir("/proc") != 0) _exit(10);
      SwapEntry entry;
      for (unsigned i = 0; i < 8000; ++i)  // twice what the pool can hold
        if (stack->store(make_page(Fill::kRandom, i).data(), &entry) != StoreOutcome::kStored)
          _exit(11);
      _exit(loads(*stack, entry, make_page(Fill::kRandom, 7999)) ? 0 : 12);
    }
    stack->after_fork_in_parent();
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  }
  ASSERT_EQ(chdir(before), 0);
}

TEST_F(WithFile, ForkChildAndParentKeepTheirOwnContents) {
  Stack stack(16 << 20, "auto");
  std::vector<SwapEntry> entries = store_pages(*stack, Fill::kRandom, 5000);
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  stack->before_fork();
  const pid_t child = fork();
  if (child == 0) {
    stack->after_fork_in_child();
    // The parent has churned its file by now.
    char go = 0;
    if (read(pipe_fds[0], &go, 1) != 1) _exit(10);
    for (unsigned i = 0; i < 5000; ++i)
      if (!loads(*stack, entries[i], make_page(Fill::kRandom, i))) _exit(11);
    for (unsigned i = 0; i < 5000; i += 2) stack->free(entries[i]);
    for (unsigned i = 0; i < 5000; i += 2)
      if (stack->store(make_page(Fill::kRandom, i + 70000).data(), &entries[i]) !=
          StoreOutcome::kStored)
        _exit(12);
    stack->validate();
    // A child of the child reads three files' worth of contents.
    stack->before_fork();
    const pid_t grandchild = fork();
    if (grandchild == 0) {
      stack->after_fork_in_child();
      for (unsigned i = 0; i < 5000; ++i)
        if (!loads(*stack, entries[i], make_page(Fill::kRandom, i % 2 == 0 ? i + 70000 : i)))
          _exit(13);
      stack->validate();
      _exit(0);
    }
    stack->after_fork_in_parent();
    int status = 0;
    waitpid(grandchild, &status, 0);
    for (unsigned i = 0; i < 5000; ++i)
      if (!loads(*stack, entries[i], make_page(Fill::kRandom, i % 2 == 0 ? i + 70000 : i)))
        _exit(14);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 15);
  }
  stack->after_fork_in_parent();
  for (unsigned round = 1; round <= 4; ++round) {
    for (const SwapEntry e : entries) stack->free(e);
    for (unsigned i = 0; i < 5000; ++i)
      ASSERT_EQ(stack->store(make_page(Fill::kRandom, i + 10000 * round).data(), &entries[i]),
                StoreOutcome::kStored);
  }
  const ByteSize while_shared = stack->backing_file_allocated_bytes();
  ASSERT_EQ(write(pipe_fds[1], "g", 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  for (unsigned i = 0; i < 5000; ++i)
    expect_loads(*stack, entries[i], make_page(Fill::kRandom, i + 40000));
  stack.validate();
  // The child is gone: what it needed is reused, and the file grows no more.
  for (unsigned round = 5; round <= 8; ++round) {
    for (const SwapEntry e : entries) stack->free(e);
    for (unsigned i = 0; i < 5000; ++i)
      ASSERT_EQ(stack->store(make_page(Fill::kRandom, i).data(), &entries[i]),
                StoreOutcome::kStored);
  }
  EXPECT_LE(stack->backing_file_allocated_bytes(), while_shared + (4 << 20));
  stack.validate();
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

// ---------------------------------------------------------------- model and stress

// Random operations against a map, with a budget that comes and goes under the stack's feet.
void run_model(const char* file, std::uint64_t seed, unsigned steps) {
  Stack stack(24 << 20, file);
  std::mt19937_64 random(seed);
  struct Stored {
    SwapEntry entry;
    Fill fill;
    unsigned number;
  };
  std::vector<Stored> live;
  PageCount withheld;
  unsigned full = 0;
  for (unsigned step = 0; step < steps; ++step) {
    const auto dice = random() % 100;
    if (dice < 48) {
      Stored s{
          {}, static_cast<Fill>(random() % test::kFills), static_cast<unsigned>(random() % 64)};
      if (stack->store(make_page(s.fill, s.number).data(), &s.entry) == StoreOutcome::kStored)
        live.push_back(s);
      else
        ++full;
    } else if (dice < 86 && !live.empty()) {
      const std::size_t i = random() % live.size();
      ASSERT_TRUE(loads(*stack, live[i].entry, make_page(live[i].fill, live[i].number)))
          << "seed " << seed << " step " << step;
      if (dice < 74) {
        stack->free(live[i].entry);
        live[i] = live.back();
        live.pop_back();
      }
    } else if (dice < 88) {
      stack->write_back(PageCount(random() % 200));
    } else if (dice < 90) {
      stack->compact();
    } else if (dice < 92 && withheld.is_zero()) {
      // Refusals: somebody else has the budget.
      withheld = stack.budget().free();
      if (!stack.budget().try_charge(withheld, Charge::kReclaim)) withheld = {};
    } else if (dice < 94) {
      stack.budget().uncharge(withheld);
      withheld = {};
    }
    if (step % 4096 == 0) stack.validate();
  }
  stack.budget().uncharge(withheld);
  stack.validate();
  for (const Stored& s : live) {
    ASSERT_TRUE(loads(*stack, s.entry, make_page(s.fill, s.number)));
    stack->free(s.entry);
  }
  stack.validate();
  EXPECT_EQ(stack->stats().compressed_pages, 0U);
  if (std::string_view(file) == "none") {
    EXPECT_TRUE(full > 0 || kShorter > 1);
  }
}

TEST(SwapStackTest, ModelWithoutFile) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) run_model("none", seed, 40000 / kShorter);
}

TEST_F(WithFile, Model) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) run_model("auto", seed, 20000 / kShorter);
}

// Threads with pages of their own, a writer-back and a compactor. Stamps prove the contents.
void run_stress(const char* file, unsigned rounds) {
  Stack stack(24 << 20, file);
  std::atomic<bool> stop{false};
  std::atomic<unsigned> wrong{0};
  const auto worker = [&](unsigned id) {
    std::mt19937_64 random(id);
    struct Stored {
      SwapEntry entry;
      unsigned number = 0;
    };
    std::vector<Stored> mine(1500);
    for (unsigned i = 0; i < rounds; ++i) {
      Stored& s = mine[random() % mine.size()];
      // A number says the page's owner and version.
      if (!s.entry.is_none() &&
          !loads(*stack, s.entry, make_page(static_cast<Fill>(s.number % test::kFills), s.number)))
        wrong.fetch_add(1);
      if (!s.entry.is_none() && i % 3 != 0) {
        stack->free(s.entry);
        s.entry = {};
      } else if (s.entry.is_none()) {
        s.number = id << 24 | i;
        const Page page = make_page(static_cast<Fill>(s.number % test::kFills), s.number);
        if (stack->store(page.data(), &s.entry) != StoreOutcome::kStored) s.entry = {};
      }
    }
    for (const Stored& s : mine) {
      if (s.entry.is_none()) continue;
      if (!loads(*stack, s.entry, make_page(static_cast<Fill>(s.number % test::kFills), s.number)))
        wrong.fetch_add(1);
      stack->free(s.entry);
    }
  };
  std::thread mover([&] {
    while (!stop.load()) {
      stack->write_back(PageCount(64));
      stack->compact();
      stack.arena().trim();
    }
  });
  std::vector<std::thread> workers;
  for (unsigned id = 1; id <= 3; ++id) workers.emplace_back(worker, id);
  for (std::thread& t : workers) t.join();
  stop.store(true);
  mover.join();
  EXPECT_EQ(wrong.load(), 0U);
  stack.validate();
  EXPECT_EQ(stack->stats().compressed_pages, 0U);
}

// Found by Stress under ThreadSanitizer: the copy of a freed page that was still in flight was
// taken for the page that its handle named by then, which was in flight itself (in the other batch,
// or a second time in the same one).
TEST_F(WithFile, AHandleUsedAnewWhileItsCopyIsInFlightIsAnotherPage) {
  Stack stack(24 << 20, "auto");
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    while (!stop.load()) stack->write_back(PageCount(4096));
  });
  std::mt19937_64 random(1);
  std::vector<std::pair<SwapEntry, unsigned>> live(150);
  unsigned wrong = 0;
  for (unsigned i = 0; i < 60000 / kShorter; ++i) {
    auto& [entry, number] = live[random() % live.size()];
    if (!entry.is_none()) {
      if (i % 16 == 0 && !loads(*stack, entry, make_page(Fill::kRandom, number))) ++wrong;
      stack->free(entry);
    }
    number = i;
    // Incompressible pages have no youth: they are collected at once.
    ASSERT_EQ(stack->store(make_page(Fill::kRandom, number).data(), &entry), StoreOutcome::kStored);
  }
  stop.store(true);
  writer.join();
  for (const auto& [entry, number] : live)
    if (!loads(*stack, entry, make_page(Fill::kRandom, number))) ++wrong;
  EXPECT_EQ(wrong, 0U);
  stack.validate();
}

TEST(SwapStackTest, StressWithoutFile) { run_stress("none", 60000 / kShorter); }
TEST_F(WithFile, Stress) { run_stress("auto", 30000 / kShorter); }

}  // namespace
}  // namespace buoy::swap
