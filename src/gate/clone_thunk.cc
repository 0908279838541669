#include "gate/clone_thunk.h"

#include <atomic>

asm(R"(
  .pushsection .text,"ax",@progbits
  .globl buoy_clone_thunks
  .hidden buoy_clone_thunks
  .globl buoy_clone_sites
  .hidden buoy_clone_sites
  .balign 16
buoy_clone_thunks:
  .set i, 0
  .rept 16
  .balign 16
  syscall
  jmpq *buoy_clone_sites+8*i(%rip)
  .set i, i+1
  .endr
  .popsection
  .pushsection .bss
  .balign 8
buoy_clone_sites: .skip 8*16
  .popsection
)");
extern "C" {
extern const char buoy_clone_thunks[] __attribute__((visibility("hidden")));
extern std::atomic<std::uintptr_t> buoy_clone_sites[] __attribute__((visibility("hidden")));
}

namespace buoy::gate {

const char* clone_thunk_for(std::uintptr_t site) {
  constexpr int kThunks = 16;
  constexpr int kThunkBytes = 16;
  for (int i = 0; i < kThunks; ++i) {
    std::uintptr_t seen = 0;
    if (buoy_clone_sites[i].compare_exchange_strong(seen, site) || seen == site)
      return buoy_clone_thunks + i * kThunkBytes;
  }
  return nullptr;
}

}  // namespace buoy::gate
