#include "preload/self_pidfd.h"

#include <cstdlib>
#include <cstring>

#include "base/sys.h"

namespace buoy::preload {

bool is_self_pidfd(int fd) {
  if (fd < 0) return false;
  char path[40] = "/proc/self/fdinfo/";
  std::size_t n = std::strlen(path);
  char digits[12];
  std::size_t k = 0;
  do {
    digits[k++] = static_cast<char>('0' + fd % 10);
    fd /= 10;
  } while (fd != 0);
  while (k != 0) path[n++] = digits[--k];
  path[n] = '\0';
  char text[512];
  const long got = sys::read_file(path, text, sizeof text - 1);
  if (got <= 0) return false;
  text[got] = '\0';
  const char* line = std::strstr(text, "\nPid:\t");
  return line != nullptr && std::atol(line + 6) == sys::call(SYS_getpid);
}

}  // namespace buoy::preload
