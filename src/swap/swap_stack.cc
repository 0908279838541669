#include "swap/swap_stack.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/sys.h"
#include "frames/arena.h"
#include "swap/backing_file.h"
#include "swap/compressor.h"
#include "swap/foreign_word.h"
#include "swap/page_codec.h"
#include "swap/work_area.h"
#include "swap/zram.h"
#include "zpool/zpool.h"

namespace buoy::swap {

using zpool::Handle;
using zpool::PutOutcome;
using zpool::Zpool;

struct SwapStack::Tiers {
  Tiers(frames::Arena& the_arena, Zpool& the_pool, const Compressor& compressor)
      : arena(the_arena), pool(the_pool), codec(compressor), zram(the_pool, codec, areas) {}

  frames::Arena& arena;
  Zpool& pool;
  PageCodec codec;
  WorkAreas areas;
  Zram zram;
  BackingFile* file = nullptr;

  [[nodiscard]] Status open_file(const SwapOptions& options, const Compressor& compressor,
                                 Counters& counters);
  [[nodiscard]] bool make_room();
  [[nodiscard]] LoadOutcome load_compressed(const Zpool::Pinned& object, std::byte* out) {
    return zram.load(object, out) ? LoadOutcome::kLoaded : LoadOutcome::kCorrupt;
  }
};

// `auto` does without a file where it would live in memory or cannot be made; a path must work.
Status SwapStack::Tiers::open_file(const SwapOptions& options, const Compressor& compressor,
                                   Counters& counters) {
  const char* const where = options.backing_file;
  if (where == nullptr || std::string_view(where) == "none") return {};
  auto opened = BackingFile::create(
      where, {pool, zram, codec, compressor, counters, options.disk_ledger, options.encryption});
  if (opened) {
    file = *opened;
    return {};
  }
  if (std::string_view(where) != "auto") return opened.error();
  sys::Line line;
  line.text("swap: no backing file: ");
  if (opened.code() == EOPNOTSUPP)
    line.text(
        "the directory for temporary files lives in memory (tmpfs); set TMPDIR to one on a "
        "disk, or name a file");
  else
    line.text("the directory for temporary files takes none (error ")
        .number(static_cast<std::uint64_t>(opened.code()))
        .text("); set TMPDIR, or name a file");
  line.complain();
  return {};
}

// The pool could not take an object. True: something changed, and trying again makes sense.
bool SwapStack::Tiers::make_room() {
  // Enough for any zspage, many times over; short enough to wait for.
  constexpr PageCount kRoom = PageCount(64);
  const bool moved = file != nullptr && file->write_back(kRoom).moved != 0;
  return !pool.compact().is_zero() || moved;
}

namespace {
Handle handle_of(SwapEntry e) { return Handle(e.bits()); }
bool is_in_file(const Zpool::Pinned& object) {
  return object.is_foreign() && foreign::is_file(object.payload());
}

PageCount most_frames_of(const SwapOptions& options) {
  return options.most_compressed == 0 ? Zpool::kAsTheArena
                                      : PageCount::whole_in(options.most_compressed);
}

// Room that was made may be taken by other threads; past this the page goes to the file directly.
constexpr unsigned kStoreAttempts = 8;
}  // namespace

// ---------------------------------------------------------------- life

Result<SwapStack*> SwapStack::create(const SwapOptions& options, frames::Arena& arena,
                                     Counters& counters) {
  auto stack = frames::place<SwapStack>();
  if (!stack) return stack;
  auto pool = Zpool::create(arena, most_frames_of(options));
  if (!pool) {
    destroy(*stack);
    return pool.error();
  }
  const Compressor& compressor = Compressor::of(options.compressor);
  auto tiers = frames::place<Tiers>(arena, **pool, compressor);
  if (!tiers) {
    Zpool::destroy(*pool);
    destroy(*stack);
    return tiers.error();
  }
  (*stack)->tiers_ = *tiers;
  Status s = (*tiers)->areas.create(compressor, sys::online_cpus());
  if (s) s = (*tiers)->open_file(options, compressor, counters);
  if (!s) {
    destroy(*stack);
    return s.error();
  }
  return stack;
}

void SwapStack::destroy(SwapStack* stack) {
  if (Tiers* t = stack->tiers_; t != nullptr) {
    Zpool& pool = t->pool;
    if (t->file != nullptr) BackingFile::destroy(t->file);
    frames::displace(t);
    Zpool::destroy(&pool);
  }
  frames::displace(stack);
}

// ---------------------------------------------------------------- pages

StoreOutcome SwapStack::store(const std::byte* page, SwapEntry* entry) {
  Tiers& t = *tiers_;
  Handle handle;
  PutOutcome outcome = t.zram.store(page, &handle);
  for (unsigned attempt = 0; outcome == PutOutcome::kNoRoom && attempt < kStoreAttempts;
       ++attempt) {
    if (!t.make_room()) break;
    outcome = t.zram.store(page, &handle);
  }
  if (outcome != PutOutcome::kPut) {
    if (t.file == nullptr || !t.file->store(page, &handle)) return StoreOutcome::kFull;
  }
  *entry = SwapEntry(handle.index());
  return StoreOutcome::kStored;
}

LoadOutcome SwapStack::load(SwapEntry entry, std::byte* out) {
  Tiers& t = *tiers_;
  // Held across a read of the file, too: it keeps collection from moving the record meanwhile.
  const Zpool::Pinned object = t.pool.pin(handle_of(entry));
  if (!is_in_file(object)) return t.load_compressed(object, out);
  LoadOutcome outcome = LoadOutcome::kCorrupt;
  BackingFile::Reading reading{handle_of(entry), object.payload(), out, &outcome};
  t.file->load(&reading, 1);
  return outcome;
}

void SwapStack::load_many(PageLoad* loads, unsigned n) {
  BUOY_DCHECK(n <= kMostLoads);
  Tiers& t = *tiers_;
  std::array<std::optional<Zpool::Pinned>, kMostLoads> in_file;  // held as load() does
  std::array<BackingFile::Reading, kMostLoads> readings;
  unsigned n_in_file = 0;
  for (unsigned k = 0; k < n; ++k) {
    const Handle handle = handle_of(loads[k].entry);
    Zpool::Pinned object = t.pool.pin(handle);
    if (is_in_file(object)) {
      readings[n_in_file] = {handle, object.payload(), loads[k].out, &loads[k].outcome};
      in_file[n_in_file++].emplace(std::move(object));
    } else {
      loads[k].outcome = t.load_compressed(object, loads[k].out);
    }
  }
  if (n_in_file != 0) t.file->load(readings.data(), n_in_file);
}

void SwapStack::free(SwapEntry entry) {
  Tiers& t = *tiers_;
  Zpool::Pinned object = t.pool.pin(handle_of(entry));
  if (is_in_file(object)) {
    t.file->forget(object.payload());
    t.pool.free(std::move(object));
  } else {
    t.zram.free(std::move(object));
  }
}

bool SwapStack::is_slow(SwapEntry entry) const { return is_backed(entry); }

ByteSize SwapStack::stored_bytes(SwapEntry entry) const {
  const zpool::HandleWord w = tiers_->pool.peek(handle_of(entry));
  return w.kind() == zpool::HandleWord::Kind::kForeign ? 0 : w.length();
}

bool SwapStack::is_backed(SwapEntry entry) const {
  const zpool::HandleWord w = tiers_->pool.peek(handle_of(entry));
  return w.kind() == zpool::HandleWord::Kind::kForeign && foreign::is_file(w.payload());
}

bool SwapStack::has_file() const { return tiers_->file != nullptr; }

PageCount SwapStack::file_room() const {
  return tiers_->file != nullptr ? tiers_->file->room() : PageCount();
}

std::uint64_t SwapStack::same_filled_pages() const { return tiers_->zram.same_filled(); }

PageCount SwapStack::frames() const { return tiers_->pool.frames(); }

PageCount SwapStack::most_frames() const { return tiers_->pool.most_frames(); }

PageCount SwapStack::write_back(PageCount goal) {
  Tiers& t = *tiers_;
  if (t.file == nullptr) return {};
  const BackingFile::WriteBack done = t.file->write_back(goal);
  // What is left of the zspages that lost objects moves together.
  const PageCount freed = done.moved == 0 ? done.freed : done.freed + t.pool.compact();
  t.arena.trim(1);
  return freed;
}

PageCount SwapStack::compact() {
  PageCount freed = tiers_->pool.compact();
  // A block's worth: a fault may be waiting.
  freed += tiers_->arena.compactor().compact(frames::CompactionEffort());
  if (tiers_->file != nullptr) tiers_->file->trim();
  return freed;
}

// ---------------------------------------------------------------- looking at it

SwapStats SwapStack::stats() const {
  const Tiers& t = *tiers_;
  const zpool::ZpoolStats pool = t.pool.stats();
  SwapStats s;
  s.compressed_pages = t.zram.pages();
  s.compressed_bytes = pool.object_bytes + pool.objects * zpool::kHeaderBytes;
  s.compressed_original_bytes = s.compressed_pages * kPageSize;
  s.pool_bytes = pool.frames.bytes();
  s.same_filled_pages = t.zram.same_filled();
  s.incompressible_pages = t.zram.incompressible();
  s.metadata_bytes = pool.metadata_bytes + t.areas.bytes() + frames::kPlacedBytes<Tiers> +
                     frames::kPlacedBytes<SwapStack>;
  if (t.file != nullptr) {
    s.backing_file_bytes = t.file->live_bytes();
    s.metadata_bytes += t.file->metadata_bytes();
  }
  return s;
}

ByteSize SwapStack::backing_file_allocated_bytes() const {
  return tiers_->file != nullptr ? tiers_->file->allocated_bytes() : 0;
}

ByteSize SwapStack::backing_file_tree_bytes() const {
  return tiers_->file != nullptr ? tiers_->file->tree_bytes() : 0;
}

ByteSize SwapStack::backing_file_bound() const {
  return tiers_->file != nullptr ? tiers_->file->bound() : 0;
}

void SwapStack::validate() {
  Tiers& t = *tiers_;
  t.pool.validate();
  if (t.file != nullptr) t.file->validate();
  const std::uint64_t in_file = t.file != nullptr ? t.file->pages() : 0;
  BUOY_CHECK(t.zram.pages() + in_file == t.pool.live_handles());
}

// ---------------------------------------------------------------- fork

void SwapStack::before_fork() {
  if (tiers_->file != nullptr) tiers_->file->before_fork();
}
void SwapStack::after_fork_in_parent() {
  if (tiers_->file != nullptr) tiers_->file->after_fork_in_parent();
}
void SwapStack::after_fork_in_child() {
  if (tiers_->file != nullptr) tiers_->file->after_fork_in_child();
}

}  // namespace buoy::swap
