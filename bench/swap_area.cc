#include "swap_area.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/swap.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "kernel_swap.h"
#include "machine.h"
#include "undo.h"
#include "zram.h"

namespace buoy::bench {

namespace {
constexpr unsigned kDefaultPageCluster = 3;
}  // namespace

void swap_to_file(std::uint64_t size) {
  const char* folder = std::getenv("TMPDIR");
  const std::string path =
      fmt::format("{}/buoy-bench-swap-{}", folder == nullptr ? "/tmp" : folder, getpid());
  undo_at_end(Undo::kRemoveFile, path);
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) throw Unavailable(because_errno(path));
  const bool has_room = fallocate(fd, 0, 0, static_cast<off_t>(size)) == 0;
  close(fd);
  if (!has_room) throw Unavailable(because_errno("room for a swap file"));
  make_swap_area(path, size);
  undo_at_end(Undo::kSwapOff, path);
  if (swapon(path.c_str(), SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK) != 0)
    throw Unavailable(because_errno("swapon " + path));
  set_page_cluster(kDefaultPageCluster);
}

}  // namespace buoy::bench
