// Calls on paths, files and their attributes.
#include <dirent.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>

#include "gate/calls_testing.h"

namespace buoy::gate::calls {
namespace {

constexpr int kHere = AT_FDCWD;

int a_file() { return open("file", O_RDWR); }
void make_x() { close(open("x", O_CREAT | O_RDWR, 0600)); }
void no_x(long = 0) {
  unlink("x");
  rmdir("x");
}
void no_y(long = 0) {
  no_x();
  unlink("y");
}
void rewind_folder(int fd) { lseek(fd, 0, SEEK_SET); }

NamedCall path(long number, std::vector<Argument> arguments, std::function<void()> before = {},
               std::function<void(long)> after = {}) {
  return {number, [=] { return Call{arguments, before, after}; }};
}

Call mount_something() {
  // Of the options it takes what it can read.
  return {{text("none"), text("."), text("tmpfs"), 0, text("size=4k")}, {}, {}, 1U << 4};
}

NamedCall listing(long number) {
  return {number, [=] {
            const int fd = open(".", O_RDONLY | O_DIRECTORY);
            // The end of an entry, behind its name, is not written.
            return Call{{fd, room(4096), 4096}, [fd] { rewind_folder(fd); }, {}, 1U << 1};
          }};
}

NamedCall on_file(long number, std::vector<Argument> more, std::function<void()> before = {},
                  std::function<void(long)> after = {}) {
  return {number, [=] {
            std::vector<Argument> arguments{a_file()};
            arguments.insert(arguments.end(), more.begin(), more.end());
            return Call{arguments, before, after};
          }};
}

Call watch() {
  const int fd = inotify_init();
  return {{fd, text("file"), IN_MODIFY}};
}

Call fanotify() {
  const int fd = static_cast<int>(syscall(SYS_fanotify_init, FAN_CLASS_NOTIF | FAN_REPORT_FID, 0));
  return {{fd, FAN_MARK_ADD, FAN_MODIFY, kHere, text("file")}};
}

Call name_to_handle() {
  struct {
    std::uint32_t bytes;
    int type;
    std::uint8_t handle[128];
  } handle{};
  int mount = 0;
  syscall(SYS_name_to_handle_at, kHere, "file", &handle, &mount, 0);  // tells the size
  std::vector<std::uint8_t> exact(8 + handle.bytes);
  std::memcpy(exact.data(), &handle.bytes, 4);
  return {{kHere, text("file"), Argument(exact), room(4), 0}};
}

std::uint64_t mount_id() {
  struct statx s {};
  constexpr unsigned kUniqueId = 0x4000;
  syscall(SYS_statx, kHere, ".", 0, kUniqueId, &s);
  return s.stx_mnt_id;
}

struct MountRequest {
  std::uint32_t size = 24, spare = 0;
  std::uint64_t id = 0, what = 0;
};

Call stat_mount() {
  constexpr std::uint64_t kBasics = 2;
  return {{copy_of(MountRequest{.id = mount_id(), .what = kBasics}), room(512), 512, 0},
          {},
          {},
          1U << 1};
}

Call list_mounts() {
  constexpr std::uint64_t kRoot = ~0ULL;
  return {{copy_of(MountRequest{.id = kRoot}), room(64), 8, 0}};
}

struct XattrArguments {
  std::uint64_t value;
  std::uint32_t size, flags = 0;
};

void set_attribute() { setxattr("file", "user.one", "value", 5, 0); }
void no_attribute(long = 0) { removexattr("file", "user.one"); }

NamedCall through_arguments(long number, std::function<void()> before) {
  return {number, [=] {
            std::uint8_t* page = own_page();
            const XattrArguments value{reinterpret_cast<std::uintptr_t>(page) + kPageBytes - 5, 5};
            return Call{.arguments = {kHere, text("file"), 0, text("user.one"), copy_of(value), 16},
                        .before = before,
                        .after = no_attribute,
                        .inner = page};
          }};
}

}  // namespace

Calls file_calls() {
  Argument how = copy_of(open_how{.flags = O_RDONLY, .mode = 0, .resolve = 0});
  const Argument file = text("file"), x = text("x"), y = text("y");
  const dev_t device = [] {
    struct stat s {};
    return stat("/proc", &s) == 0 ? s.st_dev : 0;
  }();
  return {
      path(2, {file, O_RDONLY}, {}, close_result),
      path(4, {file, room(144)}),
      on_file(5, {room(144)}),
      path(6, {file, room(144)}),
      path(21, {file, R_OK}),
      path(76, {file, 5000}),
      listing(78),
      path(79, {room(512), 512}),
      path(80, {text(".")}),
      path(82, {x, y}, make_x, no_y),
      path(83, {x, 0700}, {}, no_x),
      path(
          84, {x}, [] { mkdir("x", 0700); }, no_x),
      path(85, {x, 0600}, {},
           [](long fd) {
             close_result(fd);
             no_x();
           }),
      path(86, {file, x}, {}, no_x),
      path(87, {x}, make_x, no_x),
      path(88, {file, x}, {}, no_x),
      path(
          89, {x, room(64), 64}, [] { (void)!symlink("file", "x"); }, no_x),
      path(90, {file, 0644}),
      path(92, {file, -1, -1}),
      path(94, {file, -1, -1}),
      path(132, {file, room(16)}),
      path(133, {x, S_IFIFO | 0600, 0}, {}, no_x),
      path(136, {device, room(32)}),
      path(137, {file, room(120)}),
      on_file(138, {room(120)}),
      path(161, {text(".")}),
      listing(217),
      path(235, {file, room(32)}),
      {254, watch},
      path(257, {kHere, file, O_RDONLY}, {}, close_result),
      path(258, {kHere, x, 0700}, {}, no_x),
      path(259, {kHere, x, S_IFIFO | 0600, 0}, {}, no_x),
      path(260, {kHere, file, -1, -1, 0}),
      path(261, {kHere, file, room(32)}),
      path(262, {kHere, file, room(144), 0}),
      path(263, {kHere, x, 0}, make_x, no_x),
      path(264, {kHere, x, kHere, y}, make_x, no_y),
      path(265, {kHere, file, kHere, x, 0}, {}, no_x),
      path(266, {file, kHere, x}, {}, no_x),
      path(
          267, {kHere, x, room(64), 64}, [] { (void)!symlink("file", "x"); }, no_x),
      path(268, {kHere, file, 0644}),
      path(269, {kHere, file, R_OK}),
      path(280, {kHere, file, room(32), 0}),
      {301, fanotify},
      {303, name_to_handle},
      path(316, {kHere, x, kHere, y, 0}, make_x, no_y),
      path(332, {kHere, file, 0, 0x7ff, room(256)}),
      path(428, {kHere, file, 0}, {}, close_result),
      path(437, {kHere, file, how, static_cast<long>(sizeof(open_how))}, {}, close_result),
      path(439, {kHere, file, R_OK, 0}),
      on_file(451, {room(16), room(40), 0}),
      path(452, {kHere, file, 0644, 0}),
      {457, stat_mount},
      {458, list_mounts},
      path(468, {kHere, file, room(24), 24, 0}),
      path(469, {kHere, file, room(24), 24, 0}),
      path(166, {text("."), 0}),
      {165, mount_something},
  };
}

Calls attribute_calls() {
  const Argument file = text("file"), name = text("user.one");
  const Argument value = copy_of(std::array<char, 5>{'v', 'a', 'l', 'u', 'e'});
  return {
      path(188, {file, name, value, 5, 0}, {}, no_attribute),
      path(189, {file, name, value, 5, 0}, {}, no_attribute),
      on_file(190, {name, value, 5, 0}, {}, no_attribute),
      path(191, {file, name, room(64), 64}, set_attribute, no_attribute),
      path(192, {file, name, room(64), 64}, set_attribute, no_attribute),
      on_file(193, {name, room(64), 64}, set_attribute, no_attribute),
      path(194, {file, room(64), 64}, set_attribute, no_attribute),
      path(195, {file, room(64), 64}, set_attribute, no_attribute),
      on_file(196, {room(64), 64}, set_attribute, no_attribute),
      path(197, {file, name}, set_attribute, no_attribute),
      path(198, {file, name}, set_attribute, no_attribute),
      on_file(199, {name}, set_attribute, no_attribute),
      through_arguments(463, {}),
      through_arguments(464, set_attribute),
      path(465, {kHere, file, 0, room(64), 64}, set_attribute, no_attribute),
      path(466, {kHere, file, 0, name}, set_attribute, no_attribute),
  };
}

}  // namespace buoy::gate::calls
