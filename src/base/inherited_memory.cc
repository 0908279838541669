#include "base/inherited_memory.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <climits>
#include <cstdint>

#include "base/descriptors.h"
#include "base/digits.h"
#include "base/sys.h"

namespace buoy {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

// The inode if the descriptor is a file of this size, else 0.
std::uint64_t identity(int fd, std::size_t size) {
  struct stat st {};
  if (sys::call(SYS_fstat, fd, sys::ptr(&st)) != 0 || !S_ISREG(st.st_mode)) return 0;
  return st.st_size == static_cast<off_t>(size) ? st.st_ino : 0;
}

std::byte* map(int fd, std::size_t size) {
  const long at =
      sys::call(SYS_mmap, 0, static_cast<long>(size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return at < 0 ? nullptr : reinterpret_cast<std::byte*>(at);
}

}  // namespace

Result<InheritedMemory> InheritedMemory::create(const char* name, std::size_t size,
                                                char (&text)[kTextBytes]) {
  const long made = sys::call(SYS_memfd_create, sys::ptr(name), MFD_ALLOW_SEALING);
  if (made < 0) return Error{static_cast<int>(-made)};
  const int fd = descriptors::adopt(static_cast<int>(made), descriptors::OnExec::kKept);
  long error = sys::call(SYS_ftruncate, fd, static_cast<long>(size));
  if (error == 0) error = sys::call(SYS_fcntl, fd, F_ADD_SEALS, kSeals);
  std::byte* const bytes = error == 0 ? map(fd, size) : nullptr;
  if (bytes == nullptr) {
    descriptors::release(fd);
    return Error{error == 0 ? ENOMEM : static_cast<int>(-error)};
  }
  sys::Line line;
  line.number(static_cast<std::uint64_t>(fd)).text(":").number(identity(fd, size));
  const auto word = line.view();
  static_assert(kTextBytes > 2 * 20 + 1);
  word.copy(text, kTextBytes - 1);
  text[word.size()] = '\0';
  return InheritedMemory{bytes, fd};
}

Result<InheritedMemory> InheritedMemory::accept(const char* text, std::size_t size) {
  const std::uint64_t number = parse_digits(&text);
  if (number > INT_MAX || *text++ != ':') return Error{ENOENT};
  const auto fd = static_cast<int>(number);
  const std::uint64_t inode = parse_digits(&text);
  if (*text != '\0' || inode == 0 || identity(fd, size) != inode) return Error{ENOENT};
  std::byte* const bytes = map(fd, size);
  if (bytes == nullptr) return Error{ENOMEM};
  descriptors::adopt_in_place(fd);
  return InheritedMemory{bytes, fd};
}

void InheritedMemory::unmap(void* bytes, std::size_t size) {
  sys::call(SYS_munmap, sys::ptr(bytes), static_cast<long>(size));
}

}  // namespace buoy
