#include "swap/uring.h"

#include <linux/io_uring.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/descriptors.h"
#include "base/sys.h"

namespace buoy::swap {
namespace {

std::uint32_t load_acquire(std::uint32_t* p) {
  return std::atomic_ref<std::uint32_t>(*p).load(std::memory_order_acquire);
}
void store_release(std::uint32_t* p, std::uint32_t v) {
  std::atomic_ref<std::uint32_t>(*p).store(v, std::memory_order_release);
}

Result<std::byte*> map_ring(int fd, std::size_t bytes, long offset) {
  const long raw = sys::call(SYS_mmap, 0, static_cast<long>(bytes), PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_POPULATE, fd, offset);
  if (raw < 0) return Error{static_cast<int>(-raw)};
  auto* const p = reinterpret_cast<std::byte*>(raw);
  (void)sys::advise(p, bytes, MADV_DONTFORK);
  return p;
}

}  // namespace

Status Uring::create() {
  io_uring_params params{};
  const descriptors::RoomForOne room;
  const long raw = sys::call(SYS_io_uring_setup, kEntries, sys::ptr(&params));
  if (raw < 0) return Error{static_cast<int>(-raw)};
  fd_ = descriptors::adopt(static_cast<int>(raw));
  if ((params.features & IORING_FEAT_SINGLE_MMAP) == 0) {
    close();
    return Error{ENOSYS};
  }
  const std::size_t sq_bytes = params.sq_off.array + params.sq_entries * sizeof(std::uint32_t);
  const std::size_t cq_bytes = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  rings_bytes_ = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
  sqes_bytes_ = params.sq_entries * sizeof(io_uring_sqe);
  auto rings = map_ring(fd_, rings_bytes_, IORING_OFF_SQ_RING);
  if (rings) rings_ = *rings;
  auto sqes = map_ring(fd_, sqes_bytes_, static_cast<long>(IORING_OFF_SQES));
  if (sqes) sqes_ = reinterpret_cast<io_uring_sqe*>(*sqes);
  if (!rings || !sqes) {
    close();
    return Error{ENOMEM};
  }
  const auto word = [this](std::uint32_t at) {
    return reinterpret_cast<std::uint32_t*>(rings_ + at);
  };
  sq_tail_ = word(params.sq_off.tail);
  sq_array_ = word(params.sq_off.array);
  sq_mask_ = *word(params.sq_off.ring_mask);
  cq_head_ = word(params.cq_off.head);
  cq_tail_ = word(params.cq_off.tail);
  cqes_ = reinterpret_cast<io_uring_cqe*>(rings_ + params.cq_off.cqes);
  cq_mask_ = *word(params.cq_off.ring_mask);
  return {};
}

void Uring::close() {
  if (sqes_ != nullptr) sys::unmap(sqes_, sqes_bytes_);
  if (rings_ != nullptr) sys::unmap(rings_, rings_bytes_);
  forget_after_fork();
}

void Uring::forget_after_fork() {
  if (fd_ >= 0) descriptors::release(fd_);
  fd_ = -1;
  sqes_ = nullptr;
  rings_ = nullptr;
}

bool Uring::start_write(int fd, const std::byte* data, std::uint32_t size, std::uint64_t offset,
                        std::uint64_t tag) {
  if (!is_open()) return false;
  const std::uint32_t tail = *sq_tail_;
  io_uring_sqe& sqe = sqes_[tail & sq_mask_];
  std::memset(&sqe, 0, sizeof sqe);
  sqe.opcode = IORING_OP_WRITE;
  sqe.fd = fd;
  sqe.addr = reinterpret_cast<std::uintptr_t>(data);
  sqe.len = size;
  sqe.off = offset;
  sqe.user_data = tag;
  sq_array_[tail & sq_mask_] = tail & sq_mask_;
  store_release(sq_tail_, tail + 1);
  long rc = 0;
  do {
    rc = sys::call(SYS_io_uring_enter, fd_, 1, 0, 0, 0, 0);
  } while (rc == -EINTR || rc == -EAGAIN || rc == -EBUSY);
  if (rc == 1) return true;
  store_release(sq_tail_, tail);
  return false;
}

bool Uring::wait(std::uint64_t* tag, int* result) {
  for (;;) {
    const std::uint32_t head = *cq_head_;
    if (head != load_acquire(cq_tail_)) {
      const io_uring_cqe& cqe = cqes_[head & cq_mask_];
      *tag = cqe.user_data;
      *result = cqe.res;
      store_release(cq_head_, head + 1);
      return true;
    }
    const long rc = sys::call(SYS_io_uring_enter, fd_, 0, 1, IORING_ENTER_GETEVENTS, 0, 0);
    if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) return false;
  }
}

}  // namespace buoy::swap
