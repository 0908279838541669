#include "gate/sites.h"

#include <emmintrin.h>

#include <algorithm>
#include <cstring>

#include "gate/instruction.h"

namespace buoy::gate {

namespace {

constexpr std::size_t kJumpBytes = 5;
constexpr std::size_t kCallBytes = 2;

std::uint32_t word_at(const std::uint8_t* p) {
  std::uint32_t word = 0;
  std::memcpy(&word, p, sizeof word);
  return word;
}

const std::uint8_t* bytes_at(std::uintptr_t address) {
  return reinterpret_cast<const std::uint8_t*>(address);  // NOLINT(performance-no-int-to-ptr)
}

std::uintptr_t add(std::uintptr_t address, std::int64_t distance) {
  return address + static_cast<std::uintptr_t>(distance);
}

std::uintptr_t target_of(std::uintptr_t at, const Instruction& i) {
  const std::uint8_t* const p = bytes_at(at + i.distance_at);
  const std::int64_t distance =
      i.distance_bytes == 1 ? static_cast<std::int8_t>(*p)
                            : static_cast<std::int64_t>(static_cast<std::int32_t>(word_at(p)));
  return add(at + i.length, distance);
}

__m128i load_16(const std::uint8_t* p) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
}

// Which of 16 bytes are `value` under `mask`: all bits of those.
__m128i are(__m128i bytes, int mask, int value) {
  return _mm_cmpeq_epi8(_mm_and_si128(bytes, _mm_set1_epi8(static_cast<char>(mask))),
                        _mm_set1_epi8(static_cast<char>(value)));
}

// The first pair of bytes 0F 05 from `at` on; `end` if there is none. (0F alone is too frequent in code to
// look for it first.)
std::uintptr_t find_pair(std::uintptr_t at, std::uintptr_t end) {
  constexpr std::size_t kStep = 16;
  for (; at + kStep < end; at += kStep) {
    const __m128i pairs = _mm_and_si128(are(load_16(bytes_at(at)), 0xff, 0x0f),
                                        are(load_16(bytes_at(at + 1)), 0xff, 0x05));
    const auto hits = static_cast<unsigned>(_mm_movemask_epi8(pairs));
    if (hits != 0) return at + static_cast<unsigned>(__builtin_ctz(hits));
  }
  for (; at + 1 < end; ++at)
    if (bytes_at(at)[0] == 0x0f && bytes_at(at)[1] == 0x05) return at;
  return end;
}

// Where code is not decoded, two bytes are a call for sure only if its result is looked at behind it.
bool looks_like_a_call(std::uintptr_t at, std::uintptr_t end) {
  constexpr std::uint8_t kCompare[] = {0x48, 0x3d};        // cmp $x, %rax
  constexpr std::uint8_t kLargest[] = {0xf0, 0xff, 0xff};  // an error: -4096 or -4095
  if (end - at < kCallBytes + 6) return false;
  const std::uint8_t* const behind = bytes_at(at + kCallBytes);
  return std::memcmp(behind, kCompare, sizeof kCompare) == 0 && behind[2] <= 1 &&
         std::memcmp(behind + 3, kLargest, sizeof kLargest) == 0;
}

// What an instruction does to %rax, where only the plain ones are known.
enum class RaxEffect { kUnknown, kNone, kConstant };
struct Rax {
  RaxEffect effect = RaxEffect::kUnknown;
  std::uint32_t value = 0;
};

// One instruction taken apart, as far as the plain forms go.
struct Form {
  bool is_wide = false;
  std::uint8_t opcode = 0;
  bool has_modrm = false;
  bool is_register = false;  // the operand is no memory
  unsigned reg = 0;
  unsigned rm = 0;
  unsigned low = 0;  // the register in the opcode itself
  const std::uint8_t* rest = nullptr;
};

Form take_apart(std::span<const std::uint8_t> code) {
  Form f;
  std::size_t at = 0;
  constexpr std::uint8_t kFs = 0x64;
  if (code[at] == kFs) ++at;
  std::uint8_t rex = 0;
  if (at < code.size() && (code[at] & 0xf0U) == 0x40U) rex = code[at++];
  f.is_wide = (rex & 8U) != 0;
  f.opcode = at < code.size() ? code[at] : 0;
  f.low = (f.opcode & 7U) + ((rex & 1U) != 0 ? 8 : 0);
  f.rest = code.data() + at + 1;
  if (at + 1 >= code.size()) return f;
  f.has_modrm = true;
  f.is_register = (*f.rest & 0xc0U) == 0xc0U;
  f.reg = ((*f.rest >> 3U) & 7U) + ((rex & 4U) != 0 ? 8 : 0);
  f.rm = (*f.rest & 7U) + ((rex & 1U) != 0 ? 8 : 0);
  return f;
}

Rax rax_after(std::span<const std::uint8_t> code) {
  constexpr Rax kNothing{RaxEffect::kNone, 0};
  const Form f = take_apart(code);
  if ((f.opcode & 0xf8U) == 0xb8U) {  // mov $x, %r
    if (f.low != 0) return kNothing;
    return f.is_wide ? Rax{} : Rax{RaxEffect::kConstant, word_at(f.rest)};
  }
  if (!f.has_modrm) return {};
  const bool is_rm_rax = f.is_register && f.rm == 0;
  switch (f.opcode) {
    case 0xc7:  // mov $x, operand
      return is_rm_rax ? Rax{RaxEffect::kConstant, word_at(f.rest + 1)} : kNothing;
    case 0x31:  // xor %reg, operand
      if (is_rm_rax && f.reg == 0) return {RaxEffect::kConstant, 0};
      return is_rm_rax ? Rax{} : kNothing;
    case 0x01:
    case 0x09:
    case 0x21:
    case 0x29:
    case 0x89:  // add, or, and, sub, mov to operand
    case 0x80:
    case 0x81:
    case 0x83:  // the same with constants
    case 0xf7:  // not, neg, and multiplications:
      return is_rm_rax || (f.opcode == 0xf7 && (f.reg & 7U) > 3) ? Rax{} : kNothing;
    case 0x03:
    case 0x0b:
    case 0x23:
    case 0x2b:
    case 0x33:
    case 0x8b:
    case 0x8d:  // to %reg
      return f.reg == 0 ? Rax{} : kNothing;
    case 0x38:
    case 0x39:
    case 0x3a:
    case 0x3b:
    case 0x84:
    case 0x85:  // cmp, test
      return kNothing;
    default:
      return {};
  }
}

// The instructions in front of a call, the last one first.
class Window {
 public:
  static constexpr unsigned kMost = 6;
  struct Place {
    std::uintptr_t at = 0;
    Instruction what;
  };
  // `lengths`: of the instructions up to the call; the last ones are looked at.
  Window(std::uintptr_t call, std::span<const std::uint8_t> lengths) {
    std::uintptr_t at = call;
    while (count_ < kMost && count_ < lengths.size()) {
      const std::uint8_t length = lengths[lengths.size() - 1 - count_];
      at -= length;
      places_[count_++] = {at, decode({bytes_at(at), length})};
    }
  }
  [[nodiscard]] unsigned count() const { return count_; }
  [[nodiscard]] const Place& operator[](unsigned i) const { return places_[i]; }

 private:
  Place places_[kMost];
  unsigned count_ = 0;
};

class SiteList {
 public:
  explicit SiteList(std::span<Site> room) : room_(room) {}
  [[nodiscard]] bool add(const Site& site) {
    if (count_ == room_.size()) return false;
    room_[count_++] = site;
    return true;
  }
  [[nodiscard]] std::span<Site> all() const { return room_.first(count_); }
  void keep(std::size_t count) { count_ = count; }

 private:
  std::span<Site> room_;
  std::size_t count_ = 0;
};

// One function with system calls in it.
class Function {
 public:
  Function(const CodeRange& range, SiteList& sites) : range_(range), sites_(sites) {}

  // Sites that were found; those of them that cannot be patched.
  SiteCounts scan() {
    decode_all();
    SiteCounts counts;
    std::uintptr_t at = range_.begin;
    for (std::size_t k = 0; k < count_; at += lengths_[k++]) {
      if (lengths_[k] != kCallBytes || !is_call(at)) continue;
      ++counts.found;
      if (!tell(at, Window(at, {lengths_, k}))) ++counts.given_up;
    }
    // What could not be decoded: data, or instructions that are too new.
    for (at = find_pair(at, range_.end); !is_complete_ && at < range_.end;
         at = find_pair(at + kCallBytes, range_.end))
      if (looks_like_a_call(at, range_.end)) ++counts.given_up;
    return counts;
  }

  [[nodiscard]] static bool is_call(std::uintptr_t at) {
    return bytes_at(at)[0] == 0x0f && bytes_at(at)[1] == 0x05;
  }

 private:
  [[nodiscard]] static bool can_move(const Instruction& i, std::uintptr_t at) {
    if (is_call(at)) return false;
    if (!i.is_branch) return true;
    // Conditional jumps. A call would leave another return address.
    const std::uint8_t first = bytes_at(at)[0];
    return (first & 0xf0U) == 0x70U || (first == 0x0f && i.length == 6);
  }
  // Ends the straight line: what follows is not reached from here, or a call comes back to it.
  [[nodiscard]] static bool ends_line(std::uintptr_t at) {
    const std::uint8_t first = bytes_at(at)[0];
    constexpr std::uint8_t kRet = 0xc3, kJmp = 0xe9, kJmpShort = 0xeb, kCall = 0xe8, kGroup5 = 0xff;
    return first == kRet || first == kJmp || first == kJmpShort || first == kCall ||
           first == kGroup5;
  }

  bool tell(std::uintptr_t call, const Window& window) {
    Site site{call, call, call + kCallBytes, Site::kNumberUnknown};
    find_front(window, &site);
    if (site.number == Site::kNumberUnknown) find_number(window, &site);
    find_behind(&site);
    const bool is_whole = site.behind_end - call >= kJumpBytes;
    if (!site.has_front() && !is_whole) return false;
    return sites_.add(site);
  }

  void find_number(const Window& window, Site* site) const {
    std::uintptr_t next = site->call;
    for (unsigned k = 0; k < window.count(); ++k) {
      const auto& [at, what] = window[k];
      if (at + what.length != next || ends_line(at)) return;
      const Rax rax = rax_after({bytes_at(at), what.length});
      // A branch to what follows brings another value along.
      if (rax.effect == RaxEffect::kUnknown || is_target(next, next + 1)) return;
      if (rax.effect == RaxEffect::kConstant) {
        site->number = static_cast<long>(rax.value);
        return;
      }
      next = at;
    }
  }

  // libc's way to end a thread is a loop around a call that does not return:
  //     mov $60, %edx;  again: xor %edi, %edi;  mov %edx, %eax;  syscall;  jmp again
  // The branch to `again` is never taken, so that all in front of the call may move.
  [[nodiscard]] bool is_endless_exit(std::uintptr_t call) const {
    constexpr std::uint8_t kLoop[] = {0x31, 0xff, 0x89, 0xd0, 0x0f, 0x05, 0xeb, 0xf8};
    return call - range_.begin >= 4 && range_.end - call >= 4 &&
           std::memcmp(bytes_at(call - 4), kLoop, sizeof kLoop) == 0;
  }
  bool find_exit(const Window& window, Site* site) const {
    if (!is_endless_exit(site->call)) return false;
    for (unsigned k = 2; k < window.count(); ++k) {
      const auto& [at, what] = window[k];
      const Form f = take_apart({bytes_at(at), what.length});
      constexpr std::uint8_t kMovToEdx = 0xba;
      if (f.opcode != kMovToEdx) continue;
      site->front = at;
      site->number = static_cast<long>(word_at(f.rest));
      return true;
    }
    return false;
  }

  void find_front(const Window& window, Site* site) const {
    if (find_exit(window, site)) return;
    std::uintptr_t next = site->call;
    for (unsigned k = 0; k < window.count(); ++k) {
      const auto& [at, what] = window[k];
      if (at + what.length != next || ends_line(at) || !can_move(what, at)) return;
      next = at;
      if (site->call - next < kJumpBytes) continue;
      if (!is_target(next + 1, site->call + 1)) site->front = next;
      return;
    }
  }

  void find_behind(Site* site) const {
    std::uintptr_t at = site->behind();
    while (at < range_.end && at - site->behind() < kJumpBytes) {
      const Instruction i = decode({bytes_at(at), range_.end - at});
      if (!i.is_known() || !can_move(i, at)) return;
      const bool is_end = ends_line(at);
      at += i.length;
      // A `ret` may move along, as the last one.
      if (is_end) {
        if (bytes_at(at - i.length)[0] != 0xc3) return;
        break;
      }
    }
    if (at > range_.end || at - site->call < kJumpBytes) return;
    if (!is_target(site->behind(), at)) site->behind_end = at;
  }

  // Lengths, and where branches lead.
  void decode_all() {
    std::uintptr_t at = range_.begin;
    while (at < range_.end && count_ < kMostInstructions) {
      const Instruction i = decode({bytes_at(at), range_.end - at});
      if (!i.is_known()) return;
      if (i.is_branch) add_target(target_of(at, i));
      lengths_[count_++] = static_cast<std::uint8_t>(i.length);
      at += i.length;
    }
    is_complete_ = at >= range_.end;
  }
  void add_target(std::uintptr_t target) {
    if (!range_.contains(target)) return;
    if (target_count_ == kMostTargets)
      has_all_targets_ = false;
    else
      targets_[target_count_++] = target;
  }

  // May a branch of the function lead into [begin, end)?
  [[nodiscard]] bool is_target(std::uintptr_t begin, std::uintptr_t end) const {
    if (!is_complete_ || !has_all_targets_) return true;
    return std::any_of(targets_, targets_ + target_count_,
                       [=](std::uintptr_t t) { return t >= begin && t < end; });
  }

  static constexpr std::size_t kMostTargets = 2048;
  static constexpr std::size_t kMostInstructions = 16384;
  CodeRange range_;
  SiteList& sites_;
  bool is_complete_ = false;  // all of it was decoded
  bool has_all_targets_ = true;
  std::size_t target_count_ = 0;
  std::uintptr_t targets_[kMostTargets];
  std::size_t count_ = 0;  // instructions
  std::uint8_t lengths_[kMostInstructions];
};

// The places of sites that nothing may branch into but their first bytes: a filter in front of a
// search, because it is asked for each thing that looks like a branch.
class Interiors {
 public:
  explicit Interiors(std::span<Site> sites) : sites_(sites) {
    for (const Site& s : sites)
      for (std::uintptr_t at = s.front; at < s.behind_end; ++at) filter_[slot(at)] |= bit(at);
  }
  // What is branched into does not move.
  void meet(std::uintptr_t target) {
    if ((filter_[slot(target)] & bit(target)) == 0) return;
    const auto site = std::partition_point(
        sites_.begin(), sites_.end(), [target](const Site& s) { return s.behind_end <= target; });
    if (site == sites_.end() || target < site->front) return;
    if (target > site->front && target <= site->call) site->front = site->call;
    if (target >= site->behind()) site->behind_end = site->behind();
  }

 private:
  static constexpr std::size_t kBits = std::size_t{1} << 18;
  static std::size_t slot(std::uintptr_t at) { return at % kBits / 64; }
  static std::uint64_t bit(std::uintptr_t at) { return std::uint64_t{1} << at % 64; }
  std::span<Site> sites_;
  std::uint64_t filter_[kBits / 64] = {};
};

// Which of 16 bytes are the last of a branch's opcode: E8, E9, or 8x behind 0F.
unsigned branches_among(const std::uint8_t* code) {
  const __m128i here = load_16(code);
  const __m128i conditional =
      _mm_and_si128(are(here, 0xf0, 0x80), are(load_16(code - 1), 0xff, 0x0f));
  return static_cast<unsigned>(_mm_movemask_epi8(_mm_or_si128(are(here, 0xfe, 0xe8), conditional)));
}

// Every four bytes that would be the distance of a branch, with the opcodes of branches before them.
void meet_far_branches(const CodeRange& segment, Interiors& interiors) {
  constexpr std::size_t kDistanceBytes = 4;
  constexpr std::size_t kStep = 16;
  // The segment's first byte and its last few are no branch: they are a header, or padding.
  const std::size_t margin = kStep + kDistanceBytes;
  for (std::uintptr_t at = segment.begin + 1; at + margin <= segment.end; at += kStep) {
    for (unsigned hits = branches_among(bytes_at(at)); hits != 0; hits &= hits - 1) {
      const std::uintptr_t distance_at = at + static_cast<unsigned>(__builtin_ctz(hits)) + 1;
      const auto distance = static_cast<std::int32_t>(word_at(bytes_at(distance_at)));
      interiors.meet(add(distance_at + kDistanceBytes, distance));
    }
  }
}

// Two calls close together: what lies between them moves once.
void part_neighbours(std::span<Site> sites) {
  for (std::size_t i = 1; i < sites.size(); ++i) {
    if (sites[i - 1].behind_end <= sites[i].front) continue;
    sites[i - 1].behind_end = sites[i - 1].behind();
    if (sites[i - 1].behind() > sites[i].front) sites[i].front = sites[i].call;
  }
}

bool can_be_patched(const Site& site) {
  return site.has_front() || site.behind_end - site.call >= kJumpBytes;
}

SiteCounts scan(const Image& image, const CodeRange& segment, SiteList& sites) {
  SiteCounts counts;
  for (std::uintptr_t at = find_pair(segment.begin, segment.end); at < segment.end;) {
    const auto [function, is_signal_frame] = image.function_at(at);
    if (is_signal_frame) {
      at = find_pair(at + kCallBytes, segment.end);
      continue;
    }
    if (function.bytes() == 0 || function.end > segment.end) {
      if (looks_like_a_call(at, segment.end)) ++counts.given_up;
      at = find_pair(at + kCallBytes, segment.end);
      continue;
    }
    const SiteCounts more = Function(function, sites).scan();
    counts.found += more.found;
    counts.given_up += more.given_up;
    at = find_pair(function.end, segment.end);
  }
  return counts;
}

}  // namespace

SiteCounts find_sites(const Image& image, std::span<Site> room, std::size_t* count) {
  SiteCounts counts;
  SiteList sites(room);
  for (const CodeRange& segment : image.segments()) {
    const SiteCounts more = scan(image, segment, sites);
    counts.found += more.found;
    counts.given_up += more.given_up;
  }
  if (!sites.all().empty()) {
    part_neighbours(sites.all());
    Interiors interiors(sites.all());
    for (const CodeRange& segment : image.segments()) meet_far_branches(segment, interiors);
    const auto end = std::remove_if(sites.all().begin(), sites.all().end(),
                                    [](const Site& s) { return !can_be_patched(s); });
    const auto kept = static_cast<std::size_t>(end - sites.all().begin());
    counts.given_up += static_cast<unsigned>(sites.all().size() - kept);
    sites.keep(kept);
  }
  *count = sites.all().size();
  return counts;
}

}  // namespace buoy::gate
