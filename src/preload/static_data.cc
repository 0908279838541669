#include "preload/static_data.h"

#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>

#include "base/descriptors.h"
#include "base/sys.h"
#include "preload/runtime.h"

namespace buoy::preload {
namespace {

// Below this, registrations and page tables cost about what they could save.
constexpr ByteSize kTakenFrom = ByteSize{1} << 20;
// Shorter runs between pages that have been stored to are left alone: each piece is a mapping.
constexpr PageCount kShortest(16);

// The whole pages of the program's .bss that no byte of its file is in; empty if there are few.
PageRun find_bss() {
  PageRun found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        for (unsigned i = 0; i < info->dlpi_phnum; ++i) {
          const ElfW(Phdr)& p = info->dlpi_phdr[i];
          if (p.p_type != PT_LOAD || (p.p_flags & PF_W) == 0 || p.p_memsz <= p.p_filesz) continue;
          const std::uintptr_t start = info->dlpi_addr + p.p_vaddr;
          const Vpn first =
              Vpn::of_address((start + p.p_filesz + kPageSize - 1) & ~(kPageSize - 1));
          const Vpn end = Vpn::of_address((start + p.p_memsz) & ~(kPageSize - 1));
          if (first < end && (end - first).bytes() >= kTakenFrom)
            *static_cast<PageRun*>(out) = {first, end - first};
        }
        return 1;  // the program is the first
      },
      &found);
  return found;
}

// What the kernel knows of pages that nobody has touched yet.
class Pagemap {
 public:
  Pagemap() {
    const descriptors::RoomForOne room;
    fd_ = sys::call(SYS_openat, AT_FDCWD, sys::ptr("/proc/self/pagemap"), O_RDONLY | O_CLOEXEC);
  }
  ~Pagemap() {
    if (fd_ >= 0) sys::call(SYS_close, fd_);
  }
  Pagemap(const Pagemap&) = delete;
  Pagemap& operator=(const Pagemap&) = delete;

  // The untouched pages at the start of the run, and then the touched ones; false: it does not say.
  [[nodiscard]] bool measure(PageRun run, PageCount* untouched, PageCount* touched) {
    *untouched = *touched = PageCount();
    for (PageCount at; at < run.count; at += PageCount(1)) {
      bool is_touched = false;
      if (!look(run.first + at, &is_touched)) return false;
      if (!is_touched && !touched->is_zero()) break;
      *(is_touched ? touched : untouched) += PageCount(1);
    }
    return true;
  }

 private:
  bool look(Vpn page, bool* is_touched) {
    if (!(known_.first <= page && page < known_.end())) {
      const long got =
          sys::call(SYS_pread64, fd_, sys::ptr(entries_), static_cast<long>(sizeof entries_),
                    static_cast<long>(page.value() * sizeof entries_[0]));
      if (got < static_cast<long>(sizeof entries_[0])) return false;
      known_ = {page, PageCount(static_cast<std::uint64_t>(got) / sizeof entries_[0])};
    }
    constexpr std::uint64_t kPresentOrSwapped = std::uint64_t{3} << 62;
    *is_touched = (entries_[(page - known_.first).value()] & kPresentOrSwapped) != 0;
    return true;
  }

  long fd_ = -1;
  PageRun known_;
  std::uint64_t entries_[512];
};

// A run that lies in one block of 2 MiB, or in whole ones.
bool take_over_piece(PageRun piece) {
  void* const address = piece.first.pointer();
  const ByteSize bytes = piece.count.bytes();
  if (!pool().take_over(address, bytes)) return false;
  if (pool().map_over(address, bytes, mmu::Access::kReadWrite)) return true;
  // It is promised to others: as it was, and empty as it was.
  if (!pool().carve_out(address, bytes)) sys::complain("static data cannot be given back");
  constexpr int kOver = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  sys::call(SYS_mmap, sys::ptr(address), static_cast<long>(bytes), PROT_READ | PROT_WRITE, kOver,
            -1, 0);
  return false;
}

bool take_over_run(PageRun run) {
  constexpr PageCount kBlock(kPagesPerBlock);
  while (!run.count.is_zero()) {
    const std::uint64_t in_block = run.first.in_block();
    PageCount piece = in_block != 0 || run.count < kBlock
                          ? std::min(run.count, kBlock - PageCount(in_block))
                          : PageCount(run.count.value() / kPagesPerBlock * kPagesPerBlock);
    if (!take_over_piece({run.first, piece})) return false;
    run = {run.first + piece, run.count - piece};
  }
  return true;
}

}  // namespace

void take_over_static_data() {
  PageRun rest = find_bss();
  if (rest.count.is_zero()) return;
  Pagemap pagemap;
  while (!rest.count.is_zero()) {
    PageCount untouched;
    PageCount touched;
    if (!pagemap.measure(rest, &untouched, &touched)) return;
    if (untouched >= kShortest && !take_over_run({rest.first, untouched})) return;
    const PageCount done = untouched + touched;
    rest = {rest.first + done, rest.count - done};
  }
}

}  // namespace buoy::preload
