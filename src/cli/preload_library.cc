#include "cli/preload_library.h"

#include <unistd.h>

#include <array>
#include <filesystem>

namespace buoy::cli {
namespace {

// From the folder of the command to that of its parts, as both are installed.
constexpr const char* kInstalled = BUOY_PRELOAD_FROM_BIN;

}  // namespace

Outcome<std::string> find_part(const std::string& name) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Failure{kUsage, "cannot find my own file: " + error.message()};
  const auto folder = self.parent_path();
  const std::array<std::filesystem::path, 2> places = {folder / name, folder / kInstalled / name};
  for (const auto& place : places)
    if (access(place.c_str(), R_OK) == 0) return std::filesystem::canonical(place, error).string();
  return Failure{kUsage, name + " is neither beside " + self.string() + " nor in " +
                             (folder / kInstalled).lexically_normal().string() +
                             "; install Buoy as a whole"};
}

Outcome<std::string> find_preload_library() {
  Outcome<std::string> path = find_part("libbuoy_preload.so");
  if (path && path->find_first_of(" :\t\n") != std::string::npos)
    return Failure{kUsage, *path +
                               ": the dynamic linker takes no path with spaces or colons; "
                               "install Buoy elsewhere"};
  return path;
}

}  // namespace buoy::cli
