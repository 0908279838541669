// Zpool: many small objects packed into frames, named by handles, movable under their owners.
// zsmalloc, in a process.
//
//   Handle -> handle word -> (zspage, slot) -> frames of the arena
//             ^ the only place that knows where the object is
//
// Frames held = sum over classes of zspages x frames per zspage; nothing else is charged.
//
// Who waits for whom: put and free take one class lock for a few dozen instructions; reading takes
// no lock but its own handle's pin; movers (compaction, migration) hold a class lock and try pins,
// and never wait for one. So a reader waits only while its very object is being copied.
// The owner of a handle orders its reads and its free; readers of one handle exclude each other.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "base/counters.h"
#include "base/result.h"
#include "base/units.h"
#include "frames/arena.h"
#include "frames/place.h"
#include "zpool/handle.h"
#include "zpool/size_class.h"
#include "zpool/zclass.h"

namespace buoy::zpool {

enum class PutOutcome : std::uint8_t {
  kPut,
  kNoRoom,    // the arena cannot grow, or the pool may not
  kNoHandle,  // the handle table is full
};

// Exact when nothing is under way; else each class is, at its moment.
struct ZpoolStats {
  std::uint64_t objects = 0;
  std::uint64_t zspages = 0;
  PageCount frames;
  ByteSize object_bytes = 0;    // lengths as given
  ByteSize metadata_bytes = 0;  // handle words, zspage descriptors, the pool itself
};

class Zpool {
 public:
  static constexpr PageCount kAsTheArena = PageCount(UINT64_MAX / kPageSize);
  // Of this many frames at most. ENOMEM: no address space. The arena must outlive the pool.
  [[nodiscard]] static Result<Zpool*> create(frames::Arena& arena,
                                             PageCount most_frames = kAsTheArena);
  // Gives every frame back. No call may be under way.
  static void destroy(Zpool* pool);

  // A handle for a copy of `length` bytes (1 to 4096), with six bits of the caller's own. The
  // source may change under our eyes.
  [[nodiscard]] PutOutcome put(const std::byte* data, unsigned length, Handle* handle,
                               unsigned marks = 0);
  // A handle for a word of the owner's own (61 bits), and no object. None: the table is full.
  [[nodiscard]] Handle put_foreign(std::uint64_t payload);

  // A pinned handle: its object stays where it is, and stays, until this goes out of scope.
  // Hold it no longer than a copy or a decompression takes.
  class Pinned {
   public:
    Pinned() = default;
    Pinned(Pinned&& other) noexcept
        : pool_(std::exchange(other.pool_, nullptr)), handle_(other.handle_), word_(other.word_) {}
    Pinned& operator=(Pinned&&) = delete;
    ~Pinned() {
      if (pool_ != nullptr) pool_->parts_.handles.unpin(handle_, word_);
    }
    [[nodiscard]] explicit operator bool() const { return pool_ != nullptr; }

    [[nodiscard]] bool is_foreign() const { return word_.kind() == HandleWord::Kind::kForeign; }
    [[nodiscard]] std::uint64_t payload() const { return word_.payload(); }
    // Changes a foreign word.
    void set_payload(std::uint64_t payload) { word_ = HandleWord::foreign(payload); }

    [[nodiscard]] unsigned length() const { return word_.length(); }
    [[nodiscard]] unsigned marks() const { return word_.marks(); }
    void set_marks(unsigned marks) { word_ = word_.with_marks(marks); }
    // The object's bytes where they are; null when they are in two frames that are not neighbours.
    [[nodiscard]] const std::byte* in_place() const {
      return zpool::in_place(pool_->parts_, word_);
    }
    void copy_out(std::byte* out) const { zpool::copy_out(pool_->parts_, word_, out); }

   private:
    friend class Zpool;
    Pinned(Zpool* pool, Handle handle, HandleWord word)
        : pool_(pool), handle_(handle), word_(word) {}
    Zpool* pool_ = nullptr;
    Handle handle_;
    HandleWord word_;
  };

  // Waits for a mover that has the handle.
  [[nodiscard]] Pinned pin(Handle h) { return {this, h, parts_.handles.pin(h)}; }
  // Empty if the handle is free or pinned by somebody. Any index below handle_span() may be asked.
  [[nodiscard]] Pinned try_pin(Handle h) {
    HandleWord word;
    return parts_.handles.try_pin(h, &word) ? Pinned(this, h, word) : Pinned();
  }
  // What the handle is at this moment, without pinning it.
  [[nodiscard]] HandleWord peek(Handle h) const { return parts_.handles.load(h); }
  [[nodiscard]] std::uint32_t handle_span() const { return parts_.handles.high_water(); }

  // The object goes; the handle lives on as a foreign word. Frames that became free.
  PageCount turn_foreign(Pinned&& object, std::uint64_t payload);
  // Object (if any) and handle go. Frames that became free.
  PageCount free(Handle h) { return free(pin(h)); }
  PageCount free(Pinned&& object);

  // Moves objects out of sparse zspages and gives those back; frames given back to the arena.
  // Pinned objects stay. Locks one class at a time, a zspage's worth at most.
  PageCount compact();

  [[nodiscard]] ZpoolStats stats() const;
  [[nodiscard]] std::uint32_t live_handles() const { return parts_.handles.live(); }
  // Frames held, without a lock.
  [[nodiscard]] PageCount frames() const {
    return PageCount(frames_.load(std::memory_order_relaxed));
  }
  [[nodiscard]] PageCount most_frames() const { return most_frames_; }
  // Asserts all counts, lists and back-references. No call may be under way.
  void validate();

 private:
  template <typename T, typename... Args>
  friend Result<T*> frames::place(Args&&... args);
  template <typename T>
  friend void frames::displace(T* object);

  // How the arena's migration core moves our frames.
  class FrameOps final : public frames::MovableOps {
   public:
    explicit FrameOps(Zpool& pool) : pool_(pool) {}
    // A frame is pinned by nobody for longer than a copy: it may always be tried.
    bool isolate(Pfn, frames::MigrateMode) override { return true; }
    frames::MigrateOutcome migrate(Pfn from, Pfn to, frames::MigrateMode mode) override;
    void put_back(Pfn) override {}

   private:
    Zpool& pool_;
  };

  Zpool(frames::Arena& arena, PageCount most_frames)
      : parts_{arena, {}, {}}, most_frames_(most_frames) {}
  ~Zpool() = default;

  // An empty zspage with its frames; 0 when there is no room.
  [[nodiscard]] std::uint32_t create_zspage(unsigned class_index);
  PageCount free_zspage(std::uint32_t zspage);
  // Gives a pinned object's slot back, and its zspage if that was the last.
  PageCount drop_object(HandleWord word);

  ZpoolParts parts_;
  FrameOps frame_ops_{*this};
  frames::OwnerId owner_id_ = 0;
  std::array<Zclass, kSizeClasses.count()> classes_{};
  const PageCount most_frames_;
  std::atomic<std::uint64_t> frames_{0};
};

}  // namespace buoy::zpool
