// buoy::Pool, buoy::Region, buoy::Pin: the C API with owners. Header-only.
//
// A failed call throws std::system_error with the errno of the C API, whose comments (buoy.h) are
// the contract. Objects move, and do not copy; a Pool outlives its Regions, a Region its Pins.
#ifndef BUOY_POOL_HPP
#define BUOY_POOL_HPP

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <system_error>
#include <utility>

#include "buoy/buoy.h"

namespace buoy {
// Names of the library's own version: the engine inside has a Pool and a Region, too.
inline namespace v1 {

namespace detail {
[[noreturn]] inline void throw_errno(const char* call) {
  throw std::system_error(errno, std::generic_category(), call);
}
inline void check(int result, const char* call) {
  if (result != 0) throw_errno(call);
}
}  // namespace detail

// What a Pool is made with besides its budget. Strings need to live until the Pool is made.
struct PoolOptions {
  const char* backing_file = nullptr;  // nullptr: none; "auto"; a path
  const char* compressor = nullptr;    // nullptr: "lz4"; "zstd"; "none"
  int faults = BUOY_FAULTS_AUTO;
  int on_exhausted = BUOY_EXHAUSTED_SIGBUS;
  std::size_t contiguous_reserve = 0;  // bytes, at most half of the budget
};

class Pool {
 public:
  explicit Pool(std::size_t budget, const PoolOptions& options = PoolOptions()) {
    buoy_options o{};
    o.struct_size = sizeof o;
    o.budget = budget;
    o.backing_file = options.backing_file;
    o.compressor = options.compressor;
    o.faults = options.faults;
    o.on_exhausted = options.on_exhausted;
    o.contiguous_reserve = options.contiguous_reserve;
    detail::check(buoy_pool_create(&o, &pool_), "buoy_pool_create");
  }
  // Its regions must be gone.
  ~Pool() {
    if (pool_ != nullptr) (void)buoy_pool_destroy(pool_);
  }
  Pool(Pool&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)) {}
  Pool& operator=(Pool&& other) noexcept {
    std::swap(pool_, other.pool_);
    return *this;
  }

  [[nodiscard]] buoy_pool* get() const noexcept { return pool_; }
  void resize(std::size_t budget) { detail::check(buoy_pool_resize(pool_, budget), "resize"); }
  // Bytes freed.
  std::size_t reclaim(std::size_t bytes) {
    const ssize_t freed = buoy_pool_reclaim(pool_, bytes);
    if (freed < 0) detail::throw_errno("buoy_pool_reclaim");
    return static_cast<std::size_t>(freed);
  }
  // Moves arena pages together and gives empty blocks back.
  void compact() { detail::check(buoy_compact(pool_), "buoy_compact"); }
  // A counter or gauge by its name.
  [[nodiscard]] std::uint64_t stat(const char* name) const {
    std::uint64_t value = 0;
    detail::check(buoy_pool_stat(pool_, name, &value), name);
    return value;
  }
  // Readable when something happened: see BUOY_EVENT_*. The pool's; do not close it.
  [[nodiscard]] int event_fd() {
    const int fd = buoy_pool_eventfd(pool_);
    if (fd < 0) detail::throw_errno("buoy_pool_eventfd");
    return fd;
  }

 private:
  buoy_pool* pool_ = nullptr;
};

// Whether contents survived while they were volatile.
enum class Kept : bool { kNo, kYes };

// A mapping of its own. Ranges are given as offset and length in bytes, multiples of 4096.
class Region {
 public:
  Region(const Pool& pool, std::size_t bytes, unsigned flags = 0)
      : at_(static_cast<std::byte*>(buoy_map(pool.get(), bytes, flags))), bytes_(bytes) {
    if (at_ == nullptr) detail::throw_errno("buoy_map");
  }
  ~Region() {
    if (at_ != nullptr) (void)buoy_unmap(at_, bytes_);
  }
  Region(Region&& other) noexcept
      : at_(std::exchange(other.at_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Region& operator=(Region&& other) noexcept {
    std::swap(at_, other.at_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  [[nodiscard]] std::byte* data() const noexcept { return at_; }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {at_, bytes_}; }

  void advise(std::size_t offset, std::size_t length, int advice) {
    detail::check(buoy_advise(at_ + offset, length, advice), "buoy_advise");
  }
  void advise(int advice) { advise(0, bytes_, advice); }

  void mark_volatile(std::size_t offset, std::size_t length, int priority = 0) {
    if (buoy_mark_volatile(at_ + offset, length, priority) != static_cast<ssize_t>(length))
      detail::throw_errno("buoy_mark_volatile");
  }
  void mark_volatile(int priority = 0) { mark_volatile(0, bytes_, priority); }
  [[nodiscard]] Kept mark_nonvolatile(std::size_t offset, std::size_t length) {
    int purged = 0;
    if (buoy_mark_nonvolatile(at_ + offset, length, &purged) != static_cast<ssize_t>(length))
      detail::throw_errno("buoy_mark_nonvolatile");
    return purged != 0 ? Kept::kNo : Kept::kYes;
  }
  [[nodiscard]] Kept mark_nonvolatile() { return mark_nonvolatile(0, bytes_); }

 private:
  std::byte* at_;
  std::size_t bytes_;
};

// Contiguous memory in the arena that stays in place and resident, fit for devices without a pin.
class ContiguousBuffer {
 public:
  explicit ContiguousBuffer(const Pool& pool, std::size_t bytes, unsigned flags = 0)
      : pool_(pool.get()),
        at_(static_cast<std::byte*>(buoy_alloc_contiguous(pool_, bytes, flags))),
        bytes_(bytes) {
    if (at_ == nullptr) detail::throw_errno("buoy_alloc_contiguous");
  }
  ~ContiguousBuffer() {
    if (at_ != nullptr) (void)buoy_free_contiguous(pool_, at_);
  }
  ContiguousBuffer(ContiguousBuffer&& other) noexcept
      : pool_(other.pool_), at_(std::exchange(other.at_, nullptr)), bytes_(other.bytes_) {}
  ContiguousBuffer& operator=(ContiguousBuffer&&) = delete;

  [[nodiscard]] std::byte* data() const noexcept { return at_; }
  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }
  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {at_, bytes_}; }

 private:
  buoy_pool* pool_;
  std::byte* at_;
  std::size_t bytes_;
};

// Memory held in place for a system call or a device.
class Pin {
 public:
  enum class Access { kRead, kWrite };
  Pin(void* at, std::size_t bytes, Access access) : at_(at), bytes_(bytes), access_(access) {
    detail::check(buoy_pin(at, bytes, access == Access::kWrite ? unsigned{BUOY_WRITE} : 0U),
                  "buoy_pin");
  }
  // What was pinned for writing counts as written to.
  ~Pin() {
    if (at_ != nullptr)
      (void)buoy_unpin(at_, bytes_, access_ == Access::kWrite ? unsigned{BUOY_DIRTIED} : 0U);
  }
  Pin(Pin&& other) noexcept
      : at_(std::exchange(other.at_, nullptr)), bytes_(other.bytes_), access_(other.access_) {}
  Pin& operator=(Pin&&) = delete;

 private:
  void* at_;
  std::size_t bytes_;
  Access access_;
};

}  // namespace v1
}  // namespace buoy

#endif  // BUOY_POOL_HPP
