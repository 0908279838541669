// What `buoy run` tells the preload library, and how: environment variables, so that programs that
// the program executes find them too. `buoy run` validates and normalises; the library only reads.
//
//   LD_PRELOAD          libbuoy_preload.so first, whatever else was there after it
//   BUOY_BUDGET         bytes, decimal
//   BUOY_BUDGET_SCOPE   process | tree             (absent: process)
//   BUOY_BACKING_FILE   none | auto | an absolute path, of a file that is made and unlinked at once
//   BUOY_DISK_LEDGER    the bound that the backing files of a run share (swap/disk_ledger.h)
//   BUOY_ENCRYPTION     none | chacha20, of the backing file        (absent: none)
//   BUOY_COMPRESSED     the most bytes of compressed memory, decimal   (absent: no such limit)
//   BUOY_COMPRESSOR     lz4 | zstd | none
//   BUOY_FAULTS         auto | signal | thread      (auto: signal, with the gate, where that can be)
//   BUOY_ON_EXHAUSTED   sigbus | wait | enomem
//   BUOY_UNMANAGED_EXEC refuse | allow             (absent: refuse)
//   BUOY_SHOW_BUDGET    yes | no                   (absent: yes)
//   BUOY_STATS          - | an absolute path        (absent: no statistics)
//   BUOY_TRACE          an absolute path            (absent: no trace)
//   BUOY_LAZY_FREE      0: what malloc lets go of is discarded at once (to compare; not set by run)
//   BUOY_DEVICE         /dev/userfaultfd, opened while the rights were there (mmu/uffd_source.h)
//   BUOY_CONTROL        the block of memory that the processes of a run share (control/block.h)
//   BUOY_MALLOC_CONF    settings for our jemalloc on top of ours (to try things; not set by run)
//   BUOY_FIRST_PID      the process that uses these paths as they are; others append .PID
#pragma once

namespace buoy::preload::environment {

inline constexpr const char* kBudget = "BUOY_BUDGET";
inline constexpr const char* kBudgetScope = "BUOY_BUDGET_SCOPE";
inline constexpr const char* kBackingFile = "BUOY_BACKING_FILE";
inline constexpr const char* kDiskLedger = "BUOY_DISK_LEDGER";
inline constexpr const char* kEncryption = "BUOY_ENCRYPTION";
inline constexpr const char* kCompressed = "BUOY_COMPRESSED";
inline constexpr const char* kCompressor = "BUOY_COMPRESSOR";
inline constexpr const char* kFaults = "BUOY_FAULTS";
inline constexpr const char* kOnExhausted = "BUOY_ON_EXHAUSTED";
inline constexpr const char* kUnmanagedExec = "BUOY_UNMANAGED_EXEC";
inline constexpr const char* kShowBudget = "BUOY_SHOW_BUDGET";
inline constexpr const char* kStats = "BUOY_STATS";
inline constexpr const char* kTrace = "BUOY_TRACE";
inline constexpr const char* kLazyFree = "BUOY_LAZY_FREE";
inline constexpr const char* kDevice = "BUOY_DEVICE";
inline constexpr const char* kControl = "BUOY_CONTROL";
inline constexpr const char* kMallocConf = "BUOY_MALLOC_CONF";
inline constexpr const char* kFirstPid = "BUOY_FIRST_PID";

// What a program is to find that a program in a budget executes.
inline constexpr const char* kSetByRun[] = {kBudget,      kBudgetScope,   kBackingFile, kDiskLedger,
                                            kEncryption,  kCompressed,    kCompressor,  kFaults,
                                            kOnExhausted, kUnmanagedExec, kShowBudget,  kStats,
                                            kTrace,       kDevice,        kControl,     kFirstPid};

}  // namespace buoy::preload::environment
