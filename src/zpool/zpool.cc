#include "zpool/zpool.h"

#include <cerrno>

#include "base/check.h"

namespace buoy::zpool {
namespace {
// Descriptors: what 26 bits of a handle word can name.
constexpr std::uint32_t kMaxZspages = (std::uint32_t{1} << 26) - 2;
}  // namespace

Result<Zpool*> Zpool::create(frames::Arena& arena) {
  auto pool = frames::place<Zpool>(arena);
  if (!pool) return pool;
  // Address space only; where the process has little of it, a smaller pool will do.
  Status handles = Error{ENOMEM};
  for (std::uint32_t n = Handle::kMaxCount; !handles && n >= 1U << 16; n /= 2)
    handles = (*pool)->parts_.handles.create(n);
  Status zspages = Error{ENOMEM};
  for (std::uint32_t n = kMaxZspages; !zspages && n >= 1U << 16; n /= 2)
    zspages = (*pool)->parts_.zspages.create(n);
  if (!handles || !zspages) {
    frames::displace(*pool);
    return Error{ENOMEM};
  }
  for (unsigned i = 0; i < kSizeClasses.count(); ++i) (*pool)->classes_[i].set_index(i);
  return pool;
}

void Zpool::destroy(Zpool* pool) {
  // By handle: every object has one, and every zspage in use has an object.
  for (std::uint32_t i = 1; i < pool->handle_span(); ++i)
    if (Pinned object = pool->try_pin(Handle(i))) pool->free(std::move(object));
  BUOY_DCHECK(pool->frames().is_zero());
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
  if (!parts_.arena.try_allocate_frames(request, chain.data(), c.frames)) return 0;
  const std::uint32_t index = parts_.zspages.try_allocate();
  if (index == 0) {
    parts_.arena.release_frames(chain.data(), c.frames);
    return 0;
  }
  Zspage& z = parts_.zspages.at(index);
  z = Zspage{};
  z.class_index = static_cast<std::uint8_t>(class_index);
  z.frames = chain;
  for (unsigned f = 0; f < c.frames; ++f)
    parts_.arena.page(chain[f]).owner_word.store(std::uint64_t{index} << 3 | f,
                                                 std::memory_order_release);
  frames_.fetch_add(c.frames, std::memory_order_relaxed);
  return index;
}

PageCount Zpool::free_zspage(std::uint32_t zspage) {
  const Zspage& z = parts_.zspages.at(zspage);
  const unsigned count = z.size_class().frames;
  const std::array<Pfn, kMaxChain> chain = z.frames;
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

// The block whose emptying costs least and that the free frames of others can take; or none.
bool Zpool::find_sparsest_block(std::uint32_t* block) const {
  const frames::ArenaStats stats = parts_.arena.stats();
  // Worth it from a block's worth of free frames on, and an eighth of all.
  if (stats.free.value() < kPagesPerBlock + stats.taken.value() / 8) return false;
  std::uint64_t most_free = 0;
  for (std::uint32_t b = 0; b < parts_.arena.block_span(); ++b) {
    const std::uint64_t free = parts_.arena.block_free_frames(b).value();
    if (free <= most_free || free >= kPagesPerBlock) continue;
    most_free = free;
    *block = b;
  }
  return most_free >= kPagesPerBlock / 4 &&
         stats.free.value() - most_free >= kPagesPerBlock - most_free;
}

PageCount Zpool::evacuate_blocks(unsigned most) {
  const PageCount before = parts_.arena.taken();
  std::uint32_t block = 0;
  for (unsigned n = 0; n < most; ++n) {
    parts_.arena.drain_caches();
    if (!find_sparsest_block(&block) || !evacuate(block)) break;
  }
  parts_.arena.trim();
  const PageCount after = parts_.arena.taken();
  return after < before ? before - after : PageCount();
}

// Moves every frame of ours out of the block. False: some would not go.
bool Zpool::evacuate(std::uint32_t block) {
  const frames::FrameRequest request{Order(0), frames::MigrateType::kMovable,
                                     frames::FrameOwner::kZpool, Charge::kReclaim};
  Counters& counters = parts_.arena.counters();
  for (unsigned i = 0; i < kPagesPerBlock; ++i) {
    const Pfn old_frame(block * static_cast<std::uint32_t>(kPagesPerBlock) + i);
    const frames::PageWord word = parts_.arena.page(old_frame).load();
    if (word.state() != frames::PageState::kAllocated) continue;
    if (word.owner() != frames::FrameOwner::kZpool) return false;
    Pfn fresh;
    if (!parts_.arena.try_allocate_frames(request, &fresh, 1)) return false;
    bool moved = false;
    if (fresh.block() != block) {
      const std::uint64_t owner =
          parts_.arena.page(old_frame).owner_word.load(std::memory_order_acquire);
      const auto zspage = static_cast<std::uint32_t>(owner >> 3);
      const unsigned class_index = parts_.zspages.at(zspage).class_index;
      moved = classes_[class_index].migrate_frame(parts_, zspage, static_cast<unsigned>(owner & 7U),
                                                  old_frame, fresh);
    }
    counters.add(moved ? Event::pgmigrate_success : Event::pgmigrate_fail);
    parts_.arena.release_frames(moved ? &old_frame : &fresh, 1);
    // The allocator sees no fuller block any more: no point in going on.
    if (!moved && fresh.block() == block) return false;
  }
  return true;
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
