#include "mmu/mmu_testing.h"

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/sys.h"
#include "mmu/capabilities.h"

namespace buoy::mmu {

namespace {
constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);

std::string why_not_real(Kind kind) {
  const Capabilities c = Capabilities::probe();
  const Delivery delivery = kind == Kind::kThread ? Delivery::kThread : Delivery::kSignal;
  if (c.allows(delivery)) return {};
  for (const Capability& line : c)
    if (!line.available) return std::string(line.name) + " is missing: " + std::string(line.remedy);
  return "not available";
}
}  // namespace

Verdict ZeroSink::on_fault(const Fault& fault) {
  Mmu* const m = mmu.load();
  if (m == nullptr || !reservation.contains(fault.vpn)) return Verdict::kForeign;
  last_address.store(fault.address);
  if (fault.vpn.value() == bus_error_page.load()) return Verdict::kBusError;
  if (fault.is_store) stores.fetch_add(1);
  const PageRun page{fault.vpn, PageCount(1)};
  if (fault.is_protection) {
    protections.fetch_add(1);
    return m->unprotect(reservation, page).complete() ? Verdict::kResolved : Verdict::kBusError;
  }
  missing.fetch_add(1);
  // Not install_zeros(): the page may have been taken, and then lies in the shadow.
  static constexpr std::byte kZeros[kPageSize] = {};
  const Progress progress = m->install(reservation, page, kZeros, Stores::kAllowed);
  const bool is_there = progress.complete() || progress.outcome == Outcome::kExists;
  return is_there ? Verdict::kResolved : Verdict::kBusError;
}

std::string name_of(Kind kind) {
  switch (kind) {
    case Kind::kSoft:
      return "Soft";
    case Kind::kSignal:
      return "Signal";
    case Kind::kThread:
      return "Thread";
    case Kind::kWithoutMove:
      return "WithoutMove";
  }
  return "";
}

Bench::Bench(Kind kind, PageCount pages, Backing backing) {
  if (kind == Kind::kSoft) {
    own_soft_ = std::make_unique<SoftMmu>(&sink, &counters);
    mmu_ = soft_ = own_soft_.get();
  } else {
    why_not_ = why_not_real(kind);
    if (!why_not_.empty()) return;
    UffdOptions options;
    options.delivery = kind == Kind::kThread ? Delivery::kThread : Delivery::kSignal;
    options.sink = &sink;
    options.counters = &counters;
    options.pins = Pins::kKnown;
    options.use_move = kind == Kind::kWithoutMove ? UseMove::kNever : UseMove::kWherePossible;
    auto created = UffdMmu::create(options);
    if (!created) {
      why_not_ = "create failed with errno " + std::to_string(created.code());
      return;
    }
    uffd_ = *created;
    mmu_ = uffd_;
  }
  auto reserved = mmu_->reserve(pages, backing);
  BUOY_CHECK(reserved.ok());
  sink.reservation = *reserved;
  sink.mmu.store(mmu_);
  BUOY_CHECK(mmu_->permit(r(), {r().base, r().pages}, Access::kReadWrite).ok());
}

Bench::Bench(SoftMmu& child, const Reservation& r) : mmu_(&child), soft_(&child) {
  sink.reservation = r;
  sink.mmu.store(mmu_);
  child.set_sink(&sink);
}

Bench::~Bench() {
  if (mmu_ == nullptr || (soft_ != nullptr && own_soft_ == nullptr)) return;
  mmu_->release(r());
  if (uffd_ != nullptr) uffd_->destroy();
}

std::uint64_t Bench::load(std::uint64_t i, std::size_t offset) {
  std::uint64_t value = 0;
  const std::uintptr_t address = page(i).address() + offset;
  if (soft_ != nullptr) {
    BUOY_CHECK(soft_->load(address, &value, sizeof value) == SoftMmu::Touch::kDone);
    return value;
  }
  return __atomic_load_n(reinterpret_cast<std::uint64_t*>(address), __ATOMIC_RELAXED);
}

void Bench::store(std::uint64_t i, std::uint64_t value, std::size_t offset) {
  const std::uintptr_t address = page(i).address() + offset;
  if (soft_ != nullptr) {
    BUOY_CHECK(soft_->store(address, &value, sizeof value) == SoftMmu::Touch::kDone);
    return;
  }
  __atomic_store_n(reinterpret_cast<std::uint64_t*>(address), value, __ATOMIC_RELAXED);
}

Progress Bench::install(std::uint64_t first, std::uint64_t n, std::uint64_t value, Stores stores) {
  std::vector<std::uint64_t> words(n * kWords, value);
  for (std::uint64_t i = 0; i < n; ++i) words[i * kWords + kWords - 1] = first + i;
  return mmu().install(r(), run(first, n), reinterpret_cast<const std::byte*>(words.data()),
                       stores);
}

std::uint64_t Bench::in_shadow(std::uint64_t i) {
  std::uint64_t value = 0;
  std::memcpy(&value, mmu().shadow_bytes(r(), page(i)), sizeof value);
  return value;
}

int pin_by_io_uring(std::byte* page) {
  io_uring_params params{};
  const long ring = sys::call(SYS_io_uring_setup, 1, sys::ptr(&params));
  if (ring < 0) return -1;
  const iovec buffer{page, kPageSize};
  if (sys::call(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, sys::ptr(&buffer), 1) != 0) {
    sys::call(SYS_close, ring);
    return -1;
  }
  return static_cast<int>(ring);
}

}  // namespace buoy::mmu
