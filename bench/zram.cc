#include "zram.h"

#include <fcntl.h>
#include <sys/swap.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <sstream>

#include "machine.h"
#include "undo.h"

namespace buoy::bench {
namespace {

constexpr const char* kControl = "/sys/class/zram-control/";
constexpr const char* kPageCluster = "/proc/sys/vm/page-cluster";
constexpr std::size_t kPage = 4096;

// The number of a device that nobody uses.
std::string take_device() {
  const std::string hot_add = std::string(kControl) + "hot_add";
  if (file_exists(hot_add)) {
    const std::string number = read_file(hot_add);  // reading it adds a device
    undo_at_end(Undo::kWriteFile, std::string(kControl) + "hot_remove " + number);
    return number;
  }
  if (!file_exists("/sys/block/zram0")) throw Unavailable("no zram (modprobe zram)");
  if (read_file("/sys/block/zram0/disksize") != "0")
    throw Unavailable("/dev/zram0 is in use, and no other can be added");
  return "0";
}

}  // namespace

void make_swap_area(const std::string& path, std::uint64_t size) {
  // Version 1 of the format: see union swap_header in the kernel's include/linux/swap.h.
  struct Header {
    std::array<char, 1024> boot;
    std::uint32_t version;
    std::uint32_t last_page;
    std::uint32_t bad_pages;
  };
  alignas(kPage) std::array<char, kPage> page{};
  const Header header = {{}, 1, static_cast<std::uint32_t>(size / kPage - 1), 0};
  std::memcpy(page.data(), &header, sizeof header);
  std::memcpy(page.data() + kPage - 10, "SWAPSPACE2", 10);
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  if (fd < 0) throw Unavailable(because_errno(path));
  const bool written = pwrite(fd, page.data(), kPage, 0) == static_cast<ssize_t>(kPage);
  close(fd);
  if (!written) throw Unavailable(because_errno(path));
}

ZramSwap::ZramSwap(const std::string& compressor, std::uint64_t size) {
  hold_machine();
  const std::string number = take_device();
  sysfs_ = "/sys/block/zram" + number;
  const std::string device = "/dev/zram" + number;
  undo_at_end(Undo::kWriteFile, sysfs_ + "/reset 1");
  write_file(sysfs_ + "/comp_algorithm", compressor);
  write_file(sysfs_ + "/disksize", std::to_string(size));
  make_swap_area(device, size);
  undo_at_end(Undo::kSwapOff, device);
  // The highest priority: no other swap of this machine is touched while this one has room.
  if (swapon(device.c_str(), SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK) != 0)
    throw Unavailable(because_errno("swapon " + device));
}

ZramUse ZramSwap::use() const {
  std::istringstream in(read_file(sysfs_ + "/mm_stat"));
  ZramUse use;
  std::uint64_t limit = 0;
  in >> use.original >> use.compressed >> use.memory >> limit >> use.peak;
  return use;
}

void ZramSwap::forget_peak() { write_file(sysfs_ + "/mem_used_max", "0"); }

void set_page_cluster(unsigned value) {
  static const bool restored = [] {
    undo_at_end(Undo::kWriteFile, std::string(kPageCluster) + " " + read_file(kPageCluster));
    return true;
  }();
  (void)restored;
  write_file(kPageCluster, std::to_string(value));
}

}  // namespace buoy::bench
