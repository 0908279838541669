// Recorder: what the program does to its managed pages, as records in a file (base/trace_format.h).
//
// A fault or an advice stores one record in a ring, of its CPU if that is free; who fills a ring writes
// it, by one write(2) of 16 KiB to a descriptor of the engine's own. Nothing waits for anything: where
// all rings are in use (threads that lost their CPU in the middle), the record is lost, and counted.
// An error of the file ends the recording with one line; the program goes on.
//
// No malloc, no lock, no managed memory. Async-signal-safe; a signal handler that interrupts a
// note() takes another ring.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "base/trace_format.h"
#include "base/units.h"

namespace buoy {

class Recorder {
 public:
  // Reserves the rings, once. ENOMEM.
  [[nodiscard]] Status create();
  // Records to `fd`, open for appending, from now on; what was there in the rings is dropped. Writes
  // the header first. The file's error: nothing is recorded then. No other thread calls anything.
  [[nodiscard]] Status start(int fd, const trace::Header& header);

  // A long run takes several records.
  void note(trace::Kind kind, PageRun run);
  // Writes what the rings hold.
  void flush();
  // Memory of the engine's own, at most.
  [[nodiscard]] static constexpr ByteSize bytes() { return kRings * sizeof(Ring); }

 private:
  static constexpr unsigned kRings = 16;
  static constexpr std::uint32_t kRecords = 1024;  // 16 KiB: what one write stalls a fault for
  struct alignas(64) Ring {
    std::atomic<bool> is_taken{false};
    std::uint32_t used = 0;  // by who has taken it
    trace::Record records[kRecords];
  };

  void note_one(trace::Kind kind, std::uint64_t page, std::uint64_t count);
  [[nodiscard]] Ring* try_take_any();
  [[nodiscard]] static bool try_take(Ring& ring) {
    return !ring.is_taken.exchange(true, std::memory_order_acquire);
  }
  static void give_back(Ring& ring) { ring.is_taken.store(false, std::memory_order_release); }
  // Of a ring that the caller has taken. Not to a full one.
  void append(Ring& ring, trace::Kind kind, std::uint64_t page, std::uint64_t count);
  void write_out(Ring& ring);
  [[nodiscard]] Status write_all(const void* bytes, std::size_t size) const;

  Ring* rings_ = nullptr;
  std::atomic<int> fd_{-1};  // -1: the file is no longer written to
  std::atomic<std::uint64_t> sequence_{0};
  std::atomic<std::uint64_t> lost_{0};  // records, since the last that says so
};

}  // namespace buoy
