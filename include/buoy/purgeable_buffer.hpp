// buoy::purgeable_buffer: memory whose contents are safe while somebody holds a guard, and may be
// purged otherwise.
//
//   buoy::purgeable_buffer pixels(pool, bytes);
//   auto guard = pixels.lock([&](std::span<std::byte> room) { decode(file, room); });
//   draw(guard.bytes());
//
// Thread-safe; guards nest and may be held by several threads. A guard must not outlive its buffer.
#ifndef BUOY_PURGEABLE_BUFFER_HPP
#define BUOY_PURGEABLE_BUFFER_HPP

#include <mutex>
#include <optional>

#include "buoy/pool.hpp"

namespace buoy {
inline namespace v1 {

class purgeable_buffer {
 public:
  // `priority`: 0 is purged first, 3 last. The buffer begins without contents.
  purgeable_buffer(const Pool& pool, std::size_t bytes, int priority = 0)
      : region_(pool, (bytes + kPage - 1) / kPage * kPage), bytes_(bytes), priority_(priority) {}
  purgeable_buffer(const purgeable_buffer&) = delete;
  purgeable_buffer& operator=(const purgeable_buffer&) = delete;

  // Keeps the contents for as long as it lives.
  class guard {
   public:
    guard(guard&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
    guard& operator=(guard&& other) noexcept {
      std::swap(buffer_, other.buffer_);
      return *this;
    }
    ~guard() {
      if (buffer_ != nullptr) buffer_->unlock();
    }
    [[nodiscard]] std::byte* data() const noexcept { return buffer_->region_.data(); }
    [[nodiscard]] std::size_t size() const noexcept { return buffer_->bytes_; }
    [[nodiscard]] std::span<std::byte> bytes() const noexcept { return {data(), size()}; }

   private:
    friend purgeable_buffer;
    explicit guard(purgeable_buffer& buffer) : buffer_(&buffer) {}
    purgeable_buffer* buffer_;
  };

  // A guard, or nothing: the contents are lost, or were never there.
  [[nodiscard]] std::optional<guard> lock() {
    const std::lock_guard hold(mutex_);
    hold_on();
    if (!is_filled_) return std::nullopt;
    ++guards_;
    return guard(*this);
  }
  // The same, but what is lost is filled first: `fill(std::span<std::byte>)`, one thread at a time.
  // If it throws, the contents stay lost.
  template <typename Fill>
  [[nodiscard]] guard lock(Fill&& fill) {
    const std::lock_guard hold(mutex_);
    hold_on();
    if (!is_filled_) {
      fill(std::span<std::byte>(region_.data(), bytes_));
      is_filled_ = true;
    }
    ++guards_;
    return guard(*this);
  }
  // The contents are of no use any more; without guards their memory is given back at once.
  void discard() {
    const std::lock_guard hold(mutex_);
    is_filled_ = false;
    if (guards_ != 0) return;
    hold_on();
    region_.advise(BUOY_DONTNEED);
  }

  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }

 private:
  static constexpr std::size_t kPage = 4096;

  // Contents that are there now stay.
  void hold_on() {
    if (!is_volatile_) return;
    if (region_.mark_nonvolatile() == Kept::kNo) is_filled_ = false;
    is_volatile_ = false;
  }
  void unlock() {
    const std::lock_guard hold(mutex_);
    if (--guards_ != 0) return;
    region_.mark_volatile(priority_);
    is_volatile_ = true;
  }

  std::mutex mutex_;
  Region region_;
  const std::size_t bytes_;
  const int priority_;
  unsigned guards_ = 0;
  bool is_filled_ = false;
  bool is_volatile_ = false;
};

}  // namespace v1
}  // namespace buoy

#endif  // BUOY_PURGEABLE_BUFFER_HPP
