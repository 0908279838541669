#include "cli/runtime_folder.h"

#include <dirent.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace buoy::cli {
namespace {

constexpr std::string_view kSuffix = ".sock";
constexpr int kBacklog = 16;

std::string of_environment() {
  const char* base = std::getenv("XDG_RUNTIME_DIR");
  return base != nullptr && *base == '/' ? std::string(base) + "/buoy" : std::string();
}

std::string of_user(uid_t user) { return "/tmp/buoy-" + std::to_string(user); }

bool is_folder(const std::string& path) {
  struct stat s {};
  return lstat(path.c_str(), &s) == 0 && S_ISDIR(s.st_mode);
}

// Empty, or why not.
std::string why_unusable(const std::string& path) {
  if (mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return path + ": " + std::strerror(errno);
  struct stat s {};
  if (lstat(path.c_str(), &s) != 0) return path + ": " + std::strerror(errno);
  if (!S_ISDIR(s.st_mode)) return path + ": not a folder";
  if (s.st_uid != geteuid() && s.st_uid != 0) return path + ": another user's";
  if ((s.st_mode & (S_IWGRP | S_IWOTH)) != 0) return path + ": others may write to it";
  if (access(path.c_str(), W_OK | X_OK) != 0) return path + ": " + std::strerror(errno);
  return {};
}

bool fill(const std::string& path, sockaddr_un* address) {
  address->sun_family = AF_UNIX;
  if (path.size() >= sizeof address->sun_path) {
    errno = ENAMETOOLONG;
    return false;
  }
  std::memcpy(address->sun_path, path.c_str(), path.size() + 1);
  return true;
}

// The names in a folder; none where it cannot be read.
// But for those that begin with a dot: `..` is another folder.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  DIR* d = opendir(folder.c_str());
  if (d == nullptr) return names;
  while (const dirent* entry = readdir(d))
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  closedir(d);
  return names;
}

// PID of `PID.sock`; 0: another name.
pid_t pid_in(std::string_view name) {
  if (name.size() <= kSuffix.size() || name.substr(name.size() - kSuffix.size()) != kSuffix)
    return 0;
  name.remove_suffix(kSuffix.size());
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  return error == std::errc() && end == name.data() + name.size() && pid > 0 ? pid : 0;
}

// Binds under a name that nobody looks for, and only then takes the real one.
bool bind_and_listen(int fd, const std::string& hidden, const std::string& path) {
  sockaddr_un address{};
  if (!fill(hidden, &address)) return false;
  unlink(hidden.c_str());
  const mode_t before = umask(0177);
  const int bound = bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address);
  umask(before);
  if (bound != 0) return false;
  if (listen(fd, kBacklog) == 0 && rename(hidden.c_str(), path.c_str()) == 0) return true;
  const int error = errno;
  unlink(hidden.c_str());
  errno = error;
  return false;
}

}  // namespace

Outcome<std::string> make_runtime_folder() {
  std::string reasons;
  for (const std::string& path : {of_environment(), std::string("/run/buoy"), of_user(geteuid())}) {
    if (path.empty()) continue;
    const std::string why = why_unusable(path);
    if (why.empty()) return path;
    reasons += (reasons.empty() ? "" : "; ") + why;
  }
  return Failure{kFailed, "no folder for control sockets (" + reasons +
                              "); set XDG_RUNTIME_DIR to a folder of your own"};
}

std::vector<std::string> runtime_folders() {
  std::vector<std::string> list = {of_environment(), "/run/buoy", of_user(geteuid()),
                                   "/run/user/" + std::to_string(geteuid()) + "/buoy"};
  if (geteuid() == 0) {
    for (const std::string& user : names_in("/run/user"))
      list.push_back("/run/user/" + user + "/buoy");
    for (const std::string& name : names_in("/tmp"))
      if (name.rfind("buoy-", 0) == 0) list.push_back("/tmp/" + name);
  }
  std::sort(list.begin(), list.end());
  list.erase(std::unique(list.begin(), list.end()), list.end());
  list.erase(std::remove_if(list.begin(), list.end(),
                            [](const std::string& path) { return !is_folder(path); }),
             list.end());
  return list;
}

std::vector<RunSocket> sockets_in(const std::string& folder) {
  std::vector<RunSocket> found;
  for (const std::string& name : names_in(folder))
    if (const pid_t pid = pid_in(name); pid != 0) found.push_back({pid, folder + "/" + name});
  std::sort(found.begin(), found.end(),
            [](const RunSocket& a, const RunSocket& b) { return a.run < b.run; });
  return found;
}

int connect_to(const std::string& path) {
  sockaddr_un address{};
  if (!fill(path, &address)) return -1;
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  // Behind one that is stopped, with a full queue, we would wait for good.
  const timeval patience{2, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

int listen_in(const std::string& folder, std::string* path) {
  remove_stale_sockets(folder);
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  const std::string pid = std::to_string(getpid());
  *path = folder + "/" + pid + std::string(kSuffix);
  if (bind_and_listen(fd, folder + "/." + pid, *path)) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

void remove_stale_sockets(const std::string& folder) {
  // Root looks into the folders of others, who might put another in their place meanwhile.
  struct stat s {};
  if (lstat(folder.c_str(), &s) != 0 || s.st_uid != geteuid()) return;
  for (const RunSocket& each : sockets_in(folder)) {
    const int fd = connect_to(each.path);
    if (fd >= 0)
      close(fd);
    else if (errno == ECONNREFUSED)
      unlink(each.path.c_str());
  }
}

}  // namespace buoy::cli
