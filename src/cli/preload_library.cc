#include "cli/preload_library.h"

#include <unistd.h>

#include <array>
#include <filesystem>

namespace buoy::cli {
namespace {

constexpr const char* kLibrary = "libbuoy_preload.so";
// From the folder of the command to that of the library, as both are installed.
constexpr const char* kInstalled = BUOY_PRELOAD_FROM_BIN;

}  // namespace

Outcome<std::string> find_preload_library() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Failure{kUsage, "cannot find my own file: " + error.message()};
  const auto folder = self.parent_path();
  const std::array<std::filesystem::path, 2> places = {folder / kLibrary,
                                                       folder / kInstalled / kLibrary};
  for (const auto& place : places) {
    if (access(place.c_str(), R_OK) != 0) continue;
    const std::string path = std::filesystem::canonical(place, error).string();
    if (path.find_first_of(" :\t\n") != std::string::npos)
      return Failure{kUsage, path +
                                 ": the dynamic linker takes no path with spaces or colons; "
                                 "install Buoy elsewhere"};
    return path;
  }
  return Failure{kUsage, std::string(kLibrary) + " is neither beside " + self.string() +
                             " nor in " + (folder / kInstalled).lexically_normal().string() +
                             "; install Buoy as a whole"};
}

}  // namespace buoy::cli
