#include "cli/sanitizers.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <string_view>

namespace buoy::cli {
namespace {

struct Sanitizer {
  const char* name;
  const char* library;  // gcc's; clang's is libclang_rt.SHORT
  const char* start;    // what its runtime defines
};
constexpr std::array kSanitizers = {
    Sanitizer{"address", "libasan.so", "__asan_init"},
    Sanitizer{"thread", "libtsan.so", "__tsan_init"},
    Sanitizer{"memory", "libmsan.so", "__msan_init"},
    Sanitizer{"hwaddress", "libhwasan.so", "__hwasan_init"},
    Sanitizer{"leak", "liblsan.so", "__lsan_init"},
};

// A file as bytes; whatever does not lie inside of it is not there.
class Image {
 public:
  explicit Image(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    struct stat s {};
    if (fstat(fd, &s) == 0 && s.st_size > 0) {
      void* p = mmap(nullptr, static_cast<std::size_t>(s.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
      if (p != MAP_FAILED)
        bytes_ = {static_cast<const char*>(p), static_cast<std::size_t>(s.st_size)};
    }
    close(fd);
  }
  ~Image() {
    if (!bytes_.empty()) munmap(const_cast<char*>(bytes_.data()), bytes_.size());
  }
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  // The i-th of a table of T, copied: a table need not be aligned. All zeros: there is none.
  template <typename T>
  [[nodiscard]] T at(std::uint64_t offset, std::uint64_t i = 0) const {
    T out{};
    if (offset <= bytes_.size() && i < (bytes_.size() - offset) / sizeof(T))
      bytes_.copy(reinterpret_cast<char*>(&out), sizeof out, offset + i * sizeof(T));
    return out;
  }
  [[nodiscard]] std::string_view string_at(std::uint64_t offset) const {
    if (offset >= bytes_.size()) return {};
    const std::string_view rest = bytes_.substr(offset);
    return rest.substr(0, rest.find('\0'));
  }

 private:
  std::string_view bytes_;
};

std::string by_library(std::string_view needed) {
  for (const Sanitizer& each : kSanitizers) {
    const std::string_view gcc = each.library;
    const std::string clang = "libclang_rt." + std::string(gcc.substr(3, gcc.size() - 6));
    if (needed.substr(0, gcc.size()) == gcc || needed.substr(0, clang.size()) == clang)
      return each.name;
  }
  return {};
}

std::string by_definition(std::string_view symbol) {
  for (const Sanitizer& each : kSanitizers)
    if (symbol == each.start) return each.name;
  return {};
}

std::string in_dynamic(const Image& image, const Elf64_Shdr& dynamic, std::uint64_t strings) {
  for (std::uint64_t i = 0; i < dynamic.sh_size / sizeof(Elf64_Dyn); ++i) {
    const auto entry = image.at<Elf64_Dyn>(dynamic.sh_offset, i);
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag != DT_NEEDED) continue;
    std::string found = by_library(image.string_at(strings + entry.d_un.d_val));
    if (!found.empty()) return found;
  }
  return {};
}

std::string in_symbols(const Image& image, const Elf64_Shdr& symbols, std::uint64_t strings) {
  for (std::uint64_t i = 0; i < symbols.sh_size / sizeof(Elf64_Sym); ++i) {
    const auto symbol = image.at<Elf64_Sym>(symbols.sh_offset, i);
    if (symbol.st_shndx == SHN_UNDEF) continue;
    std::string found = by_definition(image.string_at(strings + symbol.st_name));
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace

std::string sanitizer_of(const std::string& path) {
  const Image image(path);
  const auto header = image.at<Elf64_Ehdr>(0);
  for (unsigned i = 0; i < header.e_shnum; ++i) {
    const auto section = image.at<Elf64_Shdr>(header.e_shoff, i);
    if (section.sh_type != SHT_DYNAMIC && section.sh_type != SHT_DYNSYM) continue;
    const auto strings = image.at<Elf64_Shdr>(header.e_shoff, section.sh_link).sh_offset;
    std::string found = section.sh_type == SHT_DYNAMIC ? in_dynamic(image, section, strings)
                                                       : in_symbols(image, section, strings);
    if (!found.empty()) return found;
  }
  return {};
}

}  // namespace buoy::cli
