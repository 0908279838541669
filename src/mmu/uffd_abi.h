// What the kernel's userfaultfd interface has and older system headers lack.
//
// Values are the kernel's ABI (include/uapi/linux/userfaultfd.h); names are ours, so that newer
// headers, which define the same things as macros, do not clash. Nothing here calls anything.
#pragma once

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdint>

namespace buoy::mmu::abi {

// Features that UFFDIO_API reports and enables.
inline constexpr std::uint64_t kFeatureProtect = std::uint64_t{1} << 0;        // 5.7
inline constexpr std::uint64_t kFeatureSigbus = std::uint64_t{1} << 7;         // 4.14
inline constexpr std::uint64_t kFeatureThreadId = std::uint64_t{1} << 8;       // 4.14
inline constexpr std::uint64_t kFeatureExactAddress = std::uint64_t{1} << 11;  // 5.18
inline constexpr std::uint64_t kFeaturePoison = std::uint64_t{1} << 14;        // 6.6
inline constexpr std::uint64_t kFeatureMove = std::uint64_t{1} << 16;          // 6.8

struct Move {
  std::uint64_t dst;
  std::uint64_t src;
  std::uint64_t len;
  std::uint64_t mode;
  std::int64_t move;  // bytes moved, or -errno if none
};
inline constexpr std::uint64_t kMoveDontWake = std::uint64_t{1} << 0;
inline constexpr std::uint64_t kMoveAllowHoles = std::uint64_t{1} << 1;
inline constexpr unsigned long kIoctlMove = _IOWR(UFFDIO, 0x05, Move);

struct Poison {
  uffdio_range range;
  std::uint64_t mode;
  std::int64_t updated;
};
inline constexpr unsigned long kIoctlPoison = _IOWR(UFFDIO, 0x08, Poison);

// /dev/userfaultfd: a new userfaultfd, its flags as the argument (6.1).
inline constexpr unsigned long kIoctlNew = _IO(0xAA, 0x00);
// userfaultfd(2): only faults of user mode are handled; no rights needed (5.11).
inline constexpr int kUserModeOnly = 1;

static_assert(sizeof(Move) == 40 && sizeof(Poison) == 32);

// madvise(2) and mremap(2).
inline constexpr int kAdviceDontNeedLocked = 24;  // 5.18
inline constexpr int kAdvicePopulateWrite = 23;   // 5.14
inline constexpr int kAdvicePopulateRead = 22;    // 5.14
inline constexpr long kRemapDontUnmap = 4;        // 5.7

// What a SIGBUS frame on x86-64 tells about a page fault (REG_ERR).
inline constexpr std::uint64_t kErrorPresent = 1;
inline constexpr std::uint64_t kErrorStore = 2;

}  // namespace buoy::mmu::abi
