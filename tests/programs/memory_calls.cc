// memory_calls: random memory calls in lock step with a recording of the same calls.
//
//   memory_calls record FILE [SEED [SEQUENCES [STEPS]]]    makes the calls, writes what came of each
//   memory_calls compare FILE [SEED [SEQUENCES [STEPS]]]   makes them again; status 1 and a line at the
//                                                          first that came to something else
// Options, after these: --say (each step, to stderr), --drop=A-B (leave these steps out, again and again),
// --pressed (pages may be out: mincore may say so of a page that natively is there).
//
// It is recorded natively and compared under `buoy run`; tests/memory_calls.sh does both, and makes what
// differs small. Each step is made from the seed and its own number alone, so that steps can be left out.
// The calls lie in a window at a fixed address, where what is mapped depends on nothing but the calls, and
// in a few mappings that the system places. What depends on how the kernel cuts its mappings, or on its
// choices, is decided by who records, and followed ("skip").
//
// What differs and is allowed, each with its reason, is in allowed() and in docs/run.md.
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <string>
#include <utility>
#include <vector>

#include "check.h"

namespace {

using Word = std::uint64_t;

char* const kWindow = reinterpret_cast<char*>(0x4200000000);  // NOLINT
constexpr std::size_t kWindowPages = 1600;                    // three blocks and a bit
constexpr std::size_t kSlots = 6;
constexpr std::size_t kFilePages = 40;
constexpr int kDontUnmap = 4;  // MREMAP_DONTUNMAP
constexpr int kDontNeedLocked = 24;
constexpr int kCollapse = 25;
constexpr int kGuardInstall = 102;
constexpr int kGuardRemove = 103;

// ---- What is asked for -------------------------------------------------------------------------

struct Options {
  bool records = false;
  bool says = false;
  bool is_pressed = false;
  std::vector<std::pair<std::size_t, std::size_t>> dropped;
  [[nodiscard]] bool drops(std::size_t step) const {
    return std::any_of(dropped.begin(), dropped.end(),
                       [step](auto d) { return step >= d.first && step <= d.second; });
  }
};
Options options;

// The numbers of one step: the same whatever came before.
class Dice {
 public:
  Dice(Word seed, Word step) : state_(mix(seed * 1000003 + step + 1)) {}
  Word next() { return state_ = mix(state_ + 0x9e3779b97f4a7c15ULL); }
  std::size_t below(std::size_t n) { return next() % n; }
  bool one_in(std::size_t n) { return below(n) == 0; }
  template <typename T, std::size_t N>
  T of(const T (&values)[N]) {
    return values[below(N)];
  }

 private:
  Word state_;
};

// ---- What came of it, as a line ------------------------------------------------------------------

std::string line;
std::string theirs;  // of the recording, to be compared with
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
void say(const char* format, ...) {
  char text[400];
  va_list rest;
  va_start(rest, format);
  std::vsnprintf(text, sizeof text, format, rest);
  va_end(rest);
  line += text;
}

const char* name_of(int error) {
  const char* name = strerrorname_np(error);
  return name == nullptr ? "?" : name;
}
void say_result(long result) {
  if (result == -1)
    say(" = %s", name_of(errno));
  else
    say(" = %ld", result);
}

// ---- Where it is done ----------------------------------------------------------------------------

struct Mapping {
  char* base = nullptr;
  std::size_t pages = 0;
};
Mapping slots[kSlots];  // placed by the system

// Pages on which a guard may lie.
std::vector<bool> may_be_guard(kWindowPages);

// Memory without access may have been locked: made accessible later, it is there at once natively, and when
// it is touched in a budget.
bool has_locked_closed = false;

bool in_window(const char* p) { return p >= kWindow && p < kWindow + kWindowPages * kPage; }

// Those of the window's pages that a range has.
struct WindowPages {
  WindowPages(const char* p, std::size_t bytes) {
    const char* const end = kWindow + kWindowPages * kPage;
    const char* const from = std::clamp<const char*>(p, kWindow, end);
    const std::size_t most = static_cast<std::size_t>(end - from) / kPage;
    first = static_cast<std::size_t>(from - kWindow) / kPage;
    last = p < kWindow ? first : first + std::min(most, bytes / kPage + (bytes % kPage != 0));
  }
  std::size_t first = 0;
  std::size_t last = 0;
};
void note_guards(const char* p, std::size_t bytes, bool is_guard) {
  const WindowPages pages(p, bytes);
  for (std::size_t i = pages.first; i < pages.last; ++i) may_be_guard[i] = is_guard;
}
bool may_have_guard(const char* p, std::size_t bytes) {
  const WindowPages pages(p, bytes);
  for (std::size_t i = pages.first; i < pages.last; ++i)
    if (may_be_guard[i]) return true;
  return false;
}

std::size_t length_of(Dice& dice, std::size_t most) {
  std::size_t pages = 1 + dice.below(4);
  if (dice.one_in(2)) pages = 1 + dice.below(64);
  if (dice.one_in(3)) pages = 16 + dice.below(200);
  if (dice.one_in(12)) pages = 512 + dice.below(512);
  return std::min(pages, most);
}

// A range to work on: in the window, or inside of a mapping that the system placed.
struct Target {
  char* p = nullptr;
  std::size_t bytes = 0;
  const Mapping* slot = nullptr;
};
Target target_of(Dice& dice) {
  Target t;
  const Mapping& slot = slots[dice.below(kSlots)];
  const bool is_slot = dice.one_in(4) && slot.base != nullptr;
  const std::size_t all = is_slot ? slot.pages : kWindowPages;
  // Where steps meet: mappings begin and end at few places.
  std::size_t first = dice.below(all);
  if (dice.one_in(2)) first = std::min(first / 64 * 64, all - 1);
  t.p = (is_slot ? slot.base : kWindow) + first * kPage;
  t.bytes = length_of(dice, all - first) * kPage;
  t.slot = is_slot ? &slot : nullptr;
  if (dice.one_in(16)) t.bytes -= dice.below(kPage);
  if (dice.one_in(40)) {
    t.p += 1 + dice.below(kPage - 1);
    t.bytes -= std::min(t.bytes, kPage);  // nothing behind a mapping is to be touched
  }
  if (dice.one_in(60)) t.bytes = 0;
  return t;
}
// For calls that refuse what is too long, in place of working on all that lies behind the window.
void make_huge_sometimes(Dice& dice, Target& t) {
  if (t.slot != nullptr) return;
  if (dice.one_in(100)) t.bytes = SIZE_MAX - dice.below(2 * kPage);
  if (dice.one_in(100)) t.bytes = std::size_t{1} << 48;
}
void say_target(const char* what, const Target& t) {
  const char* base = t.slot == nullptr ? kWindow : t.slot->base;
  if (t.p == nullptr) return say("%s +%#zx", what, t.bytes);
  say("%s %s%+.3f +%#zx", what, t.slot == nullptr ? "window" : "slot",
      static_cast<double>(t.p - base) / kPage, t.bytes);
}
std::size_t rounded(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

Mapping* free_slot() {
  for (Mapping& m : slots)
    if (m.base == nullptr) return &m;
  return nullptr;
}

// ---- Touching ------------------------------------------------------------------------------------

sigjmp_buf back;
volatile int touch_signal = 0;
volatile int touch_code = 0;
volatile bool is_touching = false;
void on_fault(int signal, siginfo_t* info, void*) {
  CHECK(is_touching);
  touch_signal = signal;
  touch_code = info->si_code;
  siglongjmp(back, 1);
}
// False: a signal came, which touch_signal and touch_code tell.
// A frame of its own, or what the caller keeps in registers is what it was at sigsetjmp.
template <typename Body>
__attribute__((noinline)) bool touches(Body body) {
  touch_signal = 0;
  is_touching = true;
  const bool came_back = sigsetjmp(back, 0) != 0;
  if (!came_back) body();
  is_touching = false;
  return !came_back;
}
// A guard counts as not mapped; natively only where its mapping would allow the touch.
void say_touch(const char* p) {
  if (touch_signal == SIGSEGV && may_have_guard(p, 1))
    say(" SIGSEGV");
  else if (touch_signal == SIGSEGV)
    say(" SIGSEGV %s", touch_code == SEGV_MAPERR ? "MAPERR" : "ACCERR");
  else
    say(" signal %d", touch_signal);
}

void fill_page(char* page, Word value) {
  auto* words = reinterpret_cast<volatile Word*>(page);
  for (std::size_t i = 0; i < kPage / sizeof(Word); ++i) words[i] = value + i / 2;
}
Word digest_of(const char* page) {
  const auto* words = reinterpret_cast<const volatile Word*>(page);
  Word digest = 0;
  for (std::size_t i = 0; i < kPage / sizeof(Word); ++i) digest = mix(digest ^ words[i]);
  return digest;
}
// What can be read of pages, and where nothing can.
Word digest_of_range(const char* p, std::size_t pages) {
  Word digest = 0;
  for (std::size_t i = 0; i < pages; ++i) {
    Word one = 0;
    if (!touches([&] { one = digest_of(p + i * kPage); }))
      one = may_have_guard(p + i * kPage, kPage) ? 99 : static_cast<Word>(touch_code);
    digest = mix(digest ^ one);
    if (options.says && one != 0 && touch_signal == 0)
      std::fprintf(stderr, "    page %td: %016lx first word %lx\n",
                   (p - kWindow) / 4096 + static_cast<long>(i), one,
                   *reinterpret_cast<const volatile Word*>(p + i * kPage));
  }
  return digest;
}

// ---- What the system says of itself -----------------------------------------------------------------

struct Line {
  char* begin;
  char* end;
  char permissions[5];
};
// The lines of /proc/self/maps that overlap the range.
std::vector<Line> maps_of(const char* p, std::size_t bytes) {
  static char text[1 << 20];
  const int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0);
  std::size_t filled = 0;
  for (ssize_t got = 0; (got = read(fd, text + filled, sizeof text - 1 - filled)) > 0;)
    filled += static_cast<std::size_t>(got);
  close(fd);
  text[filled] = 0;
  std::vector<Line> lines;
  for (char* at = text; at != nullptr && *at != 0;) {
    char* rest = nullptr;
    Line one{};
    one.begin = reinterpret_cast<char*>(std::strtoul(at, &rest, 16));      // NOLINT
    one.end = reinterpret_cast<char*>(std::strtoul(rest + 1, &rest, 16));  // NOLINT
    std::memcpy(one.permissions, rest + 1, 4);
    if (one.begin < p + bytes && one.end > p) lines.push_back(one);
    at = std::strchr(rest, '\n');
    if (at != nullptr) ++at;
  }
  return lines;
}

bool is_one_mapping(const char* p, std::size_t bytes) {
  const std::vector<Line> lines = maps_of(p, std::max<std::size_t>(bytes, 1));
  return lines.empty() || (lines.size() == 1 && lines[0].begin <= p && p + bytes <= lines[0].end);
}

bool has_write_only(const char* p, std::size_t bytes) {
  const std::vector<Line> lines = maps_of(p, bytes);
  return std::any_of(lines.begin(), lines.end(),
                     [](const Line& one) { return std::strncmp(one.permissions, "-w", 2) == 0; });
}

// The mapped pages of a range, by mincore.
void find_mapped(char* p, std::size_t pages, std::size_t first, std::vector<bool>& mapped) {
  static unsigned char vec[kWindowPages];
  if (mincore(p, pages * kPage, vec) == 0) {
    std::fill_n(mapped.begin() + static_cast<std::ptrdiff_t>(first), pages, true);
    return;
  }
  CHECK(errno == ENOMEM);
  if (pages == 1) return;
  const std::size_t half = pages / 2;
  find_mapped(p, half, first, mapped);
  find_mapped(p + half * kPage, pages - half, first + half, mapped);
}

// ---- Steps -----------------------------------------------------------------------------------------

int file = -1;  // of kFilePages

void do_map(Dice& dice) {
  static constexpr int kProts[] = {PROT_NONE,
                                   PROT_READ,
                                   PROT_READ | PROT_WRITE,
                                   PROT_READ | PROT_WRITE,
                                   PROT_READ | PROT_WRITE,
                                   PROT_READ | PROT_EXEC,
                                   PROT_READ | PROT_WRITE | PROT_EXEC,
                                   PROT_WRITE};
  Target t = target_of(dice);
  make_huge_sometimes(dice, t);
  int prot = dice.of(kProts);
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
  int fd = -1;
  off_t offset = 0;
  const std::size_t kind = dice.below(12);
  if (kind == 0) flags = MAP_SHARED | MAP_ANONYMOUS;
  if (kind == 1) {
    flags = MAP_PRIVATE;
    fd = file;
    offset = static_cast<off_t>(dice.below(kFilePages) * kPage);
    t.bytes = std::min(t.bytes, kFilePages * kPage - static_cast<std::size_t>(offset));
  }
  const std::size_t where = dice.below(20);
  if (where < 9) flags |= MAP_FIXED;
  if (where >= 9 && where < 12) flags |= MAP_FIXED_NOREPLACE;
  if (where >= 17) t = {nullptr, t.bytes, nullptr};  // wherever
  bool is_fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (is_fixed && t.slot != nullptr && (flags & MAP_FIXED_NOREPLACE) != 0) flags |= MAP_FIXED;
  if (dice.one_in(5)) flags |= MAP_NORESERVE;
  if (dice.one_in(9)) flags |= MAP_POPULATE;
  if (dice.one_in(30)) flags |= MAP_STACK;
  if (dice.one_in(40)) flags |= MAP_LOCKED;
  if ((flags & MAP_LOCKED) != 0 && prot == PROT_NONE) has_locked_closed = true;
  if (dice.one_in(50))
    flags = (flags | MAP_HUGETLB) & ~(MAP_NORESERVE | MAP_FIXED | MAP_FIXED_NOREPLACE);
  is_fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  if (dice.one_in(90)) flags &= ~(MAP_PRIVATE | MAP_SHARED);
  if (dice.one_in(90)) fd = 999;
  if (dice.one_in(90)) offset = 7;
  if (dice.one_in(90)) prot |= 0x100;
  if (!is_fixed && !in_window(t.p)) t = {nullptr, t.bytes, nullptr};
  say_target(t.p == nullptr ? "mmap anywhere" : "mmap", t);
  say(" prot %x flags %x fd %d offset %lx", static_cast<unsigned>(prot),
      static_cast<unsigned>(flags), fd == file ? 0 : fd, offset);
  void* got = dice.one_in(4) && is_fixed
                  ? reinterpret_cast<void*>(
                        syscall(SYS_mmap, t.p, t.bytes, prot, flags, fd, offset))  // NOLINT
                  : mmap(t.p, t.bytes, prot, flags, fd, offset);
  if (got == MAP_FAILED) {
    say(" = %s", name_of(errno));
    return;
  }
  char* at = static_cast<char*>(got);
  // A hint is a wish, which a manager grants where it can; where the recording has it granted, things go on
  // alike by force.
  if (!is_fixed && !in_window(at) && theirs.find(" = window") != std::string::npos) {
    CHECK(munmap(at, t.bytes) == 0);
    char* wished = t.p - reinterpret_cast<Word>(t.p) % kPage;
    at = static_cast<char*>(mmap(wished, t.bytes, prot, flags | MAP_FIXED, fd, offset));
    CHECK(at == wished);
  }
  if (in_window(at)) {
    say(" = window%+td", (at - kWindow) / static_cast<std::ptrdiff_t>(kPage));
    note_guards(at, t.bytes, false);
    return;
  }
  if (is_fixed) {
    say(" = %s", at == t.p ? "there" : "elsewhere");
    return;
  }
  say(" = anywhere");
  Mapping* slot = free_slot();
  if (slot != nullptr)
    *slot = {at, rounded(t.bytes) / kPage};
  else
    CHECK(munmap(at, t.bytes) == 0);
}

void do_unmap(Dice& dice) {
  Target t = target_of(dice);
  make_huge_sometimes(dice, t);
  const bool all = t.slot != nullptr && dice.one_in(2);
  if (all) t = {t.slot->base, t.slot->pages * kPage, t.slot};
  // A part of a slot that is nobody's would be anybody's.
  if (t.slot != nullptr && !all) t.bytes = 0;
  say_target("munmap", t);
  const long r = dice.one_in(4) ? syscall(SYS_munmap, t.p, t.bytes) : munmap(t.p, t.bytes);
  say_result(r);
  if (r == 0) note_guards(t.p, t.bytes, false);
  if (r == 0 && all) *const_cast<Mapping*>(t.slot) = {};
}

void do_protect(Dice& dice) {
  static constexpr int kProts[] = {PROT_NONE,
                                   PROT_READ,
                                   PROT_READ | PROT_WRITE,
                                   PROT_READ | PROT_WRITE,
                                   PROT_READ | PROT_WRITE,
                                   PROT_READ | PROT_EXEC,
                                   PROT_READ | PROT_WRITE | PROT_EXEC,
                                   PROT_WRITE,
                                   PROT_GROWSDOWN | PROT_READ,
                                   PROT_GROWSUP | PROT_READ,
                                   0x200,
                                   PROT_READ | 8};
  const Target t = target_of(dice);
  const int prot = dice.of(kProts);
  say_target("mprotect", t);
  say(" prot %x", static_cast<unsigned>(prot));
  say_result(dice.one_in(4) ? syscall(SYS_mprotect, t.p, t.bytes, prot)
                            : mprotect(t.p, t.bytes, prot));
}

// Contents that may be gone or not are made sure again.
void settle_freed(const Target& t, Word value) {
  std::size_t refused = 0;
  char* const first = t.p - reinterpret_cast<Word>(t.p) % kPage;
  for (std::size_t at = 0; at < t.bytes; at += kPage) {
    char* page = first + at;
    if (touches([&] { fill_page(page, value + at); })) continue;
    ++refused;
    madvise(page, kPage, MADV_DONTNEED);
  }
  say(" %zu settled by dropping", refused);
}

void do_advise(Dice& dice, Word step) {
  static constexpr int kAdvices[] = {MADV_NORMAL,
                                     MADV_RANDOM,
                                     MADV_SEQUENTIAL,
                                     MADV_WILLNEED,
                                     MADV_DONTNEED,
                                     MADV_DONTNEED,
                                     MADV_DONTNEED,
                                     MADV_FREE,
                                     MADV_FREE,
                                     MADV_REMOVE,
                                     MADV_DONTFORK,
                                     MADV_DOFORK,
                                     MADV_MERGEABLE,
                                     MADV_UNMERGEABLE,
                                     MADV_HUGEPAGE,
                                     MADV_NOHUGEPAGE,
                                     MADV_DONTDUMP,
                                     MADV_DODUMP,
                                     MADV_WIPEONFORK,
                                     MADV_KEEPONFORK,
                                     MADV_COLD,
                                     MADV_PAGEOUT,
                                     MADV_POPULATE_READ,
                                     MADV_POPULATE_WRITE,
                                     kDontNeedLocked,
                                     kGuardInstall,
                                     kGuardRemove,
                                     5,
                                     7,
                                     26,
                                     99,
                                     104,
                                     -1,
                                     MADV_DOFORK,
                                     MADV_KEEPONFORK};
  const Target t = target_of(dice);
  const int advice = dice.of(kAdvices);
  if (advice == kGuardInstall && t.slot != nullptr) return say("no guards in slots");
  say_target("madvise", t);
  say(" advice %d", advice);
  if (advice == MADV_POPULATE_READ && options.records && has_write_only(t.p, t.bytes)) {
    say(" skip: write-only");
    return;
  }
  const long r =
      dice.one_in(4) ? syscall(SYS_madvise, t.p, t.bytes, advice) : madvise(t.p, t.bytes, advice);
  say_result(r);
  if (advice == kGuardInstall && t.bytes < kWindowPages * kPage) note_guards(t.p, t.bytes, true);
  if (advice == MADV_FREE) settle_freed(t, step << 20);
}

// What natively became one mapping, of several made side by side, does not move as one in a budget where a
// part is the kernel's or lies in another region. From there on there is nothing to compare with.
bool ends_here = false;

void do_remap(Dice& dice) {
  const Target t = target_of(dice);
  std::size_t new_bytes = length_of(dice, 600) * kPage;
  if (dice.one_in(3)) new_bytes = t.bytes;
  if (dice.one_in(60)) new_bytes = 0;
  if (dice.one_in(100)) new_bytes = SIZE_MAX - dice.below(2 * kPage);
  std::size_t old_bytes = t.bytes;
  if (dice.one_in(40)) old_bytes = 0;
  int flags = dice.one_in(4) ? 0 : MREMAP_MAYMOVE;
  char* to = nullptr;
  if (dice.one_in(3)) {
    flags |= MREMAP_FIXED;
    to = kWindow + dice.below(kWindowPages) * kPage;
    if (dice.one_in(30)) to += 9;
    new_bytes = std::min(new_bytes, static_cast<std::size_t>(kWindow + kWindowPages * kPage - to));
  } else if (in_window(t.p)) {
    new_bytes = std::min(new_bytes, static_cast<std::size_t>(kWindow + kWindowPages * kPage - t.p));
  }
  if (dice.one_in(6)) {
    flags |= kDontUnmap;
    if (!dice.one_in(5)) new_bytes = old_bytes;
  }
  if (dice.one_in(60)) flags |= 64;
  // A mapping of the system's placing changes only as a whole, to a place of the window or of the system's.
  const bool is_slot = t.slot != nullptr;
  if (is_slot && (flags & MREMAP_MAYMOVE) == 0) new_bytes = std::min(new_bytes, old_bytes);
  say_target("mremap", t);
  say(" old %#zx new %#zx flags %x", old_bytes, new_bytes, static_cast<unsigned>(flags));
  if (to != nullptr) say(" to window%+.3f", static_cast<double>(to - kWindow) / kPage);
  if (is_slot) {
    // What stays behind of it must not be lost sight of.
    say(" skip: a slot");
    return;
  }
  char* const source = t.p;
  if (options.records && !is_one_mapping(source, old_bytes)) {
    say(" skip: several mappings");
    return;
  }
  if (options.records && may_have_guard(source, std::max(old_bytes, kPage))) {
    say(" skip: guards");
    return;
  }
  void* got = mremap(source, old_bytes, new_bytes, flags, to);
  if (got == MAP_FAILED) {
    say(" = %s", name_of(errno));
    constexpr Word kBlock = 2 << 20;  // regions of the manager's begin on one
    const auto begin = reinterpret_cast<Word>(source);
    const bool crosses = begin / kBlock != (begin + old_bytes - 1) / kBlock;
    const bool is_split = errno == EFAULT && (crosses || !is_one_mapping(source, old_bytes));
    ends_here = is_split && theirs.find(" = ") != std::string::npos &&
                theirs.compare(0, line.rfind(" = "), line, 0, line.rfind(" = ")) == 0;
    return;
  }
  char* at = static_cast<char*>(got);
  // What may move moves where it can grow in its place, if only the kernel's mappings are in the way of that.
  if ((flags & (MREMAP_FIXED | kDontUnmap)) == 0 && at != source &&
      theirs.find(" = window") != std::string::npos) {
    CHECK(mremap(at, new_bytes, new_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, source) == source);
    at = source;
  }
  if (in_window(at)) {
    say(" = window%+td", (at - kWindow) / static_cast<std::ptrdiff_t>(kPage));
    note_guards(at, new_bytes, false);
    return;
  }
  say(" = anywhere");
  if (Mapping* slot = free_slot(); slot != nullptr)
    *slot = {at, rounded(new_bytes) / kPage};
  else
    CHECK(munmap(at, new_bytes) == 0);
}

// Which pages are there: a digit for each run of them.
void do_mincore(Dice& dice) {
  const Target t = target_of(dice);
  static unsigned char vec[kWindowPages + 1];
  std::fill(std::begin(vec), std::end(vec), 9);
  say_target("mincore", t);
  const bool is_bad = dice.one_in(30);
  auto* where = is_bad ? reinterpret_cast<unsigned char*>(0x1000) : vec;  // NOLINT
  const int r = mincore(t.p, t.bytes, where);
  say_result(r);
  if (r != 0 || is_bad || t.bytes == 0) return;
  const std::size_t pages = rounded(t.bytes) / kPage;
  say(" ");
  for (std::size_t i = 0; i < pages; ++i) line += static_cast<char>('0' + vec[i]);
  CHECK(vec[pages] == 9);
}

void do_lock(Dice& dice) {
  Target t = target_of(dice);
  const std::size_t which = dice.below(8);
  long r = 0;
  // It rounds the address down, and would reach behind the mapping.
  if (t.slot != nullptr) t.p -= reinterpret_cast<Word>(t.p) % kPage;
  if (which < 2) {
    say_target("mlock", t);
    r = mlock(t.p, t.bytes);
  } else if (which == 2) {
    const unsigned flags = dice.one_in(10) ? 2 : MLOCK_ONFAULT;
    say_target("mlock2", t);
    say(" flags %u", flags);
    r = mlock2(t.p, t.bytes, flags);
  } else {
    say_target("munlock", t);
    r = munlock(t.p, t.bytes);
  }
  say_result(r);
  if (r != 0) has_locked_closed = true;
}

void do_sync(Dice& dice) {
  static constexpr int kFlags[] = {
      0, MS_ASYNC, MS_SYNC, MS_INVALIDATE, MS_SYNC | MS_ASYNC, 8, MS_SYNC | MS_INVALIDATE};
  const Target t = target_of(dice);
  const int flags = dice.of(kFlags);
  say_target("msync", t);
  say(" flags %d", flags);
  say_result(msync(t.p, t.bytes, flags));
}

void do_break(Dice& dice, Word step) {
  const std::size_t pages = 1 + dice.below(100);
  char* before = static_cast<char*>(sbrk(0));
  char* got = static_cast<char*>(sbrk(static_cast<std::intptr_t>(pages * kPage)));
  say("brk +%zu %s", pages, got == before ? "grown" : "not grown");
  if (got != before) return;
  char* first = before + (kPage - reinterpret_cast<Word>(before) % kPage) % kPage;
  say(" %016lx", digest_of_range(first, pages - 1));
  for (std::size_t i = 0; i + 1 < pages; ++i) fill_page(first + i * kPage, step * 1000 + i);
  say(" %016lx", digest_of_range(first, pages - 1));
  CHECK(brk(before) == 0);
  say(" %s", sbrk(0) == before ? "shrunk" : "not shrunk");
}

void do_touch(Dice& dice, Word step) {
  Target t = target_of(dice);
  const bool is_store = dice.one_in(2);
  t.p -= reinterpret_cast<Word>(t.p) % sizeof(Word);
  say_target(is_store ? "store" : "load", t);
  Word value = step << 8;
  const bool did = touches([&] {
    auto* word = reinterpret_cast<volatile Word*>(t.p);
    if (is_store)
      *word = value;
    else
      value = *word;
  });
  if (did)
    say(" %lx", value);
  else
    say_touch(t.p);
}

// Many pages, each as far as it can be stored to.
void do_fill(Dice& dice, Word step) {
  const Target t = target_of(dice);
  say_target("fill", t);
  std::size_t done = 0;
  std::size_t refused = 0;
  const std::size_t pages = std::min<std::size_t>(t.bytes / kPage, 300);
  char* first = t.p - reinterpret_cast<Word>(t.p) % kPage;
  for (std::size_t i = 0; i < pages; ++i) {
    const bool did = touches([&] { fill_page(first + i * kPage, step * 100000 + i * 1000); });
    ++(did ? done : refused);
  }
  say(" %zu done, %zu refused", done, refused);
}

// The kernel's own stores and loads.
void do_transfer(Dice& dice, Word step) {
  const Target t = target_of(dice);
  const bool into = dice.one_in(2);
  say_target(into ? "pread" : "pwrite", t);
  static const int scratch = memfd_create("memory_calls", MFD_CLOEXEC);
  char* p = t.p;
  const std::size_t bytes = std::min<std::size_t>(t.bytes, 30 * kPage);
  char mine[64];
  std::memset(mine, static_cast<int>(step), sizeof mine);
  CHECK(ftruncate(scratch, 0) == 0 && ftruncate(scratch, 40 * kPage) == 0);
  CHECK(pwrite(scratch, mine, sizeof mine, 5000) == sizeof mine);
  const ssize_t r = into ? pread(scratch, p, bytes, 0) : pwrite(scratch, p, bytes, 0);
  say_result(r);
  if (into || r <= 0) return;
  std::vector<char> copy(static_cast<std::size_t>(r));
  CHECK(pread(scratch, copy.data(), copy.size(), 0) == r);
  Word digest = 0;
  for (const char c : copy) digest = digest * 31 + static_cast<unsigned char>(c);
  say(" %016lx", mix(digest));
}

// A child finds what its parent had, and keeps it to itself.
void do_fork(Dice& dice, Word step) {
  struct Seen {
    Word before, after;
  };
  auto* seen = static_cast<Seen*>(
      mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  CHECK(seen != MAP_FAILED);
  const std::size_t first = dice.below(kWindowPages - 300);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    seen->before = digest_of_range(kWindow, kWindowPages);
    for (std::size_t i = 0; i < 300; i += 3)
      touches([&] { fill_page(kWindow + (first + i) * kPage, step * 7 + i); });
    seen->after = digest_of_range(kWindow, kWindowPages);
    _exit(0);
  }
  int status = 0;
  CHECK(waitpid(child, &status, 0) == child);
  say("fork status %x before %016lx after %016lx", static_cast<unsigned>(status), seen->before,
      seen->after);
  CHECK(munmap(seen, kPage) == 0);
}

void check_contents(Dice& dice) {
  const std::size_t first = dice.below(kWindowPages - 32);
  say("contents %zu %016lx", first, digest_of_range(kWindow + first * kPage, 32));
}

// Each run of pages of one kind; of guards that is not compared, which are mappings of their own here.
void check_maps() {
  std::vector<bool> mapped(kWindowPages);
  find_mapped(kWindow, kWindowPages, 0, mapped);
  say("maps");
  std::string last;
  const std::vector<Line> lines = maps_of(kWindow, kWindowPages * kPage);
  for (std::size_t i = 0; i < kWindowPages; ++i) {
    std::string kind = "none";
    const char* page = kWindow + i * kPage;
    if (mapped[i]) {
      kind = "no line";
      for (const Line& one : lines)
        if (page >= one.begin && page < one.end) kind = one.permissions;
      // What can be stored to can be loaded from, whatever was asked for.
      if (kind[1] == 'w') kind[0] = 'r';
      // A guard is no mapping of its own natively.
      if (may_be_guard[i]) kind = "guard?";
    }
    if (kind != last) say(" %zu %s", i, kind.c_str());
    last = kind;
  }
}

void check_everything() {
  say("everything %016lx", digest_of_range(kWindow, kWindowPages));
  for (const Mapping& m : slots)
    if (m.base != nullptr) say(" %zu pages %016lx", m.pages, digest_of_range(m.base, m.pages));
}

void do_step(Dice dice, Word step) {
  const std::size_t kind = dice.below(400);
  if (kind < 60)
    do_map(dice);
  else if (kind < 95)
    do_unmap(dice);
  else if (kind < 135)
    do_protect(dice);
  else if (kind < 185)
    do_advise(dice, step);
  else if (kind < 215)
    do_remap(dice);
  else if (kind < 235)
    do_mincore(dice);
  else if (kind < 255)
    do_lock(dice);
  else if (kind < 265)
    do_sync(dice);
  else if (kind < 267)
    do_break(dice, step);
  else if (kind < 320)
    do_touch(dice, step);
  else if (kind < 360)
    do_fill(dice, step);
  else if (kind < 372)
    do_transfer(dice, step);
  else if (kind < 373)
    do_fork(dice, step);
  else if (kind < 392)
    check_contents(dice);
  else
    check_maps();
}

void begin_sequence() {
  CHECK(munmap(kWindow, kWindowPages * kPage) == 0);
  for (Mapping& m : slots) {
    if (m.base != nullptr) CHECK(munmap(m.base, m.pages * kPage) == 0);
    m = {};
  }
  std::fill(may_be_guard.begin(), may_be_guard.end(), false);
  has_locked_closed = false;
  ends_here = false;
}

// ---- Comparing ---------------------------------------------------------------------------------------

// What may differ, and why.
bool allowed(const std::string& native, const std::string& ours) {
  if (native.size() != ours.size() || native.compare(0, 7, "mincore") != 0) return false;
  for (std::size_t i = 0; i < native.size(); ++i) {
    if (native[i] == ours[i]) continue;
    // A fault brings in pages beside the one that was touched, if the budget has room.
    const bool is_near = native[i] == '0' && ours[i] == '1';
    // What the budget does not hold is not there.
    const bool is_out =
        (options.is_pressed || has_locked_closed) && native[i] == '1' && ours[i] == '0';
    if (!is_near && !is_out) return false;
  }
  return true;
}

struct Stream {
  explicit Stream(const char* path) : file(std::fopen(path, options.records ? "w" : "r")) {
    CHECK(file != nullptr);
  }
  // The next line, or that of the recording. False: it differs.
  [[nodiscard]] bool pass(Word seed, std::size_t step) const {
    if (options.says) std::fprintf(stderr, "%lu.%zu %s\n", seed, step, line.c_str());
    if (options.records) {
      std::fprintf(file, "%s\n", line.c_str());
      return true;
    }
    if (line == theirs || allowed(theirs, line)) return true;
    std::printf("seed %lu step %zu\nrecorded: %s\nhere:     %s\n", seed, step, theirs.c_str(),
                line.c_str());
    return false;
  }
  [[nodiscard]] std::string next() {
    if (options.records) return {};
    const ssize_t got = getline(&text, &room, file);
    CHECK(got > 0);
    return {text, static_cast<std::size_t>(got - 1)};
  }
  FILE* file;
  char* text = nullptr;
  std::size_t room = 0;
};

bool run_sequence(Stream& stream, Word seed, std::size_t steps) {
  begin_sequence();
  for (std::size_t step = 0; step <= steps; ++step) {
    if (options.drops(step)) continue;
    theirs = stream.next();
    line.clear();
    if (ends_here) continue;  // but read
    const std::size_t skips = theirs.find(" skip:");
    if (step == steps)
      check_everything();
    else if (skips != std::string::npos)
      line = theirs;
    else
      do_step(Dice(seed, step), step);
    if (!ends_here && !stream.pass(seed, step)) return false;
  }
  return true;
}

void make_file() {
  file = memfd_create("memory_calls.file", MFD_CLOEXEC);
  CHECK(file >= 0);
  char page[kPage];
  for (std::size_t i = 0; i < kFilePages; ++i) {
    stamp(page, 77, i);
    CHECK(write(file, page, kPage) == static_cast<ssize_t>(kPage));
  }
}

void take_options(int argc, char** argv, int first) {
  for (int i = first; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--say") options.says = true;
    if (option == "--pressed") options.is_pressed = true;
    if (option.rfind("--drop=", 0) != 0) continue;
    for (std::size_t at = 7; at < option.size();) {
      std::size_t begin = 0;
      std::size_t end = 0;
      int used = 0;
      CHECK(std::sscanf(option.c_str() + at, "%zu-%zu%n", &begin, &end, &used) == 2);
      options.dropped.emplace_back(begin, end);
      at += static_cast<std::size_t>(used) + 1;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  CHECK(argc >= 3);
  options.records = std::string(argv[1]) == "record";
  int numbers = 3;
  while (numbers < argc && argv[numbers][0] != '-') ++numbers;
  take_options(argc, argv, numbers);
  const Word seed = argument(numbers, argv, 3, 1);
  const std::size_t sequences = argument(numbers, argv, 4, 10);
  const std::size_t steps = argument(numbers, argv, 5, 1000);

  // Or a touch brings in whatever the kernel thinks fit.
  CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  CHECK(sigaction(SIGSEGV, &action, nullptr) == 0 && sigaction(SIGBUS, &action, nullptr) == 0);
  make_file();
  line.reserve(1 << 16);
  Stream stream(argv[2]);
  for (std::size_t i = 0; i < sequences; ++i)
    if (!run_sequence(stream, seed + i, steps)) return 1;
  CHECK(std::fclose(stream.file) == 0);
  if (!options.records) std::printf("OK memory_calls: %zu steps alike\n", sequences * steps);
}
