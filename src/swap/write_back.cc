// The writing half of BackingFile: batches, the clock, collection.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/sys.h"
#include "swap/backing_file.h"
#include "swap/foreign_word.h"

namespace buoy::swap {

using zpool::Handle;
using zpool::HandleWord;
using zpool::Zpool;

namespace {
// The file may be this much larger than what lives in it, plus as much again as lives in it.
constexpr ByteSize kSlackBytes = ByteSize{16} << 20;
constexpr unsigned kSparseShare = 50;     // percent; moving a half-empty cluster pays one for two
constexpr unsigned kDesperateShare = 85;  // when the disk is full
constexpr std::uint32_t kLongestRecord = record_bytes(kPageSize);
constexpr std::uint32_t kLeastRoom = (kLongestRecord + kPageSize - 1) & ~(kPageSize - 1);

bool is_marked(HandleWord w, unsigned mark) {
  return w.kind() == HandleWord::Kind::kNative && (w.marks() & mark) != 0;
}
}  // namespace

// ---------------------------------------------------------------- whether

bool BackingFile::may_write_locked() {
  if (is_broken_.load(std::memory_order_relaxed)) return false;
  if (!files_[own_].is_open()) {
    // A fork child's first write.
    auto opened = open_unlinked(directory_);
    if (!opened) {
      is_broken_.store(true, std::memory_order_relaxed);
      complain_once(said_broken_, "a forked process goes on without a backing file of its own",
                    opened.code());
      return false;
    }
    files_[own_] = *opened;
    equip();
    if (is_broken_.load(std::memory_order_relaxed)) return false;
  }
  if (!files_[own_].is_intact()) {
    is_broken_.store(true, std::memory_order_relaxed);
    complain_once(said_broken_, "the program closed the backing file; nothing more goes there", 0);
    return false;
  }
  if (!tried_ring_) {
    tried_ring_ = true;
    (void)ring_.create();  // forbidden, or too old a kernel: pwrite does as well
  }
  thaw_locked();
  return true;
}

void BackingFile::thaw_locked() {
  for (unsigned i = 0; i < kLifeLines; ++i) {
    if (life_lines_[i] < 0 || !is_cut(life_lines_[i])) continue;
    close_fd(&life_lines_[i]);
    clusters_.thaw(static_cast<std::uint8_t>(1U << i));
  }
}

// ---------------------------------------------------------------- a batch's life

bool BackingFile::open_cluster_locked(ClusterMap::Purpose purpose) {
  const bool collecting = purpose == ClusterMap::Purpose::kCollection;
  if (!collecting && clusters_.allocated_bytes() > 2 * live_bytes() + kSlackBytes)
    collect_garbage_locked(kSparseShare, 2);
  for (;;) {
    // Collection may have opened one; what is left of it is as good as any.
    if (open_ != ClusterMap::kNone && kClusterBytes - clusters_.at(open_).filled >= kLeastRoom)
      return true;
    if (open_ != ClusterMap::kNone) clusters_.seal(std::exchange(open_, ClusterMap::kNone));
    Status why;
    open_ = clusters_.take(files_[own_], own_, purpose, &why);
    if (open_ != ClusterMap::kNone) return true;
    if (collecting || collect_garbage_locked(kDesperateShare, 2) == 0) {
      if (!collecting) complain_of_no_room(why.code());
      return false;
    }
  }
}

bool BackingFile::begin_locked(Batch& batch, ClusterMap::Purpose purpose) {
  BUOY_DCHECK(batch.state == Batch::State::kIdle);
  if (open_ == ClusterMap::kNone || kClusterBytes - clusters_.at(open_).filled < kLeastRoom)
    if (!open_cluster_locked(purpose)) return false;
  const Cluster& c = clusters_.at(open_);
  batch.cluster = open_;
  batch.offset = c.filled;
  batch.capacity = std::min(kBatchBytes, static_cast<std::uint32_t>(kClusterBytes) - c.filled);
  batch.bytes = 0;
  batch.count = 0;
  batch.seed = record_seed(open_, c.generation);
  batch.state = Batch::State::kFilling;
  return true;
}

void BackingFile::start_locked(Batch& batch) {
  const std::uint32_t bytes = batch.pad();
  clusters_.at(batch.cluster).filled += bytes;
  parts_.counters.add(Event::swap_file_write, bytes);
  // Nobody reads the buffer any more, but for the file.
  ciphers_[own_].apply(batch.buffer, bytes, batch.cluster, clusters_.at(batch.cluster).generation,
                       batch.offset);
  const std::uint64_t offset = clusters_.offset_of(batch.cluster) + batch.offset;
  batch.state = Batch::State::kWriting;
  clusters_.begin_use(batch.cluster);
  if (ring_.start_write(files_[own_].fd, batch.buffer, bytes, offset, buffers_.tag_of(batch)))
    return;
  const Status s = write_all(files_[own_], batch.buffer, bytes, offset);
  batch.state = s ? Batch::State::kWritten : Batch::State::kFailed;
  batch.error = s.code();
}

void BackingFile::wait_locked(Batch& batch) {
  while (batch.state == Batch::State::kWriting) {
    std::uint64_t tag = 0;
    int result = 0;
    if (!ring_.wait(&tag, &result)) {
      // The program closed the ring under us. The kernel may still write this buffer to its place,
      // which must therefore never be given to anybody else: the file is done for.
      ring_.close();
      is_broken_.store(true, std::memory_order_relaxed);
      batch.state = Batch::State::kFailed;
      batch.error = EBADF;
      return;
    }
    Batch& done = buffers_.tagged(tag);
    const auto bytes = static_cast<std::uint32_t>(PageCount::covering(done.bytes).bytes());
    Status s;
    if (result < 0 || static_cast<std::uint32_t>(result) < bytes) {
      // Short, or the ring cannot write to this file: once more, all of it, the plain way.
      s = write_all(files_[own_], done.buffer, bytes,
                    clusters_.offset_of(done.cluster) + done.offset);
    }
    done.state = s ? Batch::State::kWritten : Batch::State::kFailed;
    done.error = s.code();
  }
}

bool BackingFile::finish_locked(Batch& batch, PageCount* freed) {
  wait_locked(batch);
  const bool written = batch.state == Batch::State::kWritten;
  for (std::uint32_t i = 0; i < batch.count; ++i)
    *freed += settle_locked(batch, batch.items[i], written);
  clusters_.end_use(batch.cluster);
  batch.state = Batch::State::kIdle;
  if (!written) complain_once(said_broken_, "the backing file cannot be written", batch.error);
  return written;
}

PageCount BackingFile::settle_locked(const Batch& batch, const BatchItem& item, bool written) {
  if (item.moved_from == 0) return settle_object_locked(batch, item, written);
  if (written) settle_moved_locked(batch, item);
  return {};
}

// An object whose bytes are in the file now, or will not be.
PageCount BackingFile::settle_object_locked(const Batch& batch, const BatchItem& item,
                                            bool written) {
  Zpool::Pinned object;
  for (unsigned spins = 0;; ++spins) {
    // Freed meanwhile, and perhaps used anew: then it has not this batch's mark.
    if (!is_marked(parts_.pool.peek(item.handle), batch.mark)) return {};
    if (Zpool::Pinned p = parts_.pool.try_pin(item.handle); p) {
      if (p.is_foreign() || (p.marks() & batch.mark) == 0) return {};
      p.set_marks(p.marks() & ~batch.mark);
      if (!written) return {};
      const RecordPlace place = batch.place_of(item);
      const std::uint32_t bytes = record_bytes(item.length);
      clusters_.add_record(batch.cluster, bytes);
      count_in(bytes);
      parts_.zram.forget(p);
      return parts_.pool.turn_foreign(std::move(p), foreign::of_file(place.bits()));
    }
    // A reader has it for a microsecond.
    if (spins < 100)
      __builtin_ia32_pause();
    else
      sys::yield();
  }
}

// A record that was moved to another cluster: if its page is still wanted, it lives here now. A
// reader of the old record keeps it where it is; the copy is dead then.
void BackingFile::settle_moved_locked(const Batch& batch, const BatchItem& item) {
  Zpool::Pinned p = parts_.pool.try_pin(item.handle);
  if (!p || !p.is_foreign() || p.payload() != item.moved_from) return;
  const std::uint32_t bytes = record_bytes(item.length);
  clusters_.add_record(batch.cluster, bytes);
  p.set_payload(foreign::of_file(batch.place_of(item).bits()));
  clusters_.drop_record(RecordPlace(foreign::value(item.moved_from)).cluster(), bytes);
}

// ---------------------------------------------------------------- write-back

// Fills the batch with the objects that the clock's hand finds old. A batch sees a handle once at
// most: an object's mark says which batch has its copy, and must not say it of two copies.
void BackingFile::collect_old_locked(Batch& batch, std::uint64_t* scans_left) {
  Zpool& pool = parts_.pool;
  const std::uint32_t span = pool.handle_span();
  for (std::uint32_t seen_here = 1; seen_here<span&& * scans_left> 0;
       ++seen_here, --*scans_left, ++hand_) {
    if (hand_ >= span) hand_ = 1;
    const Handle handle(hand_);
    const HandleWord seen = pool.peek(handle);
    if (seen.kind() != HandleWord::Kind::kNative || seen.is_pinned()) continue;
    if (seen.length() == kPatternBytes) continue;  // would be larger in the file
    if (is_marked(seen, kMarkAnyWriteBack)) continue;
    if (!batch.has_room(seen.length())) return;
    Zpool::Pinned object = pool.try_pin(handle);
    if (!object || object.is_foreign()) continue;
    if ((object.marks() & kMarkYoung) != 0) {
      object.set_marks(object.marks() & ~kMarkYoung);
      continue;
    }
    const unsigned length = object.length();
    // Between the look and the pin it may have become another page.
    if (length == kPatternBytes || !batch.has_room(length)) continue;
    batch.add(handle, length, 0, [&object](std::byte* to) { object.copy_out(to); });
    object.set_marks(object.marks() | batch.mark);
  }
}

BackingFile::WriteBack BackingFile::write_back(PageCount goal) {
  const Guard guard(lock_);
  WriteBack done;
  if (!may_write_locked()) return done;
  // Twice around: once to take everybody's youth, once to write.
  std::uint64_t scans_left = 2 * std::uint64_t{parts_.pool.handle_span()};
  bool is_written = true;
  Batch* writing = nullptr;
  for (unsigned turn = 0; is_written && done.moved < goal.bytes(); ++turn) {
    Batch& batch = buffers_.in_turn(turn);
    if (!begin_locked(batch, ClusterMap::Purpose::kNewRecords)) break;
    collect_old_locked(batch, &scans_left);
    if (batch.count == 0) {
      batch.state = Batch::State::kIdle;
      break;
    }
    start_locked(batch);
    done.moved += batch.bytes;
    if (writing != nullptr) is_written = finish_locked(*writing, &done.freed);
    writing = &batch;
  }
  if (writing != nullptr && !finish_locked(*writing, &done.freed)) done.moved = 0;
  return done;
}

bool BackingFile::store(const std::byte* page, Handle* handle) {
  const Guard guard(lock_);
  if (!may_write_locked()) return false;
  Batch& batch = buffers_.in_turn(0);
  if (!begin_locked(batch, ClusterMap::Purpose::kNewRecords)) return false;
  const WorkArea area{buffers_.work(), buffers_.page_buffer(), nullptr};
  const EncodedPage encoded = parts_.codec.encode(area, page);
  // A pattern for the moment: no word of the file's before there is a record.
  *handle = parts_.pool.put_foreign(foreign::of_pattern(0));
  if (handle->is_none()) {
    batch.state = Batch::State::kIdle;
    return false;
  }
  batch.add(*handle, encoded.length, 0,
            [&encoded](std::byte* to) { std::memcpy(to, encoded.data, encoded.length); });
  start_locked(batch);
  wait_locked(batch);
  const bool written = batch.state == Batch::State::kWritten;
  batch.state = Batch::State::kIdle;
  const std::uint32_t bytes = record_bytes(encoded.length);
  if (written) {
    clusters_.add_record(batch.cluster, bytes);
    count_in(bytes);
  }
  clusters_.end_use(batch.cluster);
  if (!written) {
    complain_once(said_broken_, "the backing file cannot be written", batch.error);
    parts_.pool.free(*handle);
    return false;
  }
  parts_.pool.pin(*handle).set_payload(foreign::of_file(batch.place_of(batch.items[0]).bits()));
  return true;
}

// ---------------------------------------------------------------- collection

unsigned BackingFile::collect_garbage_locked(unsigned share, unsigned most) {
  // Its own writing must not start another.
  if (is_collecting_) return 0;
  is_collecting_ = true;
  unsigned emptied = 0;
  while (emptied < most) {
    const std::uint32_t cluster = clusters_.find_sparse(own_, share);
    if (cluster == ClusterMap::kNone) break;
    clusters_.begin_use(cluster);
    const Emptied outcome = empty_cluster_locked(cluster);
    clusters_.end_use(cluster);
    if (outcome == Emptied::kNoRoom || outcome == Emptied::kInUse) break;
    if (outcome == Emptied::kUnreadable)
      clusters_.at(cluster).is_unreadable = true;
    else
      ++emptied;
  }
  is_collecting_ = false;
  return emptied;
}

// Copies what lives in a sealed cluster, which the caller has in use, into the open one.
BackingFile::Emptied BackingFile::empty_cluster_locked(std::uint32_t number) {
  const Cluster& from = clusters_.at(number);
  std::byte* const bytes = buffers_.cluster_buffer();
  if (!read_all(files_[own_], bytes, from.filled, clusters_.offset_of(number)))
    return Emptied::kUnreadable;
  parts_.counters.add(Event::swap_file_read, from.filled);
  ciphers_[own_].apply(bytes, from.filled, number, from.generation, 0);

  Batch& batch = buffers_.for_collection();
  const std::uint64_t seed = record_seed(number, from.generation);
  PageCount freed;
  bool is_whole = true;
  std::uint32_t at = 0;
  while (at + sizeof(RecordHeader) <= from.filled) {
    RecordHeader header;
    std::memcpy(&header, bytes + at, sizeof header);
    if (header.length == 0) {  // the end of a batch
      at = (at & ~(static_cast<std::uint32_t>(kPageSize) - 1)) +
           static_cast<std::uint32_t>(kPageSize);
      continue;
    }
    const unsigned length = header.length;
    if (length > kPageSize || at + record_bytes(length) > from.filled) return Emptied::kUnreadable;
    const Handle handle(header.handle);
    const std::uint64_t payload = foreign::of_file(RecordPlace(number, at, length).bits());
    const std::uint32_t place = at;
    at += record_bytes(length);
    if (handle.is_none() || handle.index() >= parts_.pool.handle_span())
      return Emptied::kUnreadable;
    const HandleWord w = parts_.pool.peek(handle);
    if (w.kind() != HandleWord::Kind::kForeign || w.payload() != payload) continue;
    const std::byte* const data = verified_data(bytes + place, handle.index(), length, seed);
    if (data == nullptr) {
      is_whole = false;  // it stays, and its toucher will hear of it
      continue;
    }
    if (batch.state == Batch::State::kFilling && !batch.has_room(length)) {
      start_locked(batch);
      if (!finish_locked(batch, &freed)) return Emptied::kNoRoom;
    }
    if (batch.state == Batch::State::kIdle &&
        !begin_locked(batch, ClusterMap::Purpose::kCollection))
      return Emptied::kNoRoom;
    batch.add(handle, length, payload,
              [data, length](std::byte* to) { std::memcpy(to, data, length); });
  }
  if (batch.state == Batch::State::kFilling) {
    start_locked(batch);
    if (!finish_locked(batch, &freed)) return Emptied::kNoRoom;
  }
  if (!is_whole) return Emptied::kUnreadable;
  // One is our own use.
  return from.live.load(std::memory_order_relaxed) == 1 ? Emptied::kEmptied : Emptied::kInUse;
}

}  // namespace buoy::swap
