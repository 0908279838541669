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

#include <cstdint>
#include <mutex>
#include <new>
#include <optional>

#include "buoy/pool.hpp"

namespace buoy {
inline namespace v1 {

class purgeable_buffer {
 public:
  // `priority`: 0 is purged first, 3 last. The buffer begins without contents; it may have no
  // bytes. Throws std::system_error (EINVAL: a bad priority; ENOMEM).
  purgeable_buffer(const Pool& pool, std::size_t bytes, int priority = 0)
      : region_(pool, pages_for(bytes)), bytes_(bytes), priority_(priority) {
    // Here, where it may fail: to mark the same range again needs no memory.
    region_.mark_volatile(priority_);
  }
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
  // The same, but what is lost is filled first: `fill(std::span<std::byte>)`, one thread at a time,
  // which must not lock the buffer again. If it throws, the contents stay lost, and their memory is
  // given back.
  template <typename Fill>
  [[nodiscard]] guard lock(Fill&& fill) {
    const std::lock_guard hold(mutex_);
    hold_on();
    if (!is_filled_) {
      const unless_filled undo{*this};
      fill(std::span<std::byte>(region_.data(), bytes_));
      is_filled_ = true;
    }
    ++guards_;
    return guard(*this);
  }
  // The contents are of no use any more, and their memory is given back: at once, or where there
  // are guards, with the last of them. Until then they are what they were, for new guards too.
  void discard() {
    const std::lock_guard hold(mutex_);
    is_discarded_ = true;
    if (guards_ == 0) give_back();
  }

  [[nodiscard]] std::size_t size() const noexcept { return bytes_; }

 private:
  static constexpr std::size_t kPage = 4096;
  static std::size_t pages_for(std::size_t bytes) {
    if (bytes > SIZE_MAX - kPage) throw std::bad_alloc();
    return bytes == 0 ? kPage : (bytes + kPage - 1) / kPage * kPage;
  }
  struct unless_filled {
    purgeable_buffer& buffer;
    ~unless_filled() {
      if (!buffer.is_filled_) buffer.give_back();
    }
  };

  // Contents that are there now stay.
  void hold_on() {
    if (!is_volatile_) return;
    int purged = 0;
    const ssize_t kept = buoy_mark_nonvolatile(region_.data(), region_.size(), &purged);
    if (purged != 0) is_filled_ = false;
    if (kept != static_cast<ssize_t>(region_.size())) detail::throw_errno("buoy_mark_nonvolatile");
    is_volatile_ = false;
  }
  void unlock() noexcept {
    const std::lock_guard hold(mutex_);
    if (--guards_ != 0) return;
    if (is_discarded_)
      give_back();
    else
      let_go();
  }
  // Where it cannot be marked (mlocked, say) it stays, which harms nobody.
  void let_go() noexcept {
    (void)buoy_mark_volatile(region_.data(), region_.size(), priority_);
    is_volatile_ = true;
  }
  void give_back() noexcept {
    is_filled_ = is_discarded_ = false;
    (void)buoy_advise(region_.data(), region_.size(), BUOY_DONTNEED);
    let_go();
  }

  std::mutex mutex_;
  Region region_;
  const std::size_t bytes_;
  const int priority_;
  unsigned guards_ = 0;
  bool is_filled_ = false;
  bool is_volatile_ = true;
  bool is_discarded_ = false;  // when the last guard goes
};

}  // namespace v1
}  // namespace buoy

#endif  // BUOY_PURGEABLE_BUFFER_HPP
