// malloc_numbers: what a program reads about its heap through glibc's interface grows with what it
// allocates, and shrinks again.
#include <malloc.h>

#include <cstdio>
#include <string>
#include <vector>

#include "check.h"

namespace {

std::size_t in_use() {
  const struct mallinfo2 info = mallinfo2();
  CHECK(info.arena + info.hblkhd >= info.uordblks);
  CHECK(info.uordblks + info.fordblks == info.arena);
  return info.uordblks + info.hblkhd;
}

std::string text_of_malloc_info() {
  char* text = nullptr;
  std::size_t size = 0;
  FILE* to = open_memstream(&text, &size);
  CHECK(malloc_info(0, to) == 0);
  CHECK(malloc_info(1, to) == EINVAL);
  std::fclose(to);
  std::string out(text, size);
  std::free(text);
  return out;
}

// The last `<system type="current" size="N"/>`: all heaps together.
std::size_t system_bytes_by_xml() {
  const std::string text = text_of_malloc_info();
  const std::string mark = "<system type=\"current\" size=\"";
  const std::size_t at = text.rfind(mark);
  CHECK(text.rfind("<malloc version=\"1\">", 0) == 0 && at != std::string::npos);
  CHECK(text.find("</malloc>") != std::string::npos);
  return std::strtoull(text.c_str() + at + mark.size(), nullptr, 10);
}

}  // namespace

int main() {
  constexpr std::size_t kBlocks = 30000;
  constexpr std::size_t kSize = 900;
  constexpr std::size_t kSum = kBlocks * kSize;
  CHECK(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1);
  CHECK(mallopt(M_MXFAST, 1 << 20) == 0);
  const std::size_t before = in_use();
  std::vector<void*> blocks(kBlocks);
  for (void*& each : blocks) {
    each = std::malloc(kSize);
    std::memset(each, 1, kSize);
  }
  const std::size_t after = in_use();
  CHECK(after - before > kSum * 9 / 10 && after - before < kSum * 5 / 4);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
  CHECK(static_cast<std::size_t>(mallinfo().uordblks + mallinfo().hblkhd) > kSum * 9 / 10);
#pragma GCC diagnostic pop
  CHECK(system_bytes_by_xml() > kSum * 9 / 10);
  for (void* each : blocks) std::free(each);
  CHECK(malloc_trim(0) == 1);
  CHECK(in_use() < before + kSum / 4);
  std::puts("numbers right");
  return 0;
}
