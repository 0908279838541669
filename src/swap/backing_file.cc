#include "swap/backing_file.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "base/sys.h"
#include "swap/foreign_word.h"

namespace buoy::swap {
namespace {

// What one read brings: 32 pages that compressed to a half. At least 3: a record begins anywhere in
// a page and is a little longer than one.
constexpr PageCount kReadPages = PageCount(17);
constexpr unsigned kReaders = 4;  // threads that read at once; more wait for their turn
// Bytes that nobody asked for are read with the others rather than stepped around.
constexpr std::uint32_t kMostReadOver = 16U << 10;

const char* temporary_directory() {
  const char* dir = std::getenv("TMPDIR");
  return dir != nullptr && *dir != '\0' ? dir : "/tmp";
}

}  // namespace

// ---------------------------------------------------------------- life

Result<BackingFile*> BackingFile::create(const char* where, const Parts& parts) {
  auto file = frames::place<BackingFile>(parts);
  if (!file) return file;
  if (const Status s = (*file)->open(where); !s) {
    destroy(*file);
    return s.error();
  }
  return file;
}

Status BackingFile::open(const char* where) {
  const bool is_auto = std::string_view(where) == "auto";
  const std::string_view name(is_auto ? temporary_directory() : where);
  // A child's own file goes into the same directory.
  std::string_view directory = name;
  if (!is_auto) {
    const std::size_t slash = name.rfind('/');
    directory = slash == std::string_view::npos ? std::string_view(".")
                                                : name.substr(0, slash == 0 ? 1 : slash);
  }
  if (const Status s = remember_directory(directory); !s) return s;

  auto opened = is_auto ? open_unlinked(directory_) : open_named(where, &empty_at_end_);
  if (!opened) return opened.error();
  files_[0] = *opened;
  equip();
  if (const Status s = clusters_.create(); !s) return s;
  if (const Status s = readers_.create(parts_.compressor, kReaders, kReadPages); !s) return s;
  const Guard guard(lock_);
  const std::size_t work = parts_.compressor.work_bytes();
  if (const Status s = buffers_.create(work); !s) return s;
  if (work != 0 && !parts_.compressor.prepare(buffers_.work())) return Error{EINVAL};
  return {};
}

Status BackingFile::make_key() {
  if (parts_.encryption == FileEncryption::kNone) return {};
  // Neither in a core dump nor, where a process may lock a little, on the machine's swap.
  (void)sys::advise(this, frames::kPlacedBytes<BackingFile>, MADV_DONTDUMP);
  sys::call(SYS_mlock, sys::ptr(ciphers_.data()), sizeof ciphers_);
  return ciphers_[own_].make_key();
}

void BackingFile::equip() {
  if (const Status s = make_key(); !s) {
    is_broken_.store(true, std::memory_order_relaxed);
    complain_once(said_broken_,
                  "there is no key to encrypt the backing file, so nothing goes there", s.code());
    return;
  }
  if (parts_.ledger == nullptr) return;
  const auto share = parts_.ledger->claim();
  if (share) {
    files_[own_].share = *share;
    return;
  }
  // No descriptor is left, perhaps.
  if (own_ > 0 && files_[own_ - 1].share.is_open()) {
    files_[own_].share = files_[own_ - 1].share.lent();
    return;
  }
  is_broken_.store(true, std::memory_order_relaxed);
  complain_once(
      said_broken_,
      "the bound that the backing files of this run share cannot be kept, so nothing goes "
      "to this process's (is /proc mounted?)",
      share.code());
}

// As an absolute path: the program may change its working directory before a child needs it.
Status BackingFile::remember_directory(std::string_view directory) {
  std::size_t at = 0;
  if (directory.empty() || directory.front() != '/') {
    // What the kernel gives ends with a zero, which becomes the slash.
    const long n = sys::call(SYS_getcwd, sys::ptr(directory_), sizeof directory_);
    if (n <= 1) return Error{n == -ERANGE ? ENAMETOOLONG : ENOENT};
    at = static_cast<std::size_t>(n);
    directory_[at - 1] = '/';
  }
  if (at + directory.size() >= sizeof directory_) return Error{ENAMETOOLONG};
  std::memcpy(directory_ + at, directory.data(), directory.size());
  directory_[at + directory.size()] = '\0';
  return {};
}

void BackingFile::destroy(BackingFile* file) {
  for (unsigned i = 0; i < kMaxFiles; ++i)
    close_file(file->files_[i], i == file->own_ && file->empty_at_end_);
  {
    const Guard guard(file->lock_);
    for (int& fd : file->life_lines_) close_fd(&fd);
  }
  frames::displace(file);
}

// ---------------------------------------------------------------- reading and forgetting

void BackingFile::load(Reading* readings, unsigned n) {
  const auto place_of = [readings](unsigned k) {
    return RecordPlace(foreign::value(readings[k].payload));
  };
  const auto end_of = [](RecordPlace p) { return p.offset() + record_bytes(p.length()); };
  std::sort(readings, readings + n, [](const Reading& a, const Reading& b) {
    return foreign::value(a.payload) < foreign::value(b.payload);
  });
  for (unsigned first = 0; first < n;) {
    const RecordPlace begin = place_of(first);
    const std::uint64_t start = begin.offset() & ~(kPageSize - 1);
    unsigned end = first + 1;
    for (; end < n; ++end) {
      const RecordPlace next = place_of(end);
      if (next.cluster() != begin.cluster()) break;
      if (next.offset() > end_of(place_of(end - 1)) + kMostReadOver) break;
      if (PageCount::covering(end_of(next) - start) > kReadPages) break;
    }
    if (!load_together(readings + first, end - first) && end - first > 1)
      // Whose own part can be read is not to suffer from its neighbours'.
      for (unsigned k = first; k < end; ++k) (void)load_together(readings + k, 1);
    first = end;
  }
  for (unsigned k = 0; k < n; ++k)
    if (*readings[k].outcome != LoadOutcome::kLoaded) parts_.counters.add(Event::swap_corrupt);
}

bool BackingFile::load_together(const Reading* readings, unsigned n) {
  const RecordPlace first(foreign::value(readings[0].payload));
  const RecordPlace last(foreign::value(readings[n - 1].payload));
  const Cluster& cluster = clusters_.at(first.cluster());
  const std::uint64_t offset = first.offset() & ~(kPageSize - 1);
  const std::size_t bytes =
      PageCount::covering(last.offset() + sizeof(RecordHeader) + last.length() - offset).bytes();

  const WorkAreas::Lease area(readers_);
  const Status read = read_all(files_[cluster.file], area->scratch, bytes,
                               clusters_.offset_of(first.cluster()) + offset);
  if (read) {
    parts_.counters.add(Event::swap_file_read, bytes);
    ciphers_[cluster.file].apply(area->scratch, bytes, first.cluster(), cluster.generation,
                                 static_cast<std::uint32_t>(offset));
  }
  for (unsigned k = 0; k < n; ++k) {
    const Reading& r = readings[k];
    const RecordPlace place(foreign::value(r.payload));
    const std::byte* data = nullptr;
    if (read)
      data = verified_data(area->scratch + (place.offset() - offset), r.handle.index(),
                           place.length(), record_seed(place.cluster(), cluster.generation));
    const bool ok =
        data != nullptr && parts_.codec.decode(area->state, data, place.length(), r.out);
    *r.outcome = ok ? LoadOutcome::kLoaded : LoadOutcome::kCorrupt;
    if (!ok)
      complain_once(said_corrupt_, "the backing file does not give back what was written to it",
                    read.code());
  }
  return read.ok();
}

void BackingFile::forget(std::uint64_t payload) {
  const RecordPlace place(foreign::value(payload));
  const std::uint32_t bytes = record_bytes(place.length());
  live_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  pages_.fetch_sub(1, std::memory_order_relaxed);
  clusters_.drop_record(place.cluster(), bytes);
}

void BackingFile::count_in(std::uint32_t record) {
  live_bytes_.fetch_add(record, std::memory_order_relaxed);
  pages_.fetch_add(1, std::memory_order_relaxed);
}

void BackingFile::complain_once(std::atomic<bool>& said, const char* what, int code) {
  if (said.exchange(true, std::memory_order_relaxed)) return;
  sys::Line line;
  line.text("swap: ").text(what);
  if (code != 0) line.text(" (error ").number(static_cast<std::uint64_t>(code)).text(")");
  line.complain();
}

void BackingFile::complain_of_no_room(int code) {
  if (code != kAtBound)
    return complain_once(said_full_, "the backing file cannot grow; what it holds stays usable",
                         code);
  if (said_full_.exchange(true, std::memory_order_relaxed)) return;
  sys::Line()
      .text("swap: the backing files of this run have reached their bound of ")
      .number(bound() >> 10)
      .text(" KiB together; what they hold stays usable (`--backing-file-size` sets the bound)")
      .complain();
}

// ---------------------------------------------------------------- fork

void BackingFile::before_fork() {
  forking_ = {};
  if (pages() == 0) return;
  if (auto line = open_life_line(); line) forking_ = *line;
}

void BackingFile::after_fork_in_parent() {
  if (pages() == 0) return;
  // From here on this process is the writing end's stranger: when the child and all that it forks
  // are gone, or have executed another program, the pipe is cut.
  close_fd(&forking_.write_fd);
  std::uint8_t bit = kForever;
  for (unsigned i = 0; i < kLifeLines && forking_.read_fd >= 0; ++i) {
    if (life_lines_[i] >= 0) continue;
    life_lines_[i] = forking_.read_fd;
    forking_.read_fd = -1;
    bit = static_cast<std::uint8_t>(1U << i);
  }
  close_fd(&forking_.read_fd);
  clusters_.freeze(bit);
}

void BackingFile::after_fork_in_child() {
  // The writing end stays open, on purpose and unnamed, until this process ends.
  close_fd(&forking_.read_fd);
  forking_ = {};
  for (int& fd : life_lines_) close_fd(&fd);
  ring_.forget_after_fork();
  tried_ring_ = false;
  open_ = ClusterMap::kNone;
  empty_at_end_ = false;
  // A file that was never written is the parent's all the same, and needs no successor.
  if (own_ + 1U < kMaxFiles)
    ++own_;
  else
    is_broken_.store(true, std::memory_order_relaxed);
  clusters_.start_new_file();
}

// ---------------------------------------------------------------- looking at it

PageCount BackingFile::room() const {
  if (is_broken_.load(std::memory_order_relaxed) || said_broken_.load(std::memory_order_relaxed))
    return {};
  const OpenFile& own = files_[own_];
  ByteSize more = own.is_open() ? disk_space_left(own) : disk_space_left(directory_);
  const ByteSize limit = most_file_bytes();
  more = std::min(more, limit - std::min(limit, clusters_.file_bytes()));
  if (parts_.ledger != nullptr) more = std::min(more, parts_.ledger->left());
  // An eighth is lost to ends of clusters and to records that are gone but not yet collected.
  const ByteSize holds = (clusters_.allocated_bytes() + more) / 8 * 7;
  const ByteSize lives = live_bytes();
  return PageCount((holds - std::min(holds, lives)) / record_bytes(kPageSize));
}

ByteSize BackingFile::tree_bytes() const {
  return parts_.ledger != nullptr ? parts_.ledger->booked() : allocated_bytes();
}

ByteSize BackingFile::bound() const {
  return parts_.ledger != nullptr ? parts_.ledger->bound() : 0;
}

void BackingFile::trim() {
  const Guard guard(lock_);
  // What the next few batches will take again is kept.
  constexpr std::uint32_t kKeep = 16;
  if (files_[own_].is_open() && !is_broken_.load(std::memory_order_relaxed))
    clusters_.release_ready(files_[own_], own_, kKeep);
}

ByteSize BackingFile::metadata_bytes() const {
  return frames::kPlacedBytes<BackingFile> + clusters_.metadata_bytes() + readers_.bytes() +
         (clusters_.span() == 0 ? 0 : buffers_.bytes());
}

void BackingFile::validate() {
  const Guard guard(lock_);
  // Every file word's record is counted in its cluster, and nothing else is.
  std::uint64_t pages = 0;
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 1; i < parts_.pool.handle_span(); ++i) {
    const zpool::HandleWord w = parts_.pool.peek(zpool::Handle(i));
    if (w.kind() != zpool::HandleWord::Kind::kForeign || !foreign::is_file(w.payload())) continue;
    const RecordPlace place(foreign::value(w.payload()));
    const Cluster& c = clusters_.at(place.cluster());
    BUOY_CHECK(place.cluster() < clusters_.span() && c.live.load(std::memory_order_relaxed) != 0);
    BUOY_CHECK(place.offset() + record_bytes(place.length()) <= c.filled);
    ++pages;
    bytes += record_bytes(place.length());
  }
  BUOY_CHECK(pages == this->pages() && bytes == live_bytes());
  std::uint64_t in_clusters = 0;
  std::uint64_t records = 0;
  for (std::uint32_t i = 0; i < clusters_.span(); ++i) {
    const Cluster& c = clusters_.at(i);
    in_clusters += c.live_bytes.load(std::memory_order_relaxed);
    records += c.live.load(std::memory_order_relaxed);
    if (c.state == ClusterState::kOpen) --records;
    BUOY_CHECK(c.state == ClusterState::kOpen || c.state == ClusterState::kSealed ||
               c.live.load(std::memory_order_relaxed) == 0);
  }
  BUOY_CHECK(in_clusters == bytes && records == pages);
}

}  // namespace buoy::swap
