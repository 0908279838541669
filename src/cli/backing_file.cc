#include "cli/backing_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace buoy::cli {
namespace {

Failure unusable(const std::string& value, const std::string& why) {
  return {kUsage, "run: --backing-file " + value + ": " + why};
}

bool is_in_memory(int fd) {
  struct statfs s {};
  return fstatfs(fd, &s) == 0 && (s.f_type == TMPFS_MAGIC || s.f_type == RAMFS_MAGIC);
}

std::string folder_of_auto() {
  const char* variable = std::getenv("TMPDIR");
  return variable != nullptr && *variable != '\0' ? variable : "/tmp";
}

Outcome<std::string> check_auto() {
  const std::string folder = folder_of_auto();
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return unusable("auto", folder + ": " + std::strerror(errno));
  const bool in_memory = is_in_memory(fd);
  close(fd);
  if (in_memory)
    return unusable("auto", folder +
                                " is on tmpfs, which is memory; set TMPDIR to a folder on a "
                                "disk, or name a file");
  if (access(folder.c_str(), W_OK | X_OK) != 0)
    return unusable("auto", folder + ": " + std::strerror(errno));
  return std::string("auto");
}

Outcome<std::string> check_path(const std::string& value) {
  const std::string path = std::filesystem::absolute(value).string();
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 && errno == EEXIST)
    return unusable(value, "exists; name a file that does not, it is created for the run");
  if (fd < 0) return unusable(value, std::strerror(errno));
  const bool in_memory = is_in_memory(fd);
  close(fd);
  unlink(path.c_str());
  if (in_memory) return unusable(value, "is on tmpfs, which is memory; name a file on a disk");
  return path;
}

}  // namespace

Outcome<std::string> check_backing_file(const std::string& value) {
  if (value == "none") return value;
  return value == "auto" ? check_auto() : check_path(value);
}

ByteSize default_backing_file_size(const std::string& checked) {
  const std::string folder =
      checked == "auto" ? folder_of_auto() : std::filesystem::path(checked).parent_path().string();
  struct statfs s {};
  // Where it is not said, the disk's end is the bound.
  if (statfs(folder.c_str(), &s) != 0 || s.f_blocks == 0) return UINT64_MAX;
  return ByteSize{s.f_bavail} * static_cast<ByteSize>(s.f_bsize) / 2;
}

}  // namespace buoy::cli
