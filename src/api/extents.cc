#include "api/extents.h"

#include "base/sys.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "frames/place.h"

namespace buoy {

namespace {
// No sum of a few of these wraps.
constexpr ByteSize kMost = SIZE_MAX / 8;
}  // namespace

Result<Extents*> Extents::create(Pool& pool, ByteSize chunk, MapFlags flags,
                                 std::uint32_t most_free_runs) {
  if (chunk == 0 || chunk > kMost || has(flags, MapFlags::kDroppable)) return Error{EINVAL};
  auto made = frames::place<Extents>(pool, chunk, flags);
  if (!made) return made;
  Status s;
  {
    const SignalBlock signals;
    const Guard guard((*made)->lock_);
    s = (*made)->free_.create(sys::most_needed(most_free_runs, 2 * kPageSize, 1024));
  }
  if (!s) {
    frames::displace(*made);
    return s.error();
  }
  pool.count_owner(1);
  pool.count_metadata(frames::kPlacedBytes<Extents>);
  return made;
}

Status Extents::destroy(Extents* extents) {
  Pool& pool = extents->pool_;
  // Nobody else uses it any more. Outside the lock: unmapping takes what comes before it.
  const auto unmap_all = [extents]() BUOY_NO_TSA {
    for (std::size_t i = 0; i < extents->n_chunks_; ++i)
      (void)extents->pool_.vm().unmap(extents->chunks_[i].run);
    return extents->noted_metadata_;
  };
  const ByteSize metadata = frames::kPlacedBytes<Extents> + unmap_all();
  pool.vm().commitment().drop(PageCount::covering(extents->allocated_bytes()));
  pool.count_metadata(-static_cast<std::ptrdiff_t>(metadata));
  pool.count_owner(-1);
  frames::displace(extents);
  return {};
}

void Extents::note_metadata() {
  const ByteSize now = free_.touched_bytes();
  if (now == noted_metadata_) return;
  pool_.count_metadata(static_cast<std::ptrdiff_t>(now - noted_metadata_));
  noted_metadata_ = now;
}

Extents::Chunk* Extents::find(Vpn page) {
  Chunk* const begin = chunks_.data();
  Chunk* const above = std::upper_bound(begin, begin + n_chunks_, page,
                                        [](Vpn v, const Chunk& c) { return v < c.run.first; });
  if (above == begin || !(above - 1)->run.contains(page)) return nullptr;
  return above - 1;
}

Extents::Chunk* Extents::find_handed_out(PageRun run) {
  Chunk* const chunk = find(run.first);
  return chunk != nullptr && run.end() <= chunk->fresh ? chunk : nullptr;
}

std::optional<Extents::Taken> Extents::take_fresh(PageCount count, PageCount alignment) {
  for (std::size_t i = n_chunks_; i-- > 0;) {
    Chunk& c = chunks_[i];
    const Vpn at = c.fresh.aligned_up(alignment);
    if (at >= c.run.end() || c.run.end() - at < count) continue;
    if (at > c.fresh && !free_.insert({c.fresh, at - c.fresh}, c.run).ok()) continue;
    c.fresh = at + count;
    return Taken{{at, count}, true};
  }
  return std::nullopt;
}

std::optional<Extents::Taken> Extents::take(PageCount count, PageCount alignment) {
  const Section section(*this);
  std::optional<Taken> taken;
  if (const auto run = free_.take(count, alignment))
    taken = Taken{*run, false};
  else
    taken = take_fresh(count, alignment);
  return counted(taken);
}

std::optional<Extents::Taken> Extents::take_at(PageRun run) {
  const Section section(*this);
  if (free_.take_at(run)) return counted(Taken{run, false});
  Chunk* const chunk = find(run.first);
  if (chunk == nullptr || chunk->fresh != run.first || run.end() > chunk->run.end())
    return std::nullopt;
  chunk->fresh = run.end();
  return counted(Taken{run, true});
}

std::optional<Extents::Taken> Extents::counted(std::optional<Taken> taken) {
  note_metadata();
  if (!taken) return taken;
  find(taken->run.first)->allocated += taken->run.count;
  allocated_.fetch_add(taken->run.count.value(), std::memory_order_relaxed);
  return taken;
}

Status Extents::add_chunk(PageCount at_least) {
  PageCount wanted;
  {
    const Section section(*this);
    if (n_chunks_ == kMaxChunks) return Error{ENOMEM};
    wanted = std::max({at_least, chunk_, PageCount(mapped_.value() / 4)});
  }
  const auto map = [this](PageCount pages) {
    return pool_.map(pages.bytes(), flags_, mmu::Access::kReadWrite, nullptr);
  };
  auto at = map(wanted);
  if (!at) at = map(wanted = at_least);
  if (!at) return at.error();
  const PageRun run{Vpn::containing(*at), wanted};
  {
    const Section section(*this);
    if (n_chunks_ < kMaxChunks) {
      Chunk* const end = chunks_.data() + n_chunks_;
      Chunk* const place = std::upper_bound(chunks_.data(), end, run.first,
                                            [](Vpn v, const Chunk& c) { return v < c.run.first; });
      std::move_backward(place, end, end + 1);
      *place = {run, run.first, PageCount()};
      ++n_chunks_;
      mapped_ += run.count;
      return {};
    }
  }
  (void)pool_.vm().unmap(run);
  return Error{ENOMEM};
}

Result<Extents::Allocated> Extents::allocate(ByteSize length, ByteSize alignment) {
  if (length == 0 || !std::has_single_bit(alignment)) return Error{EINVAL};
  if (length > kMost || alignment > kMost) return Error{ENOMEM};
  const PageCount count = PageCount::covering(length);
  const PageCount aligned = PageCount::covering(alignment);
  const Pledge pledge(pool_.vm().commitment(), count);
  if (!pledge.is_made()) return Error{ENOMEM};
  // Others may be faster with the fresh chunk, but not for ever.
  constexpr int kMostTries = 16;
  for (int tries = 0; tries < kMostTries; ++tries) {
    if (const auto taken = take(count, aligned)) return handed_out(*taken);
    if (Status s = add_chunk(count + aligned - PageCount(1)); !s) return s.error();
  }
  return Error{ENOMEM};
}

Extents::Allocated Extents::handed_out(const Taken& taken) {
  pool_.vm().commitment().add(taken.run.count);
  if (!taken.is_fresh) (void)pool_.vm().reuse(taken.run);
  return {taken.run.first.pointer(), taken.is_fresh};
}

Result<Extents::Allocated> Extents::allocate_at(void* address, ByteSize length) {
  const auto start = reinterpret_cast<std::uintptr_t>(address);
  if (start % kPageSize != 0 || length == 0) return Error{EINVAL};
  if (length > kMost) return Error{ENOMEM};
  const PageRun run{Vpn::of_address(start), PageCount::covering(length)};
  const Pledge pledge(pool_.vm().commitment(), run.count);
  if (!pledge.is_made()) return Error{ENOMEM};
  const auto taken = take_at(run);
  if (!taken) return Error{ENOMEM};
  return handed_out(*taken);
}

Status Extents::free(void* address, ByteSize length) {
  const auto start = reinterpret_cast<std::uintptr_t>(address);
  if (start % kPageSize != 0 || length == 0 || length > kMost) return Error{EINVAL};
  const PageRun run{Vpn::of_address(start), PageCount::covering(length)};
  {
    const Section section(*this);
    if (find_handed_out(run) == nullptr || free_.overlaps(run)) return Error{EINVAL};
  }
  // Before anybody else may have it. Locks go with what they were for.
  if (pool_.context().held_pages.load(std::memory_order_relaxed) != 0) (void)pool_.vm().unlock(run);
  (void)pool_.vm().free_lazily(run, Vm::Until::kReuse);
  Status inserted;
  {
    const Section section(*this);
    Chunk* const chunk = find_handed_out(run);
    if (chunk == nullptr) return Error{EINVAL};
    inserted = free_.insert(run, chunk->run);
    if (inserted.ok()) {
      note_metadata();
      chunk->allocated -= run.count;
      allocated_.fetch_sub(run.count.value(), std::memory_order_relaxed);
      pool_.vm().commitment().drop(run.count);
      return {};
    }
  }
  // It stays allocated: what its owner stores from now on must be kept.
  (void)pool_.vm().reuse(run);
  return inserted;
}

std::optional<Extents::Chunk> Extents::take_idle_chunk() {
  const Section section(*this);
  for (std::size_t i = 0; i < n_chunks_; ++i) {
    const Chunk c = chunks_[i];
    if (!c.allocated.is_zero()) continue;
    if (c.fresh > c.run.first) BUOY_CHECK(free_.remove({c.run.first, c.fresh - c.run.first}));
    std::move(chunks_.data() + i + 1, chunks_.data() + n_chunks_, chunks_.data() + i);
    --n_chunks_;
    mapped_ -= c.run.count;
    return c;
  }
  return std::nullopt;
}

Status Extents::trim() {
  while (const auto chunk = take_idle_chunk())
    if (Status s = pool_.vm().unmap(chunk->run); !s) return s;
  return {};
}

}  // namespace buoy
