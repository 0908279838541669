// The adversary's calls on files, paths and transfers between descriptors.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <set>
#include <string>

#include "gate_places.h"

namespace gate_testing {

class FileCalls {
 public:
  FileCalls(Places& places, const Reference& reference) : p_(places), r_(reference) {
    char name[] = "/tmp/gate_adversary.XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    folder_ = name;
    fd_ = create("data", Reference::kBytes);
    scratch_ = create("scratch", 0);
    target_ = create("target", 0);
    for (int i = 0; i < kEntries; ++i) close(create("entry" + std::to_string(i), 0));
    has_attributes_ = setxattr(path("data").c_str(), "user.gate", "value", 5, 0) == 0;
    CHECK(symlink("where it leads", path("link").c_str()) == 0);
    CHECK(pipe(pipe_) == 0);
    CHECK(fcntl(pipe_[1], F_SETPIPE_SZ, 1 << 20) == 1 << 20);
  }
  ~FileCalls() {
    for (int i = 0; i < kEntries; ++i) unlink(path("entry" + std::to_string(i)).c_str());
    for (const char* name : {"data", "scratch", "target", "link"}) unlink(path(name).c_str());
    rmdir(folder_.c_str());
  }
  FileCalls(const FileCalls&) = delete;
  FileCalls& operator=(const FileCalls&) = delete;

  void reads() {
    const std::size_t n = p_.random().between(1, 65536);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    char* const a = p_.out(n);
    EXPECT(pread(fd_, a, n, static_cast<off_t>(from)) == signed_size(n) && same(a, from, n));
    char* const b = p_.out(n);
    EXPECT(lseek(fd_, static_cast<off_t>(from), SEEK_SET) == signed_size(from));
    EXPECT(read(fd_, b, n) == signed_size(n) && same(b, from, n));
    EXPECT(lseek(fd_, 0, SEEK_CUR) == signed_size(from + n));
    const std::size_t first = p_.random().below(n);
    char* const c = p_.out(first + 1);
    char* const d = p_.out(n - first);
    iovec v[3] = {{c, first}, {nullptr, 0}, {d, n - first}};
    const auto* const vector = reinterpret_cast<iovec*>(p_.in(v, sizeof v));
    EXPECT(preadv(fd_, vector, 3, static_cast<off_t>(from)) == signed_size(n) &&
           same(c, from, first) && same(d, from + first, n - first));
    p_.in(v, sizeof v);
    EXPECT(lseek(fd_, static_cast<off_t>(from), SEEK_SET) == signed_size(from));
    EXPECT(preadv2(fd_, vector, 3, -1, 0) == signed_size(n) && same(c, from, first));
    EXPECT(lseek(fd_, 0, SEEK_CUR) == signed_size(from + n));
    // Past the end: what there is.
    EXPECT(pread(fd_, a, n, signed_size(Reference::kBytes - 1)) == 1);
    EXPECT(pread(fd_, a, n, signed_size(Reference::kBytes)) == 0);
  }

  void writes() {
    const std::size_t n = p_.random().between(1, 65536);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    const std::size_t where = p_.random().below(100000);
    const char* const a = p_.in(r_.at(from), n);
    EXPECT(pwrite(scratch_, a, n, static_cast<off_t>(where)) == signed_size(n));
    EXPECT(holds(scratch_, where, from, n));
    const char* const b = p_.in(r_.at(from), n);
    EXPECT(ftruncate(scratch_, 0) == 0 && lseek(scratch_, 3, SEEK_SET) == 3);
    EXPECT(write(scratch_, b, n) == signed_size(n) && holds(scratch_, 3, from, n));
    EXPECT(lseek(scratch_, 0, SEEK_CUR) == signed_size(n + 3));
    const std::size_t first = p_.random().below(n);
    iovec v[2] = {{p_.in(r_.at(from), first + 1), first},
                  {p_.in(r_.at(from + first), n - first), n - first}};
    const auto* const vector = reinterpret_cast<iovec*>(p_.in(v, sizeof v));
    EXPECT(ftruncate(scratch_, 0) == 0 && lseek(scratch_, 0, SEEK_SET) == 0);
    EXPECT(writev(scratch_, vector, 2) == signed_size(n) && holds(scratch_, 0, from, n));
    EXPECT(pwritev(scratch_, vector, 2, 7) == signed_size(n) && holds(scratch_, 7, from, n));
    append(from, n);
  }

  // At the end of a file, whatever the offset says.
  void append(std::size_t from, std::size_t n) {
    EXPECT(ftruncate(scratch_, 0) == 0);
    iovec v[2] = {{p_.in(r_.at(from), n), n}, {p_.in(r_.at(from), n), n}};
    const auto* const vector = reinterpret_cast<iovec*>(p_.in(v, sizeof v));
    EXPECT(pwritev2(scratch_, vector, 2, 0, RWF_APPEND) == signed_size(2 * n));
    page_out(v[0].iov_base, n);
    EXPECT(pwritev2(scratch_, vector, 1, 0, RWF_APPEND) == signed_size(n));
    struct stat st {};
    EXPECT(fstat(scratch_, &st) == 0 && st.st_size == signed_size(3 * n));
    EXPECT(holds(scratch_, 0, from, n) && holds(scratch_, n, from, n) &&
           holds(scratch_, 2 * n, from, n));
  }

  void pipes() {
    const std::size_t n = p_.random().between(1, 65536);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    EXPECT(write(pipe_[1], p_.in(r_.at(from), n), n) == signed_size(n));
    char* const a = p_.out(n);
    EXPECT(drain(a, n) && same(a, from, n));
    const std::size_t first = p_.random().below(n);
    iovec v[2] = {{p_.in(r_.at(from), first + 1), first},
                  {p_.in(r_.at(from + first), n - first), n - first}};
    EXPECT(writev(pipe_[1], reinterpret_cast<iovec*>(p_.in(v, sizeof v)), 2) == signed_size(n));
    v[0].iov_base = p_.out(first + 1);
    v[1].iov_base = p_.out(n - first);
    const ssize_t got = readv(pipe_[0], reinterpret_cast<iovec*>(p_.in(v, sizeof v)), 2);
    EXPECT(got > 0);
    const auto in_first = std::min(static_cast<std::size_t>(got), first);
    EXPECT(same(v[0].iov_base, from, in_first) &&
           same(v[1].iov_base, from + in_first, static_cast<std::size_t>(got) - in_first));
    EXPECT(drain(a, n - static_cast<std::size_t>(got)));
  }

  // What is spliced goes once, and the offsets say so.
  void between_descriptors() {
    const std::size_t n = p_.random().between(1, 65536);
    const std::size_t from = p_.random().below(Reference::kBytes - n);
    char* const buffer = p_.out(n);
    auto* const offset = p_.in(static_cast<loff_t>(from));
    const ssize_t spliced = splice(fd_, offset, pipe_[1], nullptr, n, 0);
    EXPECT(spliced > 0 && *offset == signed_size(from) + spliced);
    EXPECT(queued(pipe_[0]) == spliced);
    EXPECT(drain(buffer, static_cast<std::size_t>(spliced)) &&
           same(buffer, from, static_cast<std::size_t>(spliced)));
    auto* const other = p_.in(static_cast<off_t>(from));
    EXPECT(ftruncate(target_, 0) == 0 && lseek(target_, 0, SEEK_SET) == 0);
    EXPECT(sendfile(target_, fd_, other, n) == signed_size(n));
    EXPECT(*other == signed_size(from + n) && holds(target_, 0, from, n));
    EXPECT(lseek(target_, 0, SEEK_CUR) == signed_size(n));
    auto* const in = p_.in(static_cast<loff_t>(from));
    auto* const out = p_.in(loff_t{5});
    const ssize_t copied = copy_file_range(fd_, in, target_, out, n, 0);
    EXPECT(copied == signed_size(n) && *in == signed_size(from + n) && *out == signed_size(n + 5));
    EXPECT(holds(target_, 5, from, n));
  }

  void names() {
    auto* const st = p_.out<struct stat>();
    EXPECT(stat(p_.string(path("data").c_str()), st) == 0 &&
           st->st_size == signed_size(Reference::kBytes));
    auto* const st2 = p_.out<struct stat>();
    EXPECT(fstat(fd_, st2) == 0 && st2->st_ino == st->st_ino);
    auto* const x = p_.out<struct statx>();
    EXPECT(statx(AT_FDCWD, p_.string(path("data").c_str()), 0, STATX_BASIC_STATS, x) == 0 &&
           x->stx_ino == st2->st_ino && x->stx_size == Reference::kBytes);
    const int fd = open(p_.string(path("data").c_str()), O_RDONLY);
    EXPECT(fd >= 0 && holds(fd, 11, 11, 100) && close(fd) == 0);
    EXPECT(open(p_.string(path("nothing").c_str()), O_RDONLY) == -1 && errno == ENOENT);
    char* const link = p_.out(100);
    EXPECT(readlink(p_.string(path("link").c_str()), link, 100) == 14 &&
           std::memcmp(link, "where it leads", 14) == 0);
    EXPECT(access(p_.string(path("data").c_str()), R_OK) == 0);
    EXPECT(rename(p_.string(path("entry0").c_str()), p_.string(path("other").c_str())) == 0);
    EXPECT(rename(p_.string(path("other").c_str()), p_.string(path("entry0").c_str())) == 0);
    EXPECT(mkdir(p_.string(path("sub").c_str()), 0700) == 0);
    EXPECT(mkdir(p_.string(path("sub").c_str()), 0700) == -1 && errno == EEXIST);
    EXPECT(rmdir(p_.string(path("sub").c_str())) == 0);
    char* const cwd = p_.out(4096);
    EXPECT(syscall(SYS_getcwd, cwd, 4096) == signed_size(std::strlen(cwd) + 1) && *cwd == '/');
    auto* const uts = p_.out<utsname>();
    EXPECT(uname(uts) == 0 && std::strcmp(uts->sysname, "Linux") == 0);
    auto* const fs = p_.out<struct statfs>();
    EXPECT(fstatfs(fd_, fs) == 0 && fs->f_bsize > 0 && fs->f_bsize < 1 << 24);
    attributes();
  }

  void entries() {
    const int fd = open(folder_.c_str(), O_RDONLY | O_DIRECTORY);
    const std::size_t room = p_.random().between(200, 20000);
    std::multiset<std::string> names;
    for (;;) {
      char* const buffer = p_.out(room);
      const long n = syscall(SYS_getdents64, fd, buffer, room);
      if (!EXPECT(n >= 0) || n == 0) break;
      for (long i = 0; i < n;) {
        const auto* const entry = reinterpret_cast<dirent64*>(buffer + i);
        names.insert(entry->d_name);
        i += entry->d_reclen;
      }
    }
    constexpr std::size_t kOthers = 6;  // ., .., data, scratch, target, link
    EXPECT(names.size() == kEntries + kOthers && names.count("entry7") == 1);
    close(fd);
  }

  void locks() {
    struct flock lock {};
    lock.l_type = F_WRLCK;
    lock.l_start = 5;
    lock.l_len = 10;
    EXPECT(fcntl(scratch_, F_SETLK, p_.in(lock)) == 0);
    auto* const asked = p_.in(lock);
    EXPECT(fcntl(scratch_, F_GETLK, asked) == 0 && asked->l_type == F_UNLCK);
    const int other = open(path("scratch").c_str(), O_RDWR);
    struct flock by_file = lock;
    EXPECT(fcntl(other, F_OFD_SETLK, p_.in(by_file)) == -1 && errno == EAGAIN);
    auto* const owner = p_.in(by_file);
    EXPECT(fcntl(other, F_OFD_GETLK, owner) == 0 && owner->l_type == F_WRLCK &&
           owner->l_start == 5 && owner->l_len == 10 && owner->l_pid == getpid());
    lock.l_type = F_UNLCK;
    EXPECT(fcntl(scratch_, F_SETLK, p_.in(lock)) == 0);
    EXPECT(fcntl(other, F_OFD_SETLK, p_.in(by_file)) == 0);
    close(other);
  }

  // Of the kernel's own files, as a whole and in pieces.
  void proc_files() {
    static const char* const kNames[] = {"/proc/filesystems", "/proc/cpuinfo", "/proc/devices",
                                         "/proc/self/limits", "/proc/sys/kernel/ostype"};
    const char* const name = kNames[p_.random().below(std::size(kNames))];
    std::string all;
    char small[512];
    int fd = open(name, O_RDONLY);
    for (ssize_t n = 0; (n = read(fd, small, sizeof small)) > 0;)
      all.append(small, static_cast<std::size_t>(n));
    close(fd);
    std::string got;
    const std::size_t room = p_.random().between(1 + all.size() / 40, 65536);
    fd = open(p_.string(name), O_RDONLY);
    for (;;) {
      char* const buffer = p_.out(room);
      const ssize_t n = read(fd, buffer, room);
      if (!EXPECT(n >= 0) || n == 0) break;
      got.append(buffer, static_cast<std::size_t>(n));
    }
    close(fd);
    // Clock rates change from one reading to the next.
    EXPECT(std::strcmp(name, "/proc/cpuinfo") == 0 ? got.find("bogomips") != std::string::npos
                                                   : got == all);
  }

 private:
  static constexpr int kEntries = 60;

  static ssize_t signed_size(std::size_t n) { return static_cast<ssize_t>(n); }
  [[nodiscard]] std::string path(const std::string& name) const { return folder_ + "/" + name; }
  bool same(const void* got, std::size_t from, std::size_t n) const {
    return std::memcmp(got, r_.at(from), n) == 0;
  }
  static long queued(int fd) {
    int n = 0;
    return ioctl(fd, FIONREAD, &n) == 0 ? n : -1;
  }

  int create(const std::string& name, std::size_t bytes) {
    const int fd = open(path(name).c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && pwrite(fd, r_.at(0), bytes, 0) == signed_size(bytes));
    return fd;
  }
  // What the file holds, read into memory that is nobody's business.
  bool holds(int fd, std::size_t where, std::size_t from, std::size_t n) {
    return pread(fd, plain_, n, static_cast<off_t>(where)) == signed_size(n) &&
           same(plain_, from, n);
  }
  bool drain(char* to, std::size_t n) {
    std::size_t done = 0;
    while (done < n) {
      pollfd filled{pipe_[0], POLLIN, 0};
      if (poll(&filled, 1, 2000) != 1) return false;
      const ssize_t got = read(pipe_[0], to + done, n - done);
      if (got <= 0) return false;
      done += static_cast<std::size_t>(got);
    }
    return true;
  }
  void attributes() {
    if (!has_attributes_) return;
    const std::string name = path("data");
    char* const value = p_.out(64);
    EXPECT(getxattr(p_.string(name.c_str()), p_.string("user.gate"), value, 64) == 5 &&
           std::memcmp(value, "value", 5) == 0);
    EXPECT(setxattr(p_.string(name.c_str()), p_.string("user.gate"), p_.in("value", 5), 5, 0) == 0);
    char* const list = p_.out(256);
    EXPECT(listxattr(p_.string(name.c_str()), list, 256) >= 10);
  }

  Places& p_;
  const Reference& r_;
  std::string folder_;
  int fd_ = -1, scratch_ = -1, target_ = -1;
  int pipe_[2] = {-1, -1};
  bool has_attributes_ = false;
  char plain_[Reference::kBytes];
};

}  // namespace gate_testing
