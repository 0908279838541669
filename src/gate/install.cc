#include <elf.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>

#include "base/signals.h"
#include "base/sys.h"
#include "gate/call.h"
#include "gate/dispatch.h"
#include "gate/entry.h"
#include "gate/gaps.h"
#include "gate/gate.h"
#include "gate/handlers.h"
#include "gate/image.h"
#include "gate/known_data.h"
#include "gate/pinners.h"
#include "gate/plan.h"
#include "gate/signal_entry.h"
#include "gate/signals.h"
#include "gate/sites.h"
#include "gate/slow.h"
#include "gate/stubs.h"
#include "gate/thread.h"

// This library's image, by the linker.
extern "C" const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));  // NOLINT

namespace buoy::gate {

namespace {

constexpr std::size_t kMostSites = 1U << 14;  // of one object
constinit std::atomic<bool> installed{false};

// Room for the sites of one object, for the time of patching it.
class SiteRoom {
 public:
  SiteRoom() {
    const long got = sys::call(SYS_mmap, 0, kBytes, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got >= 0) sites_ = reinterpret_cast<Site*>(got);  // NOLINT(performance-no-int-to-ptr)
  }
  ~SiteRoom() {
    if (sites_ != nullptr) sys::call(SYS_munmap, sys::ptr(sites_), kBytes);
  }
  SiteRoom(const SiteRoom&) = delete;
  SiteRoom& operator=(const SiteRoom&) = delete;
  [[nodiscard]] std::span<Site> all() const { return {sites_, sites_ == nullptr ? 0 : kMostSites}; }

 private:
  static constexpr long kBytes = kMostSites * sizeof(Site);
  Site* sites_ = nullptr;
};

long set_protection(const CodeRange& segment, int protection) {
  const std::uintptr_t begin = segment.begin & ~(kPageSize - 1);
  return sys::call(SYS_mprotect, static_cast<long>(begin), static_cast<long>(segment.end - begin),
                   protection);
}

// What patching an object came to. Sites that need nothing count as patched.
struct Patched {
  Status status;
  SiteCounts counts;
};

// Executable all the time: the code that patches may lie in it.
Status make_writable(const Image& image) {
  for (const CodeRange& segment : image.segments())
    if (const long rc = set_protection(segment, PROT_READ | PROT_WRITE | PROT_EXEC); rc < 0)
      return Error{static_cast<int>(-rc)};
  return {};
}

void make_executable(const Image& image) {
  for (const CodeRange& segment : image.segments())
    (void)set_protection(segment, PROT_READ | PROT_EXEC);
}

bool is_left(const Plan& plan) { return !plan.in_front && !plan.behind && !plan.is_whole; }

Patched patch(const Image& image) {
  Patched done;
  for (const CodeRange& data : image.data()) known_data::note(data);
  const SiteRoom room;
  std::size_t count = 0;
  if (room.all().empty()) return {Error{ENOMEM}, {}};
  done.counts = find_sites(image, room.all(), &count);
  if (count == 0) return done;
  auto area = StubArea::create(image.extent(), count);
  if (!area) return {area.error(), done.counts};
  done.status = make_writable(image);
  // What was patched jumps to stubs that must be there already, executable: so they are, for the
  // moment, both.
  if (done.status) done.status = area->open();
  if (!done.status) {
    area->discard();
  } else {
    for (const Site& site : room.all().first(count)) {
      const Plan plan = plan_for(site);
      if (!is_left(plan) && !area->patch(site, plan)) ++done.counts.given_up;
    }
    done.status = area->seal();
  }
  make_executable(image);
  memory_if_set()->count(Event::gate_sites_patched, count);
  memory_if_set()->count(Event::gate_sites_left, done.counts.given_up);
  return done;
}

bool has_code_at(const Image& image, const void* p) {
  for (const CodeRange& segment : image.segments())
    if (segment.contains(reinterpret_cast<std::uintptr_t>(p))) return true;
  return false;
}

std::uintptr_t own_image() { return reinterpret_cast<std::uintptr_t>(&__ehdr_start); }

constinit CodeRange linker;

// Calls pass between the lowest and the highest of these.
void widen(CodeRange* passed, CodeRange by) {
  if (by.bytes() == 0) return;
  const bool is_first = passed->bytes() == 0;
  passed->begin = is_first ? by.begin : std::min(passed->begin, by.begin);
  passed->end = is_first ? by.end : std::max(passed->end, by.end);
}

CodeRange own_code() {
  const auto* const base = reinterpret_cast<const std::byte*>(&__ehdr_start);
  const auto* headers = reinterpret_cast<const Elf64_Phdr*>(base + __ehdr_start.e_phoff);
  return Image(own_image(), {headers, __ehdr_start.e_phnum}).extent();
}

// Libc and the dynamic linker first: without them there is no gate.
struct Installation {
  Status status;
  CodeRange passed;
  bool has_libc = false;
};

bool is_essential(const Image& image) {
  return has_code_at(image, reinterpret_cast<const void*>(&::dl_iterate_phdr)) ||
         has_code_at(image, reinterpret_cast<const void*>(_r_debug.r_brk));
}

void patch_essential(const Image& image, void* context) {
  auto& installation = *static_cast<Installation*>(context);
  if (!installation.status || !is_essential(image)) return;
  const Patched done = patch(image);
  installation.status = done.status;
  if (done.status && (done.counts.found == 0 || done.counts.given_up != 0))
    installation.status = Error{ENOTSUP};
  installation.has_libc = true;
  widen(&installation.passed, image.extent());
  if (has_code_at(image, reinterpret_cast<const void*>(_r_debug.r_brk))) linker = image.extent();
}

// What other objects there are.
struct Others {
  CodeRange passed;  // what may not hold code that has to be caught
  bool are_out_of_reach = false;
  bool are_passed = false;  // some of those that are out of reach
};
void patch_other(const Image& image, void* context) {
  if (is_essential(image) || patch(image).counts.given_up == 0) return;
  auto& others = *static_cast<Others*>(context);
  others.are_out_of_reach = true;
  const CodeRange code = image.extent();
  others.are_passed =
      others.are_passed || (code.begin < others.passed.end && others.passed.begin < code.end);
}

// An object that the dynamic linker is mapping, by the thread that does it.
struct Loading {
  int fd = -1;
  std::uintptr_t base = 0;
  bool has_code = false;
};
thread_local constinit Loading loading;

void patch_object_at(std::uintptr_t base) {
  Elf64_Ehdr header;
  if (!sys::read_own(&header, reinterpret_cast<const void*>(base), sizeof header) ||  // NOLINT
      __builtin_memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_machine != EM_X86_64)
    return;
  const auto* first = reinterpret_cast<const Elf64_Phdr*>(base + header.e_phoff);  // NOLINT
  const std::span<const Elf64_Phdr> headers(first, header.e_phnum);
  if (header.e_phoff + headers.size_bytes() > kPageSize) return;
  for (const Elf64_Phdr& h : headers) {
    if (h.p_type != PT_LOAD) continue;
    const SignalBlock block;
    if (patch(Image(base - (h.p_vaddr & ~(kPageSize - 1)), headers)).counts.given_up != 0)
      (void)dispatch::want();
    return;
  }
}

}  // namespace

Status install(Vm& vm, Router router, OutOfReach allowed) {
  set_memory(vm);
  set_router(router);
  set_handlers(handlers());
  signals::note_process();
  Installation installation;
  for_each_image(own_image(), &patch_essential, &installation);
  if (installation.status && !installation.has_libc) installation.status = Error{ENOTSUP};
  if (!installation.status) {
    forget_memory();
    return installation.status;
  }
  Others others;
  others.passed = installation.passed;
  widen(&others.passed, own_code());
  // Whole pages: code that comes later must not lie where calls pass.
  others.passed.begin &= ~(kPageSize - 1);
  others.passed.end = (others.passed.end + kPageSize - 1) & ~(kPageSize - 1);
  reserve_gaps(others.passed);
  dispatch::allow(others.passed);
  for_each_image(own_image(), &patch_other, &others);
  const bool are_caught = !others.are_out_of_reach || (!others.are_passed && dispatch::want());
  if (!are_caught && allowed == OutOfReach::kRefused) {
    forget_memory();
    return Error{ENOEXEC};
  }
  thread::prepare(*memory_if_set());
  set_handler_mover();
  signals::adopt_handlers();
  if (pinners::are_inherited()) vm.expect_pins();
  installed.store(true, std::memory_order_release);
  return {};
}

void note_code_made(std::uintptr_t by) {
  if (is_installed() && !linker.contains(by)) (void)dispatch::want();
}

bool is_installed() { return installed.load(std::memory_order_acquire); }

void note_mapped(int fd, std::uintptr_t address, const MappedFile& how) {
  if (!is_installed()) return;
  if (!how.is_fixed && how.offset == 0) loading = {fd, address, false};
  if (loading.fd == fd && how.is_executable) loading.has_code = true;
}

void note_closed(int fd) {
  if (loading.fd != fd || fd < 0) return;
  const Loading done = loading;
  loading = Loading();
  if (done.has_code) patch_object_at(done.base);
}

void after_fork_in_child() {
  signals::note_process();
  thread::after_fork_in_child();
  dispatch::after_fork_in_child();
}

}  // namespace buoy::gate
