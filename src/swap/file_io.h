// The system calls of the backing file, each with one meaning; nothing else in swap makes any but
// the ring. All are raw: errno and interposed libc symbols are left alone.
//
// Transfers are aligned to 4 KiB and pass by the page cache (O_DIRECT) where the file system can:
// cold pages must not come back as the kernel's cached copies of our file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "base/units.h"
#include "swap/disk_ledger.h"

namespace buoy::swap {

// An open file that is ours, and how we know it again: a program that closes descriptors it does
// not own may leave its own file under our number.
struct OpenFile {
  int fd = -1;
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  DiskShare share{};  // open: what is allocated is booked there first

  [[nodiscard]] bool is_open() const { return fd >= 0; }
  // Is the descriptor still this file?
  [[nodiscard]] bool is_intact() const;
};

// A file without a name in `directory`, 0600. EOPNOTSUPP on a file system that lives in memory;
// else the errno of open.
[[nodiscard]] Result<OpenFile> open_unlinked(const char* directory);
// The file of that name, 0600: created, and its name removed at once, so that nothing stays behind
// whatever happens; or an existing regular file of this user that is empty or that an earlier
// Buoy left, emptied and kept. EOPNOTSUPP: lives in memory. EEXIST: there is something else in it.
// EBUSY: another Buoy uses it. EINVAL: not a regular file. EPERM: another user's, or has links.
// *has_name: the file existed, and keeps its name.
[[nodiscard]] Result<OpenFile> open_named(const char* path, bool* has_name);
void close_file(OpenFile& file, bool empty_it);

// Disk space for [offset, offset + bytes), found now and not when it is written. ENOSPC, EFBIG,
// EDQUOT: there is none; kAtBound: not for us. Never raises SIGXFSZ.
[[nodiscard]] Status allocate_space(const OpenFile& file, std::uint64_t offset,
                                    std::uint64_t bytes);
// What the file system has left for us, and how long a file may become (RLIMIT_FSIZE). 0: it does not say.
[[nodiscard]] ByteSize disk_space_left(const OpenFile& file);
[[nodiscard]] ByteSize disk_space_left(const char* directory);
[[nodiscard]] ByteSize most_file_bytes();
// What is booked for so much: an extent's block in the file system's tree comes to each piece.
[[nodiscard]] constexpr ByteSize booked_bytes(std::uint64_t bytes) {
  constexpr ByteSize kPiece = ByteSize{256} << 10;
  return bytes + (bytes + kPiece - 1) / kPiece * kPageSize;
}
// False: this file system keeps what a file has.
[[nodiscard]] bool give_back_space(const OpenFile& file, std::uint64_t offset, std::uint64_t bytes);

// All of it, or an errno (EIO when the file ends early). `data` and `offset` aligned to 4 KiB.
[[nodiscard]] Status write_all(const OpenFile& file, const std::byte* data, std::size_t bytes,
                               std::uint64_t offset);
[[nodiscard]] Status read_all(const OpenFile& file, std::byte* data, std::size_t bytes,
                              std::uint64_t offset);

// A pipe whose reading end learns when every process that holds the writing end is gone.
struct LifeLine {
  int read_fd = -1;
  int write_fd = -1;
};
[[nodiscard]] Result<LifeLine> open_life_line();
[[nodiscard]] bool is_cut(int read_fd);
void close_fd(int* fd);

}  // namespace buoy::swap
