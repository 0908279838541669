// An example driver: a pool of buffers named by handles, which move while nobody has them pinned.
//
// The program asks for a buffer, pins it while it works on it, and lets go. In between Buoy may
// move the buffer, so that sparse pageblocks of the arena empty and go back to the budget. The
// driver holds no lock in its callbacks: a word for each buffer says how many have it pinned, or
// that it is being moved.
//
//   examples/movable_buffers [BUDGET_MIB]
#include <atomic>
#include <buoy/movable.hpp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

namespace {

class BufferPool {
 public:
  using Handle = std::uint32_t;

  BufferPool(const buoy::Pool& pool, std::size_t buffer_bytes, std::size_t most)
      : bytes_(buffer_bytes), buffers_(new Buffer[most]), owner_(pool, callbacks()) {}

  // A new buffer, contents undefined. The caller numbers its handles.
  void create(Handle h) {
    Buffer& b = buffers_[h];
    b.at = owner_.allocate(bytes_);
    b.state.store(0, std::memory_order_release);
    owner_.set_movable(b.at, &b);
  }
  void destroy(Handle h) {
    std::byte* const at = pin(h);  // so that it does not move between the look and the call
    if (!owner_.try_free(at)) std::abort();
  }
  // Where the buffer is until it is unpinned. Waits for a move, which takes as long as the copy.
  std::byte* pin(Handle h) {
    Buffer& b = buffers_[h];
    std::uint32_t pins = b.state.load(std::memory_order_relaxed);
    for (;;) {
      if (pins == kMoving) {
        std::this_thread::yield();
        pins = b.state.load(std::memory_order_relaxed);
      } else if (b.state.compare_exchange_weak(pins, pins + 1, std::memory_order_acquire)) {
        return static_cast<std::byte*>(b.at);
      }
    }
  }
  void unpin(Handle h) { buffers_[h].state.fetch_sub(1, std::memory_order_release); }

 private:
  static constexpr std::uint32_t kMoving = UINT32_MAX;
  struct Buffer {
    void* at = nullptr;  // stands still while the state is not 0
    std::atomic<std::uint32_t> state{0};
  };

  buoy::movable_ops callbacks() {
    buoy::movable_ops ops;
    ops.context = this;
    // Atomics and memcpy: the engine's own threads may call them.
    ops.callers = buoy::movable_callers::anybody;
    ops.isolate = [](void*, void*, void* data, buoy::migrate_mode) noexcept {
      return static_cast<Buffer*>(data)->state.load(std::memory_order_relaxed) == 0;
    };
    ops.migrate = [](void* context, void* to, void* from, void* data, buoy::migrate_mode) noexcept {
      Buffer& b = *static_cast<Buffer*>(data);
      std::uint32_t unpinned = 0;
      if (!b.state.compare_exchange_strong(unpinned, kMoving, std::memory_order_acquire))
        return buoy::migrate_result::again;
      std::memcpy(to, from, static_cast<BufferPool*>(context)->bytes_);
      b.at = to;
      b.state.store(0, std::memory_order_release);
      return buoy::migrate_result::done;
    };
    ops.put_back = [](void*, void*, void*) noexcept {};
    return ops;
  }

  std::size_t bytes_;
  std::unique_ptr<Buffer[]> buffers_;
  buoy::movable_owner owner_;
};

}  // namespace

int main(int argc, char** argv) {
  constexpr std::size_t kBufferBytes = 16 << 10;
  const std::size_t mib = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 64;
  buoy::Pool pool(mib << 20);
  const auto count = static_cast<BufferPool::Handle>((mib << 20) / kBufferBytes / 2);
  BufferPool buffers(pool, kBufferBytes, count);

  for (BufferPool::Handle h = 0; h < count; ++h) {
    buffers.create(h);
    std::memset(buffers.pin(h), static_cast<int>(h % 251), kBufferBytes);
    buffers.unpin(h);
  }
  // Most go; what is left is spread thinly over the arena, and one buffer is in use.
  std::vector<BufferPool::Handle> left;
  for (BufferPool::Handle h = 0; h < count; ++h) {
    if (h % 8 == 0)
      left.push_back(h);
    else
      buffers.destroy(h);
  }
  const std::byte* const pinned = buffers.pin(left[5]);
  const std::uint64_t before = pool.stat("arena_bytes");
  pool.compact();
  const std::uint64_t after = pool.stat("arena_bytes");
  std::printf(
      "arena: %llu KiB before compaction, %llu KiB after, %llu KiB of buffers, %llu pages moved\n",
      static_cast<unsigned long long>(before >> 10), static_cast<unsigned long long>(after >> 10),
      static_cast<unsigned long long>(left.size() * kBufferBytes >> 10),
      static_cast<unsigned long long>(pool.stat("pgmigrate_success")));

  unsigned wrong = pinned == buffers.pin(left[5]) ? 0 : 1;
  buffers.unpin(left[5]);
  buffers.unpin(left[5]);
  for (const BufferPool::Handle h : left) {
    const std::byte* at = buffers.pin(h);
    for (std::size_t i = 0; i < kBufferBytes; ++i)
      wrong += at[i] == static_cast<std::byte>(h % 251) ? 0 : 1;
    buffers.unpin(h);
    buffers.destroy(h);
  }
  std::printf("%s\n", wrong == 0 ? "every buffer is intact, the pinned one where it was" : "WRONG");
  return wrong == 0 && after < before ? 0 : 1;
}
