#include "lazy_memory.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <fstream>
#include <sstream>

#include "buoy/buoy.h"
#include "machine.h"
#include "undo.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

namespace buoy::bench {
namespace {

constexpr std::size_t kFolioBytes = kFolioPages * kPageBytes;
constexpr std::size_t kMiddlePages = 16;  // of a 64 KiB page
constexpr const char* k64K = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB";

constexpr std::pair<Backing, std::string_view> kNames[] = {
    {Backing::kBuoySmall, "small"},
    {Backing::kBuoyHuge, "huge"},
    {Backing::kBuoyUntilReuse, "until-reuse"},
    {Backing::kKernel4K, "4K"},
    {Backing::kKernel64K, "64K"},
    {Backing::kKernel2M, "2M"}};

class BuoyMemory final : public LazyMemory {
 public:
  BuoyMemory(Backing backing, std::size_t pages)
      : LazyMemory(pages), says_reuse_(backing == Backing::kBuoyUntilReuse) {
    constexpr std::size_t kLeastBudget = std::size_t{64} << 20;
    buoy_options options{};
    options.struct_size = sizeof options;
    options.budget = 2 * pages * kPageBytes + kLeastBudget;  // nothing leaves but on request
    options.faults = BUOY_FAULTS_SIGNAL;
    if (buoy_pool_create(&options, &pool_) != 0)
      throw Unavailable(because_errno("buoy_pool_create"));
    memory_ = buoy_map(pool_, bytes(), backing == Backing::kBuoyHuge ? BUOY_HUGE : 0);
    one_more_ = buoy_map(pool_, kPageBytes, 0);
    if (memory_ == nullptr || one_more_ == nullptr) throw Unavailable(because_errno("buoy_map"));
    set_words(memory_);
    store_everywhere();
    std::uint64_t huge = 0;
    if (backing == Backing::kBuoyHuge &&
        (buoy_pool_stat(pool_, "thp_fault_alloc", &huge) != 0 || huge != pages / kFolioPages))
      throw Unavailable("the region is not on huge pages throughout");
  }
  ~BuoyMemory() override {
    buoy_unmap(one_more_, kPageBytes);
    buoy_unmap(memory_, bytes());
    buoy_pool_destroy(pool_);
  }

  void mark(Span span) override {
    advise(at(span.first), span.pages, says_reuse_ ? BUOY_FREE_UNTIL_REUSE : BUOY_FREE);
  }
  void before_stores(Span span) override {
    if (says_reuse_) advise(at(span.first), span.pages, BUOY_REUSE);
  }
  void discard(Span span) override { advise(at(span.first), span.pages, BUOY_DONTNEED); }
  void reclaim_range(Span span) override { advise(at(span.first), span.pages, BUOY_PAGEOUT); }
  void reclaim(std::size_t pages) override {
    if (buoy_pool_reclaim(pool_, pages * kPageBytes) < 0)
      throw Unavailable(because_errno("buoy_pool_reclaim"));
  }
  void mark_one_more() override {
    *static_cast<volatile std::uint64_t*>(one_more_) = 1;
    advise(one_more_, 1, BUOY_FREE);
  }
  [[nodiscard]] bool can_mark_one_more() const override { return true; }

 private:
  [[nodiscard]] std::size_t bytes() const { return pages() * kPageBytes; }
  static void advise(void* address, std::size_t pages, int advice) {
    if (buoy_advise(address, pages * kPageBytes, advice) != 0)
      throw Unavailable(because_errno("buoy_advise"));
  }

  const bool says_reuse_;
  buoy_pool* pool_ = nullptr;
  void* memory_ = nullptr;
  void* one_more_ = nullptr;
};

// AnonHugePages of the mapping at `address`, in pages.
std::size_t huge_pages_at(const void* address) {
  std::ifstream in("/proc/self/smaps");
  const std::string wanted = fmt::format("{:x}-", reinterpret_cast<std::uintptr_t>(address));
  bool found = false;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(wanted, 0) == 0) found = true;
    if (!found || line.rfind("AnonHugePages:", 0) != 0) continue;
    return std::stoul(line.substr(line.find(':') + 1)) * 1024 / kPageBytes;
  }
  return 0;
}

std::uint64_t middle_pages_ever() {
  return std::stoull(read_file(std::string(k64K) + "/stats/anon_fault_alloc"));
}

class KernelMemory final : public LazyMemory {
 public:
  KernelMemory(Backing backing, std::size_t pages) : LazyMemory(pages) {
    // Aligned to 2 MiB, with nothing mapped right before or behind it to be merged with.
    reserved_ = mmap(nullptr, bytes() + 2 * kFolioBytes, PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved_ == MAP_FAILED) throw Unavailable(because_errno("mmap"));
    const auto start = reinterpret_cast<std::uintptr_t>(reserved_);
    const std::size_t skip = kFolioBytes - start % kFolioBytes;
    set_words(static_cast<std::byte*>(reserved_) + skip);
    if (mprotect(at(0), bytes(), PROT_READ | PROT_WRITE) != 0)
      throw Unavailable(because_errno("mprotect"));
    if (backing == Backing::kKernel64K) {
      populate_64k();
      return;
    }
    advise(at(0), pages, backing == Backing::kKernel2M ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    store_everywhere();
    const std::size_t huge = huge_pages_at(at(0));
    if (huge != (backing == Backing::kKernel2M ? pages : 0))
      throw Unavailable(fmt::format("{} of {} pages are on 2 MiB pages", huge, pages));
  }
  ~KernelMemory() override { munmap(reserved_, bytes() + 2 * kFolioBytes); }

  void mark(Span span) override { advise(at(span.first), span.pages, MADV_FREE); }
  void discard(Span span) override { advise(at(span.first), span.pages, MADV_DONTNEED); }
  void reclaim_range(Span span) override { advise(at(span.first), span.pages, MADV_PAGEOUT); }
  void reclaim(std::size_t) override { reclaim_range({0, pages()}); }

 private:
  [[nodiscard]] std::size_t bytes() const { return pages() * kPageBytes; }
  static void advise(void* address, std::size_t pages, int advice) {
    if (madvise(address, pages * kPageBytes, advice) != 0)
      throw Unavailable(because_errno("madvise"));
  }

  // The kernel gives the largest page that is enabled and fits an empty part of the page table. So
  // a small page comes first into each 2 MiB, which then cannot become a page of 2 MiB any more;
  // where it lay, a 64 KiB page follows at the end. No need to change how others' memory is backed.
  void populate_64k() {
    const std::uint64_t before = middle_pages_ever();
    advise(at(0), pages(), MADV_NOHUGEPAGE);
    for (std::size_t page = 0; page < pages(); page += kFolioPages) store(page);
    advise(at(0), pages(), MADV_HUGEPAGE);
    for (std::size_t page = 0; page < pages(); ++page)
      if (page % kFolioPages >= kMiddlePages) store(page);
    for (std::size_t page = 0; page < pages(); page += kFolioPages) discard({page, kMiddlePages});
    store_everywhere();
    const std::size_t got = (middle_pages_ever() - before) * kMiddlePages;
    // The count is the machine's; others can only add to it.
    if (got < pages() || huge_pages_at(at(0)) != 0)
      throw Unavailable(fmt::format("{} of {} pages are on 64 KiB pages", got, pages()));
  }

  void* reserved_ = nullptr;
};

}  // namespace

std::string_view name_of(Backing backing) {
  for (const auto& [each, name] : kNames)
    if (each == backing) return name;
  return "";
}

std::optional<Backing> backing_named(std::string_view name) {
  for (const auto& [backing, each] : kNames)
    if (each == name) return backing;
  return std::nullopt;
}

std::unique_ptr<LazyMemory> LazyMemory::make(Backing backing, std::size_t pages) {
  if (is_buoy(backing)) return std::make_unique<BuoyMemory>(backing, pages);
  return std::make_unique<KernelMemory>(backing, pages);
}

void allow_64k_pages() {
  const std::string file = std::string(k64K) + "/enabled";
  const std::string modes = read_file(file);
  const auto open = modes.find('[');
  const auto close = modes.find(']');
  if (open == std::string::npos || close == std::string::npos)
    throw Unavailable(file + " says '" + modes + "'");
  undo_at_end(Undo::kWriteFile, file + " " + modes.substr(open + 1, close - open - 1));
  write_file(file, "madvise");
}

}  // namespace buoy::bench
