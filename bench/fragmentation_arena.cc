#include "fragmentation_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "base/check.h"
#include "machine.h"

namespace buoy::bench {
namespace {

using frames::FrameOwner;
using frames::FrameRequest;
using frames::MigrateType;
using frames::PageFlag;
using frames::PageState;
using frames::PageWord;

// Operations between two looks at fragmentation, about as often as the reclaimer's.
constexpr std::uint64_t kBetweenTending = 2048;
// A sweep over all frames is dearer than a step of compaction.
constexpr std::uint64_t kBetweenSweeps = 4 * kBetweenTending;
// The reclaimer's steps in a second of idleness.
constexpr unsigned kIdleSteps = 10;
constexpr double kDroppedByAnEpoch = 0.4;
constexpr double kPeakUse = 0.995;
// Small, so that a fall in use ends where it should.
constexpr double kDroppedAtOnce = 0.004;

double microseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start)
      .count();
}

std::uint64_t stamp_of(std::uint32_t slot, std::uint64_t frame) {
  return std::uint64_t{slot} << 16 | frame;
}

}  // namespace

Treatment treatment_named(const char* name) {
  const std::string_view n = name;
  if (n == "stays") return Treatment::kStays;
  if (n == "moves") return Treatment::kMoves;
  if (n == "discards") return Treatment::kDiscards;
  throw Unavailable("no such treatment");
}

// ---- The driver ---------------------------------------------------------------------------------

BufferDriver::BufferDriver(frames::Arena& arena, bool movable)
    : arena_(arena), movable_(movable), slots_(new Slot[kSlots]) {
  const auto id = arena.owners().add(*this, frames::Callers::kEngine);
  if (!id) throw Unavailable("the arena takes no more owners");
  id_ = *id;
  free_.reserve(kSlots);
  live_.reserve(kSlots);
  for (std::size_t i = kSlots; i-- > 0;) free_.push_back(static_cast<std::uint32_t>(i));
}

BufferDriver::~BufferDriver() {
  while (!live_.empty()) drop(live_.size() - 1);
  arena_.owners().remove(id_);
}

bool BufferDriver::try_add(Order order) {
  if (free_.empty()) return false;
  const FrameRequest request{order, MigrateType::kMovable, FrameOwner::kDriver, Charge::kOrdinary,
                             movable_ ? frames::Compaction::kSync : frames::Compaction::kNever};
  const Pfn head = arena_.try_allocate(request);
  if (head.is_none()) return false;
  const std::uint32_t slot = free_.back();
  free_.pop_back();
  for (std::uint64_t f = 0; f < order.pages().value(); ++f) {
    const std::uint64_t stamp = stamp_of(slot, f);
    std::memcpy(arena_.pointer(head + PageCount(f)), &stamp, sizeof stamp);
  }
  slots_[slot].store(head.value());
  live_.push_back(slot);
  frames_ += order.pages().value();
  if (movable_)
    while (!arena_.try_set_movable(head, id_, slot)) continue;
  return true;
}

Pfn BufferDriver::hold(std::uint32_t slot) {
  std::uint64_t at = slots_[slot].load(std::memory_order_relaxed) & ~kHeld;
  while (!slots_[slot].compare_exchange_weak(at, at | kHeld)) at &= ~kHeld;
  return Pfn(static_cast<std::uint32_t>(at));
}

void BufferDriver::check_stamp(std::uint32_t slot, Pfn head) const {
  const std::uint64_t n = arena_.page(head).load().order().pages().value();
  for (std::uint64_t f = 0; f < n; ++f) {
    std::uint64_t stamp = 0;
    std::memcpy(&stamp, arena_.pointer(head + PageCount(f)), sizeof stamp);
    BUOY_CHECK(stamp == stamp_of(slot, f) && "a buffer lost its contents");
  }
}

void BufferDriver::drop(std::size_t index) {
  const std::uint32_t slot = live_[index];
  live_[index] = live_.back();
  live_.pop_back();
  const Pfn head = hold(slot);  // never let go: nobody may move it from here on
  check_stamp(slot, head);
  frames_ -= arena_.page(head).load().order().pages().value();
  arena_.release(head);
  free_.push_back(slot);
}

void BufferDriver::use(std::size_t index) {
  const std::uint32_t slot = live_[index];
  const Pfn head = hold(slot);
  check_stamp(slot, head);
  let_go(slot, head);
}

const std::byte* BufferDriver::place_of(std::size_t index) const {
  return arena_.pointer(Pfn(static_cast<std::uint32_t>(slots_[live_[index]].load())));
}

frames::MigrateOutcome BufferDriver::migrate(Pfn from, Pfn to, frames::MigrateMode) {
  const auto slot =
      static_cast<std::uint32_t>(arena_.page(to).owner_word.load(std::memory_order_relaxed));
  std::uint64_t at = from.value();
  if (!slots_[slot].compare_exchange_strong(at, at | kHeld)) return frames::MigrateOutcome::kAgain;
  std::memcpy(arena_.pointer(to), arena_.pointer(from),
              arena_.page(from).load().order().pages().bytes());
  slots_[slot].store(to.value());
  return frames::MigrateOutcome::kDone;
}

// ---- Life ---------------------------------------------------------------------------------------

ChurnedArena::ChurnedArena(const Shape& shape) : shape_(shape), random_(shape.seed) {
  // The budget holds the arena as a whole: what bounds it is its range.
  constexpr std::uint64_t kBudgetReserve = 2 * kPagesPerBlock;
  budget_.set_limit(PageCount(total_frames() + kBudgetReserve));
  const auto arena = frames::Arena::create(
      budget_, counters_,
      frames::ArenaOptions{shape.blocks * kBlockSize, shape.reserve_blocks * kBlockSize,
                           frames::Span::kFixed});
  if (!arena) throw Unavailable("no arena");
  arena_ = *arena;
  const auto pool = zpool::Zpool::create(*arena_);
  if (!pool) {
    frames::Arena::destroy(arena_);
    throw Unavailable("no compressed pool");
  }
  pool_ = *pool;
  driver_ = std::make_unique<BufferDriver>(*arena_, shape.treatment == Treatment::kMoves);
  source_.resize(2 * kPageSize);
  for (std::byte& b : source_) b = static_cast<std::byte>(random_.next());
}

ChurnedArena::~ChurnedArena() {
  driver_.reset();
  zpool::Zpool::destroy(pool_);
  frames::Arena::destroy(arena_);
}

void ChurnedArena::validate() {
  // What freeze_unless_movable() did to its frames is not what the pool expects of them.
  if (shape_.treatment == Treatment::kMoves) pool_->validate();
  arena_->drain_caches();
  arena_->validate();
}

// ---- Churn --------------------------------------------------------------------------------------

std::uint64_t ChurnedArena::used_frames() const {
  return pool_->frames().value() + driver_->frames();
}

double ChurnedArena::use() const {
  return static_cast<double>(used_frames()) / static_cast<double>(total_frames());
}

bool ChurnedArena::add_object() {
  // Mean lengths drift between an eighth and two thirds of a page.
  const double mean = 1600 + 1100 * std::sin(1.3 * epoch_);
  const auto length = std::clamp<unsigned>(
      static_cast<unsigned>(mean * (0.4 + 1.2 * static_cast<double>(random_.below(1024)) / 1024)),
      40, kPageSize);
  zpool::Handle handle;
  if (pool_->put(source_.data() + random_.below(kPageSize), length, &handle) !=
      zpool::PutOutcome::kPut)
    return false;
  objects_.push_back(handle);
  return true;
}

void ChurnedArena::drop_object(std::size_t index) {
  pool_->free(objects_[index]);
  objects_[index] = objects_.back();
  objects_.pop_back();
}

bool ChurnedArena::add_buffer() {
  constexpr std::array<unsigned, 16> kOrders = {0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4};
  return driver_->try_add(Order(kOrders[random_.below(kOrders.size())])) ||
         driver_->try_add(Order(0));
}

void ChurnedArena::tend() {
  ++operations_;
  if (shape_.compacts_in_background && shape_.treatment == Treatment::kMoves &&
      operations_ % kBetweenTending == 0)
    (void)arena_->compactor().background_step(frames::Compactor::Pace::kBusy);
  if (shape_.treatment == Treatment::kDiscards && operations_ % kBetweenSweeps == 0) discard_free();
}

void ChurnedArena::drop_part(double part) {
  const auto of = [part](std::size_t n) {
    return static_cast<std::size_t>(part * static_cast<double>(n));
  };
  for (std::size_t n = of(objects_.size()); n > 0; --n, tend())
    drop_object(random_.below(objects_.size()));
  for (std::size_t n = of(driver_->count()); n > 0; --n, tend())
    driver_->drop(random_.below(driver_->count()));
}

void ChurnedArena::fill_to(double use) {
  const auto target = static_cast<std::uint64_t>(use * static_cast<double>(total_frames()));
  while (used_frames() < target) {
    while (used_frames() < target) {
      const bool wants_buffer = static_cast<double>(driver_->frames()) <
                                shape_.driver_part * static_cast<double>(used_frames());
      if (!(wants_buffer ? add_buffer() : add_object()) && !add_object())
        throw Unavailable("the arena is full before its time");
      tend();
    }
    // Objects of sparse zspages move together, as in every zsmalloc; no frame moves by that.
    (void)pool_->compact();
  }
}

void ChurnedArena::drop_to(double use) {
  const auto target = static_cast<std::uint64_t>(use * static_cast<double>(total_frames()));
  while (used_frames() > target) {
    drop_part(kDroppedAtOnce);
    (void)pool_->compact();
  }
}

void ChurnedArena::churn(double use, unsigned epochs) {
  for (unsigned i = 0; i < epochs; ++i) {
    ++epoch_;
    drop_part(kDroppedByAnEpoch);
    fill_to(kPeakUse);
    drop_to(use);
  }
}

void ChurnedArena::turn_over(double use, double part) {
  fill_to(std::min(kPeakUse, use + part));
  drop_to(use);
}

void ChurnedArena::step() {
  switch (random_.below(8)) {
    case 0:
      if (driver_->count() > 0) driver_->drop(random_.below(driver_->count()));
      (void)add_buffer();
      break;
    case 1:
      if (driver_->count() > 0) driver_->use(random_.below(driver_->count()));
      break;
    case 2:
    case 3:
    case 4:
      drop_object(random_.below(objects_.size()));
      (void)add_object();
      break;
    default:
      std::array<std::byte, kPageSize> out;
      pool_->pin(objects_[random_.below(objects_.size())]).copy_out(out.data());
      break;
  }
}

void ChurnedArena::idle() {
  if (shape_.treatment == Treatment::kMoves)
    for (unsigned i = 0; i < kIdleSteps; ++i)
      (void)arena_->compactor().background_step(frames::Compactor::Pace::kIdle);
  if (shape_.treatment == Treatment::kDiscards) discard_free();
}

void ChurnedArena::fill_singly(double use) {
  const bool of_driver = shape_.driver_part > 0;
  while (this->use() < use)
    if (!(of_driver ? driver_->try_add(Order(0)) : add_object()))
      throw Unavailable("the arena is full before its time");
}

void ChurnedArena::freeze_unless_movable() {
  if (shape_.treatment == Treatment::kMoves) return;
  for (std::uint32_t f = 0; f < arena_->block_span() * kPagesPerBlock;) {
    const Pfn head(f);
    const PageWord w = arena_->page(head).load();
    if (w.state() == PageState::kAllocated && w.has(PageFlag::kMovable))
      arena_->clear_movable(head);
    f += w.state() == PageState::kTail ? 1 : static_cast<std::uint32_t>(w.order().pages().value());
  }
}

// Free frames that are still resident go back, a call for each run of them: nobody else is at the
// arena. Kinder to this rival than a call a frame.
void ChurnedArena::discard_free() {
  arena_->drain_caches();
  std::array<unsigned char, kPagesPerBlock> resident;
  for (std::uint32_t b = 0; b < arena_->block_span(); ++b) {
    const std::uint32_t start = b * static_cast<std::uint32_t>(kPagesPerBlock);
    if (mincore(arena_->pointer(Pfn(start)), kBlockSize, resident.data()) != 0) continue;
    std::array<bool, kPagesPerBlock> goes{};
    for (std::uint32_t f = 0; f < kPagesPerBlock;) {
      const PageWord w = arena_->page(Pfn(start + f)).load();
      const auto n = w.state() == PageState::kTail
                         ? 1U
                         : static_cast<std::uint32_t>(w.order().pages().value());
      if (w.state() == PageState::kFree)
        for (std::uint32_t i = f; i < f + n; ++i) goes[i] = (resident[i] & 1) != 0;
      f += n;
    }
    for (std::uint32_t f = 0; f < kPagesPerBlock;) {
      std::uint32_t end = f;
      while (end < kPagesPerBlock && goes[end]) ++end;
      if (end > f)
        (void)madvise(arena_->pointer(Pfn(start + f)), (end - f) * kPageSize, MADV_DONTNEED);
      f = end + 1;
    }
  }
}

// ---- Asking -------------------------------------------------------------------------------------

void ChurnedArena::ask(Order order, double part, Burst* burst) {
  const FrameRequest request{order, MigrateType::kUnmovable, FrameOwner::kDriver, Charge::kOrdinary,
                             shape_.treatment == Treatment::kMoves ? frames::Compaction::kSync
                                                                   : frames::Compaction::kNever};
  const double free = static_cast<double>(total_frames() - used_frames());
  const auto wanted =
      std::max<std::uint64_t>(1, static_cast<std::uint64_t>(part * free) >> order.value());
  std::vector<Pfn> runs;
  for (std::uint64_t i = 0; i < wanted; ++i) {
    const std::uint64_t start = ticks();
    const Pfn head = arena_->try_allocate(request);
    ++burst->asked;
    if (head.is_none()) continue;
    for (std::uint64_t f = 0; f < order.pages().value(); ++f)
      *reinterpret_cast<volatile std::byte*>(arena_->pointer(head + PageCount(f))) = std::byte{1};
    const std::uint64_t taken = ticks() - start;
    burst->ticks += static_cast<double>(taken);
    burst->latency.add(taken);
    ++burst->served;
    runs.push_back(head);
  }
  for (const Pfn head : runs) arena_->release(head);
}

ChurnedArena::Claim ChurnedArena::ask_contiguous(PageCount count, frames::Area area) {
  frames::ContiguousRequest request;
  request.count = count;
  request.area = area;
  const auto start = std::chrono::steady_clock::now();
  const frames::ContiguousResult result = arena_->contiguous().try_allocate(request);
  if (result.head.is_none()) return {};
  for (std::uint64_t f = 0; f < count.value(); ++f)
    *reinterpret_cast<volatile std::byte*>(arena_->pointer(result.head + PageCount(f))) =
        std::byte{1};
  const Claim claim{true, microseconds_since(start)};
  BUOY_CHECK(arena_->contiguous().try_free(result.head));
  return claim;
}

// ---- Looking ------------------------------------------------------------------------------------

std::uint64_t ChurnedArena::lost_frames() {
  const frames::ArenaStats s = arena_->stats();
  const std::uint64_t whole = std::uint64_t{s.whole_free_blocks} * kPagesPerBlock;
  if (shape_.treatment != Treatment::kDiscards) return s.free.value() - whole + s.cached.value();
  std::uint64_t lost = 0;
  std::array<unsigned char, kPagesPerBlock> resident;
  for (std::uint32_t b = 0; b < arena_->block_span(); ++b) {
    const std::uint32_t start = b * static_cast<std::uint32_t>(kPagesPerBlock);
    if (arena_->blocks().free_frames_of(b).value() == kPagesPerBlock) continue;
    if (mincore(arena_->pointer(Pfn(start)), kBlockSize, resident.data()) != 0) continue;
    for (std::uint32_t f = 0; f < kPagesPerBlock;) {
      const PageWord w = arena_->page(Pfn(start + f)).load();
      const auto n = w.state() == PageState::kTail
                         ? 1U
                         : static_cast<std::uint32_t>(w.order().pages().value());
      for (std::uint32_t i = f; i < f + n && w.state() != PageState::kAllocated; ++i)
        lost += resident[i] & 1;
      f += n;
    }
  }
  return lost;
}

double ChurnedArena::reserve_use() {
  std::uint64_t used = 0;
  for (std::uint32_t b = 0; b < shape_.reserve_blocks && b < arena_->block_span(); ++b) {
    const frames::BlockPicture picture = arena_->blocks().look_at(b, frames::Callers::kUser);
    if (arena_->blocks().availability_of(b) == frames::Pageblocks::Availability::kPresent)
      used += picture.movable;
  }
  return static_cast<double>(used) / static_cast<double>(shape_.reserve_blocks * kPagesPerBlock);
}

ChurnedArena::Residency ChurnedArena::residency() const {
  const auto first = reinterpret_cast<std::uintptr_t>(arena_->pointer(Pfn(0)));
  const std::uintptr_t end = first + shape_.blocks * kBlockSize;
  std::ifstream maps("/proc/self/smaps");
  Residency all;
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    std::string key;
    std::uint64_t kib = 0;
    words >> key >> kib;
    if (const auto dash = key.find('-'); dash != std::string::npos && key.back() != ':') {
      const std::uintptr_t from = std::strtoull(key.c_str(), nullptr, 16);
      inside = from >= first && from < end;
    } else if (inside && key == "Rss:") {
      all.resident += kib << 10;
    } else if (inside && key == "AnonHugePages:") {
      all.huge += kib << 10;
    }
  }
  return all;
}

double ChurnedArena::access_ns() {
  constexpr std::size_t kPlaces = std::size_t{1} << 16;
  constexpr std::size_t kLoads = std::size_t{1} << 20;
  std::vector<const std::byte*> places;
  places.reserve(kPlaces);
  while (places.size() < kPlaces) {
    if (driver_->count() > 0 && random_.below(4) == 0) {
      places.push_back(driver_->place_of(random_.below(driver_->count())) +
                       8 * random_.below(kPageSize / 8));
      continue;
    }
    const auto object = pool_->pin(objects_[random_.below(objects_.size())]);
    if (object.in_place() != nullptr && object.length() >= 8) places.push_back(object.in_place());
  }
  volatile std::uint64_t zero = 0;
  const std::uint64_t none = zero;
  std::uint64_t at = 1;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < kLoads; ++i) {
    std::uint64_t value = 0;
    std::memcpy(&value, places[at % kPlaces], sizeof value);
    // The next place waits for this one's bytes, whatever they are.
    at = at * 6364136223846793005U + 1442695040888963407U + (value & none);
    at ^= at >> 33;
  }
  const double all = microseconds_since(start) * 1000;
  zero = at;
  return all / static_cast<double>(kLoads);
}

double ChurnedArena::read_ns(std::size_t reads) {
  std::array<std::byte, kPageSize> out;
  const auto start = std::chrono::steady_clock::now();
  for (std::size_t i = 0; i < reads; ++i)
    pool_->pin(objects_[random_.below(objects_.size())]).copy_out(out.data());
  return microseconds_since(start) * 1000 / static_cast<double>(reads);
}

}  // namespace buoy::bench
