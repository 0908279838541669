#include "zpool/zpool.h"

#include <cerrno>

#include "base/check.h"
#include "base/sys.h"

namespace buoy::zpool {
namespace {
// Descriptors: what 26 bits of a handle word can name.
constexpr std::uint32_t kMaxZspages = (std::uint32_t{1} << 26) - 2;
}  // namespace

Result<Zpool*> Zpool::create(frames::Arena& arena, PageCount most_frames) {
  auto pool = frames::place<Zpool>(arena, most_frames);
  if (!pool) return pool;
  // Address space only; where the process has little of it, a smaller pool will do.
  Status handles = Error{ENOMEM};
  for (std::uint32_t n = sys::most_needed(Handle::kMaxCount, kPageSize, 1U << 16);
       !handles && n >= 1U << 16; n /= 2)
    handles = (*pool)->parts_.handles.create(n);
  Status zspages = Error{ENOMEM};
  for (std::uint32_t n = sys::most_needed(kMaxZspages, 8 * kPageSize, 1U << 16);
       !zspages && n >= 1U << 16; n /= 2)
    zspages = (*pool)->parts_.zspages.create(n);
  const Result<frames::OwnerId> id =
      arena.owners().add((*pool)->frame_ops_, frames::Callers::kEngine);
  if (!handles || !zspages || !id) {
    if (id) arena.owners().remove(id.value());
    frames::displace(*pool);
    return Error{ENOMEM};
  }
  (*pool)->owner_id_ = id.value();
  for (unsigned i = 0; i < kSizeClasses.count(); ++i) (*pool)->classes_[i].set_index(i);
  return pool;
}

void Zpool::destroy(Zpool* pool) {
  // By handle: every object has one, and every zspage in use has an object.
  for (std::uint32_t i = 1; i < pool->handle_span(); ++i)
    if (Pinned object = pool->try_pin(Handle(i))) pool->free(std::move(object));
  BUOY_DCHECK(pool->frames().is_zero());
  pool->parts_.arena.owners().remove(pool->owner_id_);
  frames::displace(pool);
}

// ---------------------------------------------------------------- zspages

std::uint32_t Zpool::create_zspage(unsigned class_index) {
  const SizeClass& c = kSizeClasses.at(class_index);
  // Squeezing is how memory is freed: it may use the budget's reserve. Movable: the handle words
  // know the objects' place, nobody else does.
  const frames::FrameRequest request{Order(0), frames::MigrateType::kMovable,
                                     frames::FrameOwner::kZpool, Charge::kReclaim};
  std::array<Pfn, kMaxChain> chain;
  // Counted first: of two at once, neither takes the last room twice.
  const std::uint64_t before = frames_.fetch_add(c.frames, std::memory_order_relaxed);
  if (before + c.frames > most_frames_.value() ||
      !parts_.arena.try_allocate_frames(request, chain.data(), c.frames)) {
    frames_.fetch_sub(c.frames, std::memory_order_relaxed);
    return 0;
  }
  const std::uint32_t index = parts_.zspages.try_allocate();
  if (index == 0) {
    parts_.arena.release_frames(chain.data(), c.frames);
    frames_.fetch_sub(c.frames, std::memory_order_relaxed);
    return 0;
  }
  Zspage& z = parts_.zspages.at(index);
  z = Zspage{};
  z.class_index = static_cast<std::uint8_t>(class_index);
  z.frames = chain;
  for (unsigned f = 0; f < c.frames; ++f) {
    parts_.arena.page(chain[f]).owner_word.store(std::uint64_t{index} << 3 | f,
                                                 std::memory_order_release);
    // Until the zspage is in a group of its class, migrate_frame() says "again".
    const bool set = parts_.arena.try_set_movable(chain[f], owner_id_);
    BUOY_DCHECK(set);
  }
  return index;
}

PageCount Zpool::free_zspage(std::uint32_t zspage) {
  const Zspage& z = parts_.zspages.at(zspage);
  const unsigned count = z.size_class().frames;
  // In no group any more, so no frame of it moves. The descriptor must outlive what migration may
  // still look up by a frame's owner_word, which ends with the frame being movable.
  const std::array<Pfn, kMaxChain> chain = z.frames;
  for (unsigned f = 0; f < count; ++f) parts_.arena.clear_movable(chain[f]);
  parts_.zspages.release(zspage);
  parts_.arena.release_frames(chain.data(), count);
  frames_.fetch_sub(count, std::memory_order_relaxed);
  return PageCount(count);
}

// ---------------------------------------------------------------- objects

PutOutcome Zpool::put(const std::byte* data, unsigned length, Handle* handle, unsigned marks) {
  BUOY_DCHECK(length >= 1 && length <= kPageSize);
  const Handle h = parts_.handles.try_allocate();
  if (h.is_none()) return PutOutcome::kNoHandle;
  const unsigned class_index = kSizeClasses.index_for(length);
  Zclass& c = classes_[class_index];
  HandleWord word;
  if (!c.try_take_slot(parts_, h, length, &word)) {
    // Frames are got without the class lock. Another thread may add a zspage meanwhile; then the
    // class has two with room for a while, no more.
    const std::uint32_t zspage = create_zspage(class_index);
    if (zspage == 0) {
      parts_.handles.release(h);
      return PutOutcome::kNoRoom;
    }
    c.take_slot_of_new(parts_, zspage, h, length, &word);
  }
  copy_in(parts_, word, data);
  parts_.handles.unpin(h, word.with_marks(marks));
  *handle = h;
  return PutOutcome::kPut;
}

Handle Zpool::put_foreign(std::uint64_t payload) {
  const Handle h = parts_.handles.try_allocate();
  if (!h.is_none()) parts_.handles.unpin(h, HandleWord::foreign(payload));
  return h;
}

PageCount Zpool::drop_object(HandleWord word) {
  // The pin keeps the zspage, and so its class, from changing.
  const unsigned class_index = parts_.zspages.at(word.zspage()).class_index;
  const std::uint32_t empty = classes_[class_index].give_slot(parts_, word);
  return empty == 0 ? PageCount() : free_zspage(empty);
}

PageCount Zpool::turn_foreign(Pinned&& object, std::uint64_t payload) {
  BUOY_DCHECK(!object.is_foreign());
  const PageCount freed = drop_object(object.word_);
  parts_.handles.unpin(object.handle_, HandleWord::foreign(payload));
  object.pool_ = nullptr;
  return freed;
}

PageCount Zpool::free(Pinned&& object) {
  const PageCount freed = object.is_foreign() ? PageCount() : drop_object(object.word_);
  parts_.handles.release(object.handle_);
  object.pool_ = nullptr;
  return freed;
}

PageCount Zpool::compact() {
  PageCount freed;
  for (Zclass& c : classes_) {
    for (bool go_on = true; go_on;) {
      const std::uint32_t empty = c.compact_step(parts_, &go_on);
      if (empty != 0) freed += free_zspage(empty);
    }
  }
  return freed;
}

// ---------------------------------------------------------------- migration

frames::MigrateOutcome Zpool::FrameOps::migrate(Pfn from, Pfn to, frames::MigrateMode) {
  ZpoolParts& parts = pool_.parts_;
  // The page is locked and movable: its zspage's descriptor is alive.
  const std::uint64_t owner = parts.arena.page(from).owner_word.load(std::memory_order_acquire);
  const auto zspage = static_cast<std::uint32_t>(owner >> 3);
  Zclass& c = pool_.classes_[parts.zspages.at(zspage).class_index];
  return c.migrate_frame(parts, zspage, static_cast<unsigned>(owner & 7U), from, to)
             ? frames::MigrateOutcome::kDone
             : frames::MigrateOutcome::kAgain;
}

// ---------------------------------------------------------------- looking at it

ZpoolStats Zpool::stats() const {
  ZpoolStats s;
  for (const Zclass& c : classes_) {
    const ZclassCounts n = c.counts();
    s.objects += n.objects;
    s.zspages += n.zspages;
    s.object_bytes += n.object_bytes;
    s.frames += PageCount(n.zspages * c.size().frames);
  }
  s.metadata_bytes =
      parts_.handles.touched_bytes() + parts_.zspages.touched_bytes() + frames::kPlacedBytes<Zpool>;
  return s;
}

void Zpool::validate() {
  for (Zclass& c : classes_) c.validate(parts_);
  const ZpoolStats s = stats();
  BUOY_CHECK(s.frames == frames());
  std::uint64_t native = 0;
  std::uint64_t live = 0;
  for (std::uint32_t i = 1; i < handle_span(); ++i) {
    const HandleWord w = peek(Handle(i));
    BUOY_CHECK(!w.is_pinned());
    live += w.kind() != HandleWord::Kind::kFree ? 1 : 0;
    native += w.kind() == HandleWord::Kind::kNative ? 1 : 0;
  }
  BUOY_CHECK(native == s.objects && live == parts_.handles.live());
  BUOY_CHECK(parts_.zspages.live() == s.zspages);
}

}  // namespace buoy::zpool
