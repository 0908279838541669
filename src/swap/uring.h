// Uring: writes that go on while the caller does something else, by raw io_uring system calls.
//
// One user at a time (the backing file's lock). Where the kernel forbids io_uring, create() says
// so and the file writes synchronously. A fork child has no ring: its mappings are not inherited.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"

struct io_uring_sqe;
struct io_uring_cqe;

namespace buoy::swap {

class Uring {
 public:
  Uring() = default;
  Uring(const Uring&) = delete;
  Uring& operator=(const Uring&) = delete;
  ~Uring() { close(); }

  [[nodiscard]] Status create();
  void close();
  // In a fork child: the mappings are not here; only the inherited descriptor is closed.
  void forget_after_fork();
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }

  // Starts a write; the buffer must stay as it is until the tag comes back. False: not started.
  [[nodiscard]] bool start_write(int fd, const std::byte* data, std::uint32_t size,
                                 std::uint64_t offset, std::uint64_t tag);
  // Waits for one completion: its tag, and bytes written or -errno. False: the ring is gone.
  [[nodiscard]] bool wait(std::uint64_t* tag, int* result);

 private:
  static constexpr unsigned kEntries = 4;  // two batches are in flight at most

  int fd_ = -1;
  std::byte* rings_ = nullptr;
  std::size_t rings_bytes_ = 0;
  io_uring_sqe* sqes_ = nullptr;
  std::size_t sqes_bytes_ = 0;
  std::uint32_t* sq_tail_ = nullptr;
  std::uint32_t* sq_array_ = nullptr;
  std::uint32_t sq_mask_ = 0;
  std::uint32_t* cq_head_ = nullptr;
  std::uint32_t* cq_tail_ = nullptr;
  io_uring_cqe* cqes_ = nullptr;
  std::uint32_t cq_mask_ = 0;
};

}  // namespace buoy::swap
