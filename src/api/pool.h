// Pool: one budget and everything under it, put together on real memory. What the C API, the C++
// layer and the preload library stand on.
//
// The range operations follow the kernel's semantics (partial effects, ENOMEM at holes); ranges
// are byte addresses, page-aligned, lengths rounded up. Thread-safe. Nothing here allocates from
// malloc; everything may be called before libc is set up.
#pragma once

#include "base/result.h"
#include "frames/arena.h"
#include "mmu/uffd_mmu.h"
#include "swap/swap_stack.h"
#include "vm/vm.h"

namespace buoy {

enum class Faults : std::uint8_t { kAuto, kSignal, kThread };
using MapFlags = RegionFlags;

struct PoolOptions {
  ByteSize budget = 0;
  const char* backing_file = nullptr;
  swap::CompressorKind compressor = swap::CompressorKind::kLz4;
  Faults faults = Faults::kAuto;
  OnExhausted on_exhausted = OnExhausted::kSigbus;
  // True for the library, whose users pin what devices write to; false for unmodified programs.
  bool pins_are_known = true;
};

class Pool {
 public:
  // EINVAL: budget below the minimum; otherwise the errno of what is missing.
  [[nodiscard]] static Result<Pool*> create(const PoolOptions& options);
  // EBUSY while anything is mapped.
  [[nodiscard]] static Status destroy(Pool* pool);

  [[nodiscard]] Vm& vm() { return vm_; }
  [[nodiscard]] Context& context() { return context_; }
  [[nodiscard]] frames::Arena& arena() { return *arena_; }

  // ---- Mappings -------------------------------------------------------------------------------
  Result<void*> map(ByteSize length, MapFlags flags, mmu::Access access, void* hint);
  [[nodiscard]] bool manages(const void* address) const {
    return vm_.manages(Vpn::containing(address));
  }
  Status unmap(void* address, ByteSize length);
  Status map_over(void* address, ByteSize length, mmu::Access access);
  Status carve_out(void* address, ByteSize length);
  Result<void*> remap(void* address, ByteSize old_length, ByteSize new_length, bool may_move,
                      void* fixed_target);
  Status protect(void* address, ByteSize length, mmu::Access access);
  // One of the kernel's MADV_*: 0 or -errno. Advice that means nothing here is accepted.
  int advise(void* address, ByteSize length, int madvise_advice);
  int lock(void* address, ByteSize length, int mlock2_flags);
  int unlock(void* address, ByteSize length);
  // As mincore(2): bit 0 of each byte, 1 if resident.
  int residency(void* address, ByteSize length, unsigned char* vec);

  // ---- The whole ------------------------------------------------------------------------------
  Status resize(ByteSize budget);
  ByteSize reclaim(ByteSize bytes);
  // A counter or gauge by its name. False: no such name. Async-signal-safe.
  [[nodiscard]] bool stat(std::string_view name, std::uint64_t* value) const;
  // All of them, one flat JSON object on one line.
  void write_stats(int fd) const;
  void validate();

  // ---- Fork: no operation is half done between before and after -------------------------------
  void before_fork() { vm_.before_fork(); }
  void after_fork_in_parent() { vm_.after_fork_in_parent(); }
  Status after_fork_in_child();

  explicit Pool(const PoolOptions& options)
      : options_(options), vm_(context_, options.on_exhausted) {}

 private:
  [[nodiscard]] Status open();
  void close();
  [[nodiscard]] ByteSize metadata_bytes() const;

  PoolOptions options_;
  Context context_;
  Vm vm_;
  mmu::UffdMmu* mmu_ = nullptr;
  frames::Arena* arena_ = nullptr;
  swap::SwapStack* swap_ = nullptr;
};

}  // namespace buoy
