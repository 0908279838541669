// io_in_flight [MIB] [SECONDS]: the kernel reads into and writes from memory that is being pushed
// out: read, O_DIRECT read and write, io_uring reads that are still in flight, also into memory that
// is lazily freed meanwhile.
#include <fcntl.h>
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kBlock = std::size_t{64} << 10;
constexpr std::size_t kBlocks = 128;

// A file of stamped pages, on a disk where there is one.
int make_file() {
  const char* folder = std::getenv("TMPDIR");
  std::string name = std::string(folder != nullptr ? folder : "/var/tmp") + "/io_in_flight.XXXXXX";
  const int plain = mkstemp(name.data());
  CHECK(plain >= 0);
  std::vector<char> block(kBlock);
  for (std::size_t b = 0; b < kBlocks; ++b) {
    for (std::size_t i = 0; i < kBlock / kPage; ++i) stamp(block.data() + i * kPage, b, i);
    CHECK(write(plain, block.data(), kBlock) == static_cast<ssize_t>(kBlock));
  }
  CHECK(fsync(plain) == 0);
  int fd = open(name.c_str(), O_RDWR | O_DIRECT);
  if (fd < 0) fd = open(name.c_str(), O_RDWR);
  CHECK(fd >= 0);
  unlink(name.c_str());
  close(plain);
  return fd;
}

void check_block(const char* at, std::size_t b) {
  for (std::size_t i = 0; i < kBlock / kPage; ++i) check_stamp(at + i * kPage, b, i);
}

// The smallest io_uring that can read: one entry per request, polled for completions.
class Ring {
 public:
  explicit Ring(unsigned entries) {
    io_uring_params p{};
    fd_ = static_cast<int>(syscall(SYS_io_uring_setup, entries, &p));
    if (fd_ < 0) return;
    const std::size_t bytes = p.cq_off.cqes + p.cq_entries * sizeof(io_uring_cqe) + p.sq_off.array +
                              p.sq_entries * sizeof(unsigned);
    char* rings = map(bytes, IORING_OFF_SQ_RING);
    sqes_ =
        reinterpret_cast<io_uring_sqe*>(map(p.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
    sq_tail_ = word(rings + p.sq_off.tail);
    sq_array_ = word(rings + p.sq_off.array);
    sq_mask_ = *word(rings + p.sq_off.ring_mask);
    cq_head_ = word(rings + p.cq_off.head);
    cq_tail_ = word(rings + p.cq_off.tail);
    cq_mask_ = *word(rings + p.cq_off.ring_mask);
    cqes_ = reinterpret_cast<io_uring_cqe*>(rings + p.cq_off.cqes);
  }
  [[nodiscard]] bool works() const { return fd_ >= 0; }

  void read(int file, void* into, std::size_t bytes, std::size_t offset, std::uint64_t tag) {
    const unsigned tail = *sq_tail_;
    const unsigned slot = tail & sq_mask_;
    io_uring_sqe& e = sqes_[slot];
    std::memset(&e, 0, sizeof e);
    e.opcode = IORING_OP_READ;
    e.fd = file;
    e.addr = reinterpret_cast<std::uint64_t>(into);
    e.len = static_cast<unsigned>(bytes);
    e.off = offset;
    e.user_data = tag;
    sq_array_[slot] = slot;
    __atomic_store_n(sq_tail_, tail + 1, __ATOMIC_RELEASE);
    CHECK(syscall(SYS_io_uring_enter, fd_, 1, 0, 0, nullptr, 0) == 1);
  }
  // Is one done? The kernel tells at the latest when a system call of ours returns.
  [[nodiscard]] bool has_done() const {
    return __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE) != *cq_head_;
  }
  // The tag of one that is done; waits for it.
  std::uint64_t wait(std::size_t bytes) {
    while (!has_done()) syscall(SYS_io_uring_enter, fd_, 0, 1, IORING_ENTER_GETEVENTS, nullptr, 0);
    const io_uring_cqe& e = cqes_[*cq_head_ & cq_mask_];
    CHECK(e.res == static_cast<int>(bytes));
    const std::uint64_t tag = e.user_data;
    __atomic_store_n(cq_head_, *cq_head_ + 1, __ATOMIC_RELEASE);
    return tag;
  }

 private:
  char* map(std::size_t bytes, std::uint64_t what) const {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd_,
                   static_cast<off_t>(what));
    CHECK(p != MAP_FAILED);
    return static_cast<char*>(p);
  }
  static unsigned* word(char* at) { return reinterpret_cast<unsigned*>(at); }

  int fd_ = -1;
  io_uring_sqe* sqes_ = nullptr;
  io_uring_cqe* cqes_ = nullptr;
  unsigned *sq_tail_ = nullptr, *sq_array_ = nullptr, *cq_head_ = nullptr, *cq_tail_ = nullptr;
  unsigned sq_mask_ = 0, cq_mask_ = 0;
};

void read_and_write(int file, std::uint64_t round) {
  char* buffer = static_cast<char*>(std::aligned_alloc(kPage, kBlock));
  const std::size_t b = mix(round) % kBlocks;
  CHECK(pread(file, buffer, kBlock, static_cast<off_t>(b * kBlock)) ==
        static_cast<ssize_t>(kBlock));
  check_block(buffer, b);
  CHECK(pwrite(file, buffer, kBlock, static_cast<off_t>(b * kBlock)) ==
        static_cast<ssize_t>(kBlock));
  // Through a socket pair, by two system calls on memory that may be out by then.
  int pair[2];
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
  CHECK(write(pair[0], buffer, kPage) == static_cast<ssize_t>(kPage));
  char* other = static_cast<char*>(std::malloc(kPage * 40));
  CHECK(read(pair[1], other + 17, kPage) == static_cast<ssize_t>(kPage));
  CHECK(std::memcmp(other + 17, buffer, kPage) == 0);
  close(pair[0]);
  close(pair[1]);
  std::free(other);
  std::free(buffer);
}

void read_ahead(int file, Ring& ring, std::uint64_t round) {
  constexpr std::size_t kDepth = 16;
  std::vector<char*> buffers(kDepth);
  for (std::size_t i = 0; i < kDepth; ++i) {
    buffers[i] = static_cast<char*>(std::aligned_alloc(kPage, kBlock));
    // Stale contents, so that a lost read shows; then the read is started and left alone.
    stamp(buffers[i], 999, round);
    ring.read(file, buffers[i], kBlock, (round + i) % kBlocks * kBlock, i);
  }
  for (std::size_t i = 0; i < kDepth; ++i) {
    const std::uint64_t tag = ring.wait(kBlock);
    check_block(buffers[tag], (round + tag) % kBlocks);
  }
  for (char* b : buffers) std::free(b);
}

// What a device writes to lazily freed memory is a store: it stays, whether the read began before
// the free or after it. Unless it was over before the free: then there may be zeros.
void read_into_freed(int file, Ring& ring, std::uint64_t round) {
  constexpr std::size_t kReadBlocks = 16;  // so long that a free is faster
  constexpr std::size_t kBytes = kReadBlocks * kBlock;
  static char* const at = static_cast<char*>(
      mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(at != MAP_FAILED);
  const std::size_t first = round % (kBlocks / kReadBlocks) * kReadBlocks;
  const std::uint64_t order = mix(round) % 4;
  const std::size_t from = mix(round + 1) % (kReadBlocks / 2) * kPage;
  const auto advise = [from](int advice) { CHECK(madvise(at + from, kBytes - from, advice) == 0); };
  for (std::size_t i = 0; i < kBytes; i += kPage) stamp(at + i, 999, round);
  if (order == 0) advise(MADV_FREE);
  ring.read(file, at, kBytes, first * kBlock, 0);
  if (order == 1 || order == 2) advise(MADV_FREE);
  const bool may_vanish = order != 0 && order != 3 && ring.has_done();
  if (order >= 2) advise(MADV_PAGEOUT);
  CHECK(ring.wait(kBytes) == 0);
  advise(MADV_PAGEOUT);
  for (std::size_t i = 0; i < kBytes; i += kPage) {
    const bool is_zero =
        may_vanish && at[i] == 0 && std::memcmp(at + i, at + i + 1, kPage - 1) == 0;
    if (!is_zero) check_stamp(at + i, first + i / kBlock, i % kBlock / kPage);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t bytes = argument(argc, argv, 1, 128) << 20;
  const std::size_t seconds = argument(argc, argv, 2, 5);
  const int file = make_file();
  auto* pressure = static_cast<char*>(std::malloc(bytes));
  std::atomic<bool> stop{false};
  std::thread presser([&] {
    for (std::uint64_t round = 0; !stop; ++round)
      for (std::size_t i = 0; i + 1 < bytes / kPage && !stop; ++i) {
        if (round != 0) check_stamp(pressure + i * kPage, i, round - 1);
        stamp(pressure + i * kPage, i, round);
      }
  });
  std::thread direct([&] {
    for (std::uint64_t round = 0; !stop; ++round) read_and_write(file, round);
  });
  Ring ring(16);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  for (std::uint64_t round = 0; std::chrono::steady_clock::now() < end; ++round) {
    if (ring.works()) {
      read_ahead(file, ring, round);
      read_into_freed(file, ring, round);
    } else {
      read_and_write(file, round + 7);
    }
  }
  stop = true;
  presser.join();
  direct.join();
  std::free(pressure);
  std::puts("OK io_in_flight");
}
