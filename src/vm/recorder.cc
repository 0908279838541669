#include "vm/recorder.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "base/sys.h"

namespace buoy {

Status Recorder::create() {
  auto memory = sys::reserve(bytes(), kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  rings_ = reinterpret_cast<Ring*>(*memory);
  for (unsigned i = 0; i < kRings; ++i) new (&rings_[i]) Ring;
  return {};
}

Status Recorder::start(int fd, const trace::Header& header) {
  for (unsigned i = 0; i < kRings; ++i) {
    rings_[i].used = 0;
    give_back(rings_[i]);
  }
  sequence_.store(0, std::memory_order_relaxed);
  lost_.store(0, std::memory_order_relaxed);
  fd_.store(-1, std::memory_order_relaxed);
  if (fd < 0) return {};
  fd_.store(fd, std::memory_order_relaxed);
  const Status written = write_all(&header, sizeof header);
  if (!written) fd_.store(-1, std::memory_order_relaxed);
  return written;
}

// ---- Notes --------------------------------------------------------------------------------------

void Recorder::note(trace::Kind kind, PageRun run) {
  if (fd_.load(std::memory_order_relaxed) < 0) return;
  for (std::uint64_t done = 0; done < run.count.value();) {
    const std::uint64_t n = std::min(run.count.value() - done, trace::Record::kMostPages);
    note_one(kind, run.first.value() + done, n);
    done += n;
  }
}

Recorder::Ring* Recorder::try_take_any() {
  const unsigned cpu = sys::current_cpu();
  for (unsigned i = 0; i < kRings; ++i)
    if (Ring& ring = rings_[(cpu + i) % kRings]; try_take(ring)) return &ring;
  return nullptr;
}

void Recorder::note_one(trace::Kind kind, std::uint64_t page, std::uint64_t count) {
  Ring* const ring = try_take_any();
  if (ring == nullptr) {
    lost_.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  if (lost_.load(std::memory_order_relaxed) != 0) {
    const std::uint64_t lost = lost_.exchange(0, std::memory_order_relaxed);
    // One record tells of no more than it can count; a second one is not worth the trouble.
    if (lost != 0) append(*ring, trace::Kind::kLost, 0, std::min(lost, trace::Record::kMostPages));
  }
  append(*ring, kind, page, count);
  give_back(*ring);
}

void Recorder::append(Ring& ring, trace::Kind kind, std::uint64_t page, std::uint64_t count) {
  const std::uint64_t sequence = sequence_.fetch_add(1, std::memory_order_relaxed);
  ring.records[ring.used++] = {kind, page, count, sequence};
  if (ring.used == kRecords) write_out(ring);
}

void Recorder::flush() {
  if (rings_ == nullptr) return;
  constexpr int kMostTries = 100;  // others are at most in the middle of a write
  for (unsigned i = 0; i < kRings; ++i) {
    Ring& ring = rings_[i];
    for (int tries = 0; tries < kMostTries; ++tries) {
      if (!try_take(ring)) {
        sys::yield();
        continue;
      }
      if (ring.used != 0) write_out(ring);
      give_back(ring);
      break;
    }
  }
}

// ---- The file -----------------------------------------------------------------------------------

void Recorder::write_out(Ring& ring) {
  const std::size_t bytes = ring.used * sizeof(trace::Record);
  ring.used = 0;
  const Status written = write_all(ring.records, bytes);
  // Who finds it ended by another says nothing.
  if (written || fd_.exchange(-1, std::memory_order_relaxed) < 0) return;
  const char* name = strerrordesc_np(written.code());
  sys::Line()
      .text("the trace ends here: ")
      .text(name != nullptr ? name : "unknown error")
      .text("; the program goes on")
      .complain();
}

Status Recorder::write_all(const void* bytes, std::size_t size) const {
  const int fd = fd_.load(std::memory_order_relaxed);
  return fd < 0 ? Status{} : sys::write_all(fd, bytes, size);
}

}  // namespace buoy
