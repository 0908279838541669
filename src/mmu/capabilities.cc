#include "mmu/capabilities.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cerrno>

#include "base/check.h"
#include "base/sys.h"
#include "mmu/residency.h"
#include "mmu/uffd.h"
#include "mmu/uffd_abi.h"

namespace buoy::mmu {

namespace {

bool can_open(Modes modes) {
  const auto fd = Uffd::open_raw(modes);
  if (fd) sys::call(SYS_close, *fd);
  return fd.ok();
}

bool knows_advice(int advice) {
  auto page = sys::reserve(kPageSize, kPageSize, PROT_READ | PROT_WRITE);
  if (!page) return false;
  const bool known = sys::advise(*page, kPageSize, advice) == 0;
  sys::unmap(*page, kPageSize);
  return known;
}

bool has_huge_pages() {
  char mode[128] = {};
  const long got =
      sys::read_file("/sys/kernel/mm/transparent_hugepage/enabled", mode, sizeof mode - 1);
  return got > 0 && std::string_view(mode).find("[never]") == std::string_view::npos;
}

bool has_remap() {
  auto pages = sys::reserve(2 * kPageSize, kPageSize, PROT_READ | PROT_WRITE);
  if (!pages) return false;
  const long rc =
      sys::call(SYS_mremap, sys::ptr(*pages), kPageSize, kPageSize,
                MREMAP_MAYMOVE | MREMAP_FIXED | abi::kRemapDontUnmap, sys::ptr(*pages + kPageSize));
  sys::unmap(*pages, 2 * kPageSize);
  return rc >= 0;
}

}  // namespace

void Capabilities::add(std::string_view name, bool available, bool required,
                       std::string_view remedy) {
  BUOY_CHECK(size_ < kMaxLines);
  lines_[size_++] = {name, available, required, available ? std::string_view() : remedy};
}

const Capability* Capabilities::missing() const {
  for (const Capability& line : *this)
    if (line.required && !line.available) return &line;
  return nullptr;
}

Capabilities Capabilities::probe() {
  Capabilities c;
  const bool user = can_open(Modes::kUserOnly);
  const bool kernel = can_open(Modes::kUserAndKernel);
  const std::uint64_t features = Uffd::kernel_features();
  const auto has = [&](std::uint64_t feature) { return (features & feature) != 0; };
  Residency residency;
  const bool pagemap = residency.open(Residency::Markers::kNone).ok();

  c.add("userfaultfd", user || kernel, true,
        "a kernel with CONFIG_USERFAULTFD; in a container, a seccomp profile that allows "
        "userfaultfd(2), or access to /dev/userfaultfd");
  c.add("write protection (UFFD_FEATURE_PAGEFAULT_FLAG_WP)", has(abi::kFeatureProtect), true,
        "Linux 5.7 or newer");
  c.add("moving pages (UFFDIO_MOVE)", has(abi::kFeatureMove), false,
        "Linux 6.8 or newer; without it pages are copied out, and pages pinned for O_DIRECT or "
        "io_uring go unnoticed: pin them through the API");
  c.add("residency (/proc/self/pagemap)", pagemap, !has(abi::kFeatureMove),
        "mount /proc; needed only where pages cannot be moved");
  c.add("signal delivery (UFFD_FEATURE_SIGBUS)", user && has(abi::kFeatureSigbus), false,
        "Linux 4.14 or newer");
  c.add("thread delivery (faults of system calls)", kernel, false,
        "sysctl vm.unprivileged_userfaultfd=1, or CAP_SYS_PTRACE, or access to /dev/userfaultfd");
  c.add("poison (UFFDIO_POISON)", has(abi::kFeaturePoison), false,
        "Linux 6.6 or newer; without it purged pages raise SIGBUS by a queued signal");
  c.add("exact fault addresses", has(abi::kFeatureExactAddress), false,
        "Linux 5.18 or newer; handlers see the page's address instead");
  c.add("populating at once (MADV_POPULATE_WRITE)", knows_advice(abi::kAdvicePopulateWrite), false,
        "Linux 5.14 or newer; page by page otherwise");
  c.add("moving page tables (MREMAP_DONTUNMAP)", has_remap(), false,
        "Linux 5.7 or newer; scattered pages leave more slowly");
  c.add("transparent huge pages", has_huge_pages(), false,
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");

  const bool works =
      (user || kernel) && has(abi::kFeatureProtect) && (has(abi::kFeatureMove) || pagemap);
  c.signal_ = works && user && has(abi::kFeatureSigbus);
  c.thread_ = works && kernel;
  c.move_ = has(abi::kFeatureMove);
  return c;
}

}  // namespace buoy::mmu
