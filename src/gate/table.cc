// The table as a whole: the groups of table_*.h put in order by number, at compile time.
//
// An entry says what the kernel does to a call's memory as far as that can be said ahead of the call:
//
//   class     what is lost if it meets a page that is not there. Found by trying it on Linux 6.18
//             with an operand in a page that could not be read, or not be written; where that could
//             not be tried, by reading the kernel's source; where neither told, kLossy.
//   operands  one for each pointer argument: which way the bytes go, how many they may be, and how
//             many of them are new afterwards. A null pointer is no operand.
//
// What a call changes beyond memory, what lies behind pointers within structures, and what the kernel
// does with an address later are not in it. Complete up to Linux 6.18; a call that is newer counts as
// kUnknown until it has a line here.
#include "gate/table.h"

#include <array>

#include "gate/table_files.h"
#include "gate/table_io.h"
#include "gate/table_process.h"
#include "gate/table_system.h"

namespace buoy::gate {
namespace {

constexpr long kEnd = 470;
// Numbers that x86-64 leaves out: those from here up to where all architectures count alike.
constexpr long kGapBegin = 337, kGapEnd = 424;

constexpr Entry kNobody{.name = "unknown"};

struct Index {
  std::array<Entry, kEnd> entries{};
  bool twice = false;  // two lines for one number

  template <std::size_t kCount>
  constexpr void add(const Entry (&group)[kCount]) {
    for (const Entry& e : group) {
      Entry& place = entries[static_cast<std::size_t>(e.number)];
      twice |= place.number >= 0;
      place = e;
    }
  }
};

constexpr Index build_index() {
  Index index;
  index.entries.fill(kNobody);
  index.add(build::kPathCalls);
  index.add(build::kAttributeCalls);
  index.add(build::kMountCalls);
  index.add(build::kTransferCalls);
  index.add(build::kDescriptorCalls);
  index.add(build::kWaitingCalls);
  index.add(build::kSocketCalls);
  index.add(build::kAsynchronousCalls);
  index.add(build::kProcessCalls);
  index.add(build::kIdentityCalls);
  index.add(build::kSignalCalls);
  index.add(build::kTimeCalls);
  index.add(build::kSchedulingCalls);
  index.add(build::kMemoryCalls);
  index.add(build::kObjectCalls);
  index.add(build::kSecurityCalls);
  index.add(build::kSystemCalls);
  index.add(build::kGoneCalls);
  return index;
}

constexpr Index kIndex = build_index();

constexpr bool complete() {
  for (long n = 0; n < kEnd; ++n) {
    const bool known = kIndex.entries[static_cast<std::size_t>(n)].number == n;
    if (known == (n >= kGapBegin && n < kGapEnd)) return false;
  }
  return true;
}
static_assert(!kIndex.twice, "a system call has two entries");
static_assert(complete(), "a system call has no entry");

}  // namespace

long table_end() { return kEnd; }

const Entry& entry_of(long number) {
  if (number < 0 || number >= kEnd) return kNobody;
  return kIndex.entries[static_cast<std::size_t>(number)];
}

}  // namespace buoy::gate
