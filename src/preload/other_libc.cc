#include "preload/other_libc.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/sys.h"
#include "base/units.h"

namespace buoy::preload {
namespace {

// jmpq *0(%rip), and the address behind it.
struct __attribute__((packed)) Jump {
  unsigned char code[6] = {0xff, 0x25, 0, 0, 0, 0};
  pid_t (*target)() = nullptr;
};

}  // namespace

int redirect(void* entry, std::size_t size, pid_t (*ours)()) {
  Jump jump;
  jump.target = ours;
  if (size < sizeof jump) return EOPNOTSUPP;
  if (std::memcmp(entry, &jump, sizeof jump) == 0) return 0;
  const auto at = reinterpret_cast<std::uintptr_t>(entry);
  const std::uintptr_t begin = at / kPageSize * kPageSize;
  const auto length = static_cast<long>(PageCount::covering(at + sizeof jump - begin).bytes());
  const auto protect = [&](int prot) {
    return sys::call(SYS_mprotect, static_cast<long>(begin), length, prot);
  };
  if (const long refused = protect(PROT_READ | PROT_WRITE | PROT_EXEC); refused != 0)
    return static_cast<int>(-refused);
  std::memcpy(entry, &jump, sizeof jump);
  (void)protect(PROT_READ | PROT_EXEC);
  return 0;
}

}  // namespace buoy::preload
