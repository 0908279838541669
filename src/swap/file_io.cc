#include "swap/file_io.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/descriptors.h"
#include "base/sys.h"

namespace buoy::swap {
namespace {

constexpr int kMode = 0600;
// What marks a file as an earlier Buoy's, in its first bytes.
constexpr std::string_view kSignature = "BUOY backing file 1\n";

Error error_of(long rc) { return Error{static_cast<int>(-rc)}; }

long retry(long nr, long a, long b = 0, long c = 0, long d = 0) {
  long rc = 0;
  do {
    rc = sys::call(nr, a, b, c, d);
  } while (rc == -EINTR);
  return rc;
}

bool lives_in_memory(int fd) {
  struct statfs fs {};
  if (sys::call(SYS_fstatfs, fd, sys::ptr(&fs)) != 0) return false;
  const auto type = static_cast<unsigned long>(fs.f_type);
  return type == TMPFS_MAGIC || type == RAMFS_MAGIC || type == HUGETLBFS_MAGIC;
}

// Not every file system has O_DIRECT, O_TMPFILE or both.
long open_direct(const char* path, int flags) {
  const long fd = retry(SYS_openat, AT_FDCWD, sys::ptr(path), flags | O_DIRECT, kMode);
  return fd == -EINVAL ? retry(SYS_openat, AT_FDCWD, sys::ptr(path), flags, kMode) : fd;
}

Result<OpenFile> identified(int fd) {
  struct stat st {};
  const long rc = sys::call(SYS_fstat, fd, sys::ptr(&st));
  if (rc != 0) return error_of(rc);
  return OpenFile{fd, st.st_dev, st.st_ino, {}};
}

Result<OpenFile> accepted_or_closed(int fd) {
  struct stat st {};
  int refusal = 0;
  if (sys::call(SYS_fstat, fd, sys::ptr(&st)) != 0 || !S_ISREG(st.st_mode))
    refusal = EINVAL;
  else if (lives_in_memory(fd))
    refusal = EOPNOTSUPP;
  if (refusal == 0) return identified(descriptors::adopt(fd));
  sys::call(SYS_close, fd);
  return Error{refusal};
}

// The classic way, for file systems without O_TMPFILE.
long create_and_unlink(const char* directory) {
  char path[512];
  const std::size_t length = std::strlen(directory);
  constexpr std::string_view kStem = "/.buoy-";
  if (length + kStem.size() + 17 > sizeof path) return -ENAMETOOLONG;
  std::memcpy(path, directory, length);
  std::memcpy(path + length, kStem.data(), kStem.size());
  for (unsigned attempt = 0; attempt < 16; ++attempt) {
    std::uint64_t name = 0;
    if (sys::call(SYS_getrandom, sys::ptr(&name), sizeof name, 0) != sizeof name)
      name = sys::monotonic_ns();
    char* at = path + length + kStem.size();
    for (unsigned i = 0; i < 16; ++i, name >>= 4) *at++ = "0123456789abcdef"[name & 15U];
    *at = '\0';
    const long fd = open_direct(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW);
    if (fd == -EEXIST) continue;
    if (fd >= 0) sys::call(SYS_unlink, sys::ptr(path));
    return fd;
  }
  return -EEXIST;
}

Status claim_existing(int fd) {
  struct stat st {};
  if (const long rc = sys::call(SYS_fstat, fd, sys::ptr(&st)); rc != 0) return error_of(rc);
  if (st.st_uid != static_cast<uid_t>(sys::call(SYS_geteuid)) || st.st_nlink != 1)
    return Error{EPERM};
  // Shared with fork children, who may use it; not with another run.
  if (sys::call(SYS_flock, fd, LOCK_EX | LOCK_NB) != 0) return Error{EBUSY};
  alignas(kPageSize) std::byte page[kPageSize];
  if (st.st_size != 0) {
    const long got = retry(SYS_pread64, fd, sys::ptr(page), kPageSize, 0);
    if (got < static_cast<long>(kSignature.size()) ||
        std::memcmp(page, kSignature.data(), kSignature.size()) != 0)
      return Error{EEXIST};
  }
  sys::call(SYS_fchmod, fd, kMode);
  if (const long rc = sys::call(SYS_ftruncate, fd, 0); rc != 0) return error_of(rc);
  std::memset(page, 0, sizeof page);
  std::memcpy(page, kSignature.data(), kSignature.size());
  const long put = retry(SYS_pwrite64, fd, sys::ptr(page), kPageSize, 0);
  if (put != static_cast<long>(kPageSize)) return put < 0 ? error_of(put) : Error{ENOSPC};
  return {};
}

}  // namespace

bool OpenFile::is_intact() const {
  const auto now = identified(fd);
  return now.ok() && now->device == device && now->inode == inode;
}

Result<OpenFile> open_unlinked(const char* directory) {
  const descriptors::RoomForOne room;
  long fd = open_direct(directory, O_RDWR | O_TMPFILE | O_CLOEXEC);
  if (fd == -EOPNOTSUPP || fd == -EISDIR || fd == -EINVAL) fd = create_and_unlink(directory);
  if (fd < 0) return error_of(fd);
  return accepted_or_closed(static_cast<int>(fd));
}

Result<OpenFile> open_named(const char* path, bool* has_name) {
  *has_name = false;
  constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
  const long made = open_direct(path, kFlags | O_CREAT | O_EXCL);
  if (made >= 0) {
    sys::call(SYS_unlink, sys::ptr(path));
    return accepted_or_closed(static_cast<int>(made));
  }
  if (made != -EEXIST) return error_of(made);
  const long found = open_direct(path, kFlags);
  if (found < 0) return error_of(found);
  auto file = accepted_or_closed(static_cast<int>(found));
  if (!file) return file;
  if (const Status s = claim_existing(file->fd); !s) {
    descriptors::release(file->fd);
    return s.error();
  }
  *has_name = true;
  return file;
}

void close_file(OpenFile& file, bool empty_it) {
  if (!file.is_open()) return;
  // Not another's file: the program may have put one under our number.
  if (empty_it && file.is_intact()) sys::call(SYS_ftruncate, file.fd, 0);
  descriptors::release(file.fd);
  file.fd = -1;
  file.share.close();
}

ByteSize most_file_bytes() {
  struct rlimit limit {};
  if (sys::call(SYS_prlimit64, 0, RLIMIT_FSIZE, 0, sys::ptr(&limit)) != 0) return UINT64_MAX;
  return limit.rlim_cur;  // RLIM_INFINITY is the largest of all
}

namespace {
ByteSize available(long rc, const struct statfs& fs) {
  return rc == 0 ? ByteSize{fs.f_bavail} * static_cast<ByteSize>(fs.f_bsize) : 0;
}
}  // namespace

ByteSize disk_space_left(const OpenFile& file) {
  struct statfs fs {};
  return available(sys::call(SYS_fstatfs, file.fd, sys::ptr(&fs)), fs);
}

ByteSize disk_space_left(const char* directory) {
  struct statfs fs {};
  return available(sys::call(SYS_statfs, sys::ptr(directory), sys::ptr(&fs)), fs);
}

namespace {
bool punch_hole(const OpenFile& file, std::uint64_t offset, std::uint64_t bytes) {
  return retry(SYS_fallocate, file.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
               static_cast<long>(offset), static_cast<long>(bytes)) == 0;
}

Status allocate_on_disk(const OpenFile& file, std::uint64_t offset, std::uint64_t bytes) {
  const long rc =
      retry(SYS_fallocate, file.fd, 0, static_cast<long>(offset), static_cast<long>(bytes));
  if (rc == 0) return {};
  if (rc != -EOPNOTSUPP && rc != -ENOSYS) return error_of(rc);
  // No fallocate here: what has been written once has its place.
  alignas(kPageSize) static const std::byte kZeros[kPageSize] = {};
  for (std::uint64_t at = 0; at < bytes; at += kPageSize)
    if (const Status s = write_all(file, kZeros, kPageSize, offset + at); !s) return s;
  return {};
}
}  // namespace

Status allocate_space(const OpenFile& file, std::uint64_t offset, std::uint64_t bytes) {
  // Beyond this limit the kernel would send SIGXFSZ, whose default is death.
  if (offset + bytes > most_file_bytes()) return Error{EFBIG};
  const bool is_bounded = file.share.is_open();
  if (is_bounded && !file.share.book(booked_bytes(bytes))) return Error{kAtBound};
  const Status s = allocate_on_disk(file, offset, bytes);
  if (s) return s;
  // A part of it may be there.
  (void)punch_hole(file, offset, bytes);
  if (is_bounded) file.share.unbook(booked_bytes(bytes));
  return s;
}

bool give_back_space(const OpenFile& file, std::uint64_t offset, std::uint64_t bytes) {
  if (!punch_hole(file, offset, bytes)) return false;
  if (file.share.is_open()) file.share.unbook(booked_bytes(bytes));
  return true;
}

Status write_all(const OpenFile& file, const std::byte* data, std::size_t bytes,
                 std::uint64_t offset) {
  while (bytes > 0) {
    const long put = retry(SYS_pwrite64, file.fd, sys::ptr(data), static_cast<long>(bytes),
                           static_cast<long>(offset));
    if (put < 0) return error_of(put);
    if (put == 0) return Error{ENOSPC};
    data += put;
    bytes -= static_cast<std::size_t>(put);
    offset += static_cast<std::uint64_t>(put);
  }
  return {};
}

Status read_all(const OpenFile& file, std::byte* data, std::size_t bytes, std::uint64_t offset) {
  while (bytes > 0) {
    const long got = retry(SYS_pread64, file.fd, sys::ptr(data), static_cast<long>(bytes),
                           static_cast<long>(offset));
    if (got < 0) return error_of(got);
    if (got == 0) return Error{EIO};
    data += got;
    bytes -= static_cast<std::size_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
  return {};
}

Result<LifeLine> open_life_line() {
  const descriptors::RoomForOne room;
  int fds[2];
  if (const long rc = sys::call(SYS_pipe2, sys::ptr(fds), O_CLOEXEC | O_NONBLOCK); rc != 0)
    return error_of(rc);
  return LifeLine{descriptors::adopt(fds[0]), descriptors::adopt(fds[1])};
}

bool is_cut(int read_fd) {
  struct pollfd p {
    read_fd, 0, 0
  };
  struct timespec now {};
  return sys::call(SYS_ppoll, sys::ptr(&p), 1, sys::ptr(&now), 0, 0) == 1 &&
         (p.revents & POLLHUP) != 0;
}

void close_fd(int* fd) {
  if (*fd >= 0) descriptors::release(*fd);
  *fd = -1;
}

}  // namespace buoy::swap
