#include "gate/stubs.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <initializer_list>

#include "base/sys.h"
#include "base/units.h"
#include "gate/entry.h"
#include "gate/instruction.h"
#include "mmu/managed_bounds.h"

namespace buoy::gate {

namespace {

constexpr std::size_t kMostStubBytes = 384;  // of one site, both stubs and its description
constexpr std::size_t kUsualStubBytes = 192;
constexpr std::uint8_t kJmp = 0xe9;
constexpr std::uint8_t kTrap = 0xcc;  // int3
constexpr std::size_t kJmpBytes = 5;

std::uint8_t* pointer(std::uintptr_t at) {
  return reinterpret_cast<std::uint8_t*>(at);  // NOLINT(performance-no-int-to-ptr)
}

bool is_near(std::uintptr_t from, std::uintptr_t to) {
  const auto distance = static_cast<std::int64_t>(to - from);
  return distance == static_cast<std::int32_t>(distance);
}

void put_jump(std::uintptr_t at, std::uintptr_t to) {
  const auto distance = static_cast<std::int32_t>(to - (at + kJmpBytes));
  *pointer(at) = kJmp;
  std::memcpy(pointer(at + 1), &distance, sizeof distance);
}

// The machine registers of a system call's arguments 0 to 5.
constexpr std::uint8_t kRegister[] = {7, 6, 2, 10, 8, 9};
constexpr std::uint8_t kR11 = 11;

}  // namespace

// Writes one stub after the other.
class Assembler {
 public:
  enum class Condition : std::uint8_t { kBelow = 2, kNotBelow = 3, kEqual = 4 };

  explicit Assembler(std::uintptr_t at) : at_(at) {}
  [[nodiscard]] std::uintptr_t at() const { return at_; }

  void bytes(std::initializer_list<std::uint8_t> list) {
    for (const std::uint8_t b : list) *pointer(at_++) = b;
  }
  template <typename T>
  void value(T v) {
    std::memcpy(pointer(at_), &v, sizeof v);
    at_ += sizeof v;
  }
  // mov $v, %r11
  void r11(std::uint64_t v) {
    bytes({0x49, 0xbb});
    value(v);
  }
  void jump(std::uintptr_t to) {
    put_jump(at_, to);
    at_ += kJmpBytes;
  }
  // jmp to anywhere, by %rcx.
  void far_jump(std::uintptr_t to) {
    bytes({0x48, 0xb9});
    value(to);
    bytes({0xff, 0xe1});
  }
  // A conditional jump whose target is told later.
  using Hole = std::uintptr_t;
  [[nodiscard]] Hole jump_if(Condition c) {
    bytes({0x0f, static_cast<std::uint8_t>(0x80U | static_cast<unsigned>(c))});
    value(std::int32_t{0});
    return at_;
  }
  [[nodiscard]] Hole jump_always() {
    bytes({kJmp});
    value(std::int32_t{0});
    return at_;
  }
  void fill(Hole hole, std::uintptr_t to) {
    const auto distance = static_cast<std::int32_t>(to - hole);
    std::memcpy(pointer(hole - 4), &distance, sizeof distance);
  }
  // cmp displacement(%r11), %argument
  void compare_argument(unsigned argument, std::uint8_t displacement) {
    const std::uint8_t reg = kRegister[argument];
    bytes({static_cast<std::uint8_t>(0x49U | (reg >= 8 ? 4U : 0U)), 0x3b,
           static_cast<std::uint8_t>(0x40U | ((reg & 7U) << 3U) | (kR11 & 7U)), displacement});
  }
  // cmp %argument, %rax
  void compare_result(unsigned argument) {
    const std::uint8_t reg = kRegister[argument];
    bytes({static_cast<std::uint8_t>(0x48U | (reg >= 8 ? 4U : 0U)), 0x39,
           static_cast<std::uint8_t>(0xc0U | ((reg & 7U) << 3U))});
  }
  // Instructions from [begin, end), which do here what they do there. False: they cannot.
  [[nodiscard]] bool move(std::uintptr_t begin, std::uintptr_t end) {
    while (begin < end) {
      const Instruction i = decode({pointer(begin), end - begin});
      if (!i.is_known() || !move_one(begin, i)) return false;
      begin += i.length;
    }
    return true;
  }

 private:
  bool move_one(std::uintptr_t from, const Instruction& i) {
    const std::uint8_t* const code = pointer(from);
    if (i.distance_bytes == 0) {
      std::memcpy(pointer(at_), code, i.length);
      at_ += i.length;
      return true;
    }
    std::int32_t distance = static_cast<std::int8_t>(code[i.distance_at]);
    if (i.distance_bytes == 4) std::memcpy(&distance, code + i.distance_at, sizeof distance);
    const std::uintptr_t target =
        from + i.length + static_cast<std::uintptr_t>(static_cast<std::intptr_t>(distance));
    if (!is_near(at_, target)) return false;
    if (i.distance_bytes == 1) {  // a short conditional jump becomes a long one
      fill(jump_if(static_cast<Condition>(code[0] & 0xfU)), target);
      return true;
    }
    const std::uintptr_t start = at_;
    std::memcpy(pointer(at_), code, i.length);
    at_ += i.length;
    const auto moved = static_cast<std::int32_t>(target - at_);
    std::memcpy(pointer(start + i.distance_at), &moved, sizeof moved);
    return true;
  }

  std::uintptr_t at_;
};

namespace {

using Condition = Assembler::Condition;
constexpr std::uint8_t kLow = 0;
constexpr std::uint8_t kEnd = 8;

void enter(Assembler& a, const SiteInfo* info, void (*entry)()) {
  a.r11(reinterpret_cast<std::uint64_t>(info));
  a.far_jump(reinterpret_cast<std::uintptr_t>(entry));
}

std::uint64_t bounds_address() { return reinterpret_cast<std::uint64_t>(&mmu::managed_bounds); }

// Goes on behind what is emitted here if no pointer can be managed; the holes lead to the entry.
unsigned compare_pointers(Assembler& a, std::uint8_t pointers, Assembler::Hole* to_entry) {
  unsigned holes = 0;
  a.r11(bounds_address());
  for (unsigned k = 0; k < 6; ++k) {
    if ((pointers >> k & 1U) == 0) continue;
    a.compare_argument(k, kLow);
    const Assembler::Hole below = a.jump_if(Condition::kBelow);
    a.compare_argument(k, kEnd);
    to_entry[holes++] = a.jump_if(Condition::kBelow);
    a.fill(below, a.at());
  }
  return holes;
}

bool emit_front(Assembler& a, const Site& site, const Plan& plan, const SiteInfo* info) {
  if (!a.move(site.front, site.call)) return false;
  if (plan.is_always) {
    enter(a, info, &buoy_gate_enter_front);
    return true;
  }
  Assembler::Hole holes[6];
  const unsigned n = compare_pointers(a, plan.pointers, holes);
  a.jump(site.call);
  for (unsigned k = 0; k < n; ++k) a.fill(holes[k], a.at());
  enter(a, info, &buoy_gate_enter_front);
  return true;
}

// Leads to the moved instructions, at `info.resume`, unless the result is for the entry.
void emit_check_behind(Assembler& a, const Plan& plan, const SiteInfo* info,
                       std::uintptr_t* resume) {
  constexpr std::uint8_t kMinusEfault = 0xf2;
  a.bytes({0x48, 0x83, 0xf8, kMinusEfault});  // cmp $-14, %rax
  const Assembler::Hole is_fault = a.jump_if(Condition::kEqual);
  Assembler::Hole to_resume[5];
  unsigned holes = 0;
  if (plan.transfer != Transfer::Kind::kNone) {
    a.bytes({0x48, 0x85, 0xc0});  // test %rax, %rax
    to_resume[holes++] = a.jump_if(Condition::kEqual);
  }
  if (plan.transfer == Transfer::Kind::kVector) {
    a.bytes({0x48, 0x3d});  // cmp $-4096, %rax
    a.value(std::int32_t{-4096});
    to_resume[holes++] = a.jump_if(Condition::kNotBelow);
  } else if (plan.transfer == Transfer::Kind::kPlain) {
    a.compare_result(Transfer::kLength);
    to_resume[holes++] = a.jump_if(Condition::kNotBelow);
    a.r11(bounds_address());
    a.compare_argument(Transfer::kBuffer, kLow);
    to_resume[holes++] = a.jump_if(Condition::kBelow);
    a.compare_argument(Transfer::kBuffer, kEnd);
    to_resume[holes++] = a.jump_if(Condition::kNotBelow);
  } else {
    to_resume[holes++] = a.jump_always();
  }
  a.fill(is_fault, a.at());
  enter(a, info, &buoy_gate_enter_behind);
  *resume = a.at();
  for (unsigned k = 0; k < holes; ++k) a.fill(to_resume[k], *resume);
}

void fill_with_traps(std::uintptr_t begin, std::uintptr_t end) {
  std::memset(pointer(begin), kTrap, end - begin);
}

}  // namespace

Result<StubArea> StubArea::create(CodeRange near, std::size_t sites) {
  const ByteSize bytes = PageCount::covering(sites * kUsualStubBytes + kMostStubBytes).bytes();
  constexpr std::uintptr_t kStep = std::uintptr_t{1} << 20;
  constexpr std::uintptr_t kReach = std::uintptr_t{1} << 31;
  constexpr std::uintptr_t kLowest = std::uintptr_t{1} << 16;
  for (std::uintptr_t away = kStep; away + near.bytes() + bytes + kStep < kReach; away += kStep) {
    for (const bool is_up : {true, false}) {
      const std::uintptr_t edge = is_up ? near.end : near.begin;
      if (!is_up && edge < away + bytes + kLowest) continue;
      const std::uintptr_t at = (is_up ? edge + away : edge - away - bytes) & ~(kPageSize - 1);
      const long got = sys::call(SYS_mmap, static_cast<long>(at), static_cast<long>(bytes),
                                 PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      if (got == static_cast<long>(at)) {
        StubArea area;
        area.begin_ = area.at_ = at;
        area.end_ = at + bytes;
        return area;
      }
      if (got == -ENOMEM) return Error{ENOMEM};
    }
  }
  return Error{ENOMEM};
}

bool StubArea::patch(const Site& site, const Plan& plan) {
  if (end_ - at_ < kMostStubBytes) return false;
  auto* const info = reinterpret_cast<SiteInfo*>(at_);  // NOLINT(performance-no-int-to-ptr)
  Assembler a(at_ + sizeof(SiteInfo));
  std::uintptr_t front = 0;
  std::uintptr_t behind = 0;
  std::uintptr_t resume = site.behind();
  if (plan.behind || plan.is_whole) {
    behind = a.at();
    if (plan.is_whole) {
      enter(a, info, &buoy_gate_enter_front);
      resume = a.at();
    } else {
      emit_check_behind(a, plan, info, &resume);
    }
    if (!a.move(site.behind(), site.behind_end)) return false;
    a.jump(site.behind_end);
  }
  if (plan.in_front) {
    front = a.at();
    if (!emit_front(a, site, plan, info)) return false;
  }
  *info = {site.call, resume, site.number, !plan.is_whole, plan.behind};
  constexpr std::uintptr_t kAlignment = 16;
  at_ = (a.at() + kAlignment - 1) & ~(kAlignment - 1);
  if (plan.is_whole) {
    fill_with_traps(site.call, site.behind_end);
    put_jump(site.call, behind);
    return true;
  }
  if (plan.behind) {
    fill_with_traps(site.behind(), site.behind_end);
    put_jump(site.behind(), behind);
  }
  if (plan.in_front) {
    fill_with_traps(site.front, site.call);
    put_jump(site.front, front);
  }
  return true;
}

Status StubArea::set_protection(int protection) const {
  const long rc = sys::call(SYS_mprotect, static_cast<long>(begin_),
                            static_cast<long>(end_ - begin_), protection);
  if (rc < 0) return Error{static_cast<int>(-rc)};
  return {};
}

Status StubArea::open() { return set_protection(PROT_READ | PROT_WRITE | PROT_EXEC); }
Status StubArea::seal() { return set_protection(PROT_READ | PROT_EXEC); }

void StubArea::discard() {
  if (begin_ != 0)
    sys::call(SYS_munmap, static_cast<long>(begin_), static_cast<long>(end_ - begin_));
  begin_ = at_ = end_ = 0;
}

}  // namespace buoy::gate
