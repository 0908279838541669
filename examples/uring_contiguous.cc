// A contiguous buffer registered with io_uring, and a file read through it.
//
// Registered buffers are pinned by the kernel for as long as they are registered: ordinary managed
// memory could not be paged out meanwhile. Contiguous memory is in the arena, stays in place, and
// needs no pin.
//
//   examples/uring_contiguous [FILE]     (itself, by default)
#include <fcntl.h>
#include <unistd.h>

#include <buoy/pool.hpp>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#ifdef BUOY_HAVE_LIBURING
#include <liburing.h>

namespace {

constexpr std::size_t kBufferBytes = 2 << 20;

// Reads the file block by block through the registered buffer and compares with read(2).
long long read_all(io_uring* ring, int file, int again, std::byte* buffer) {
  long long total = 0;
  std::vector<std::byte> expected(kBufferBytes);
  for (;;) {
    io_uring_sqe* const sqe = io_uring_get_sqe(ring);
    io_uring_prep_read_fixed(sqe, file, buffer, kBufferBytes,
                             static_cast<unsigned long long>(total), 0);
    if (io_uring_submit_and_wait(ring, 1) < 0) return -1;
    io_uring_cqe* cqe = nullptr;
    if (io_uring_wait_cqe(ring, &cqe) != 0) return -1;
    const int n = cqe->res;
    io_uring_cqe_seen(ring, cqe);
    if (n <= 0) return n == 0 ? total : -1;
    if (pread(again, expected.data(), static_cast<std::size_t>(n), total) != n ||
        std::memcmp(expected.data(), buffer, static_cast<std::size_t>(n)) != 0)
      return -1;
    total += n;
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* const path = argc > 1 ? argv[1] : "/proc/self/exe";
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  const int again = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || again < 0) {
    std::perror(path);
    return 1;
  }
  buoy::PoolOptions options;
  options.contiguous_reserve = 8 << 20;
  buoy::Pool pool(64 << 20, options);
  const buoy::ContiguousBuffer buffer(pool, kBufferBytes, BUOY_RESERVE_AREA);

  io_uring ring;
  if (const int error = io_uring_queue_init(4, &ring, 0); error != 0) {
    std::printf("io_uring is not to be had here: %s\n", std::strerror(-error));
    return 77;
  }
  const iovec vector{buffer.data(), buffer.size()};
  if (const int error = io_uring_register_buffers(&ring, &vector, 1); error != 0) {
    std::printf("the buffer cannot be registered (ulimit -l?): %s\n", std::strerror(-error));
    io_uring_queue_exit(&ring);
    return 77;
  }
  const long long total = read_all(&ring, file, again, buffer.data());
  io_uring_queue_exit(&ring);
  std::printf("%lld bytes read through a registered contiguous buffer at %p\n", total,
              static_cast<void*>(buffer.data()));
  close(file);
  close(again);
  return total > 0 ? 0 : 1;
}
#else
int main() {
  std::puts("built without liburing");
  return 77;
}
#endif
