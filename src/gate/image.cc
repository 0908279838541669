#include "gate/image.h"

#include <link.h>
#include <sys/auxv.h>

#include <cstring>

namespace buoy::gate {

namespace {

// The encodings that GNU and LLVM linkers write (LSB Core, "Exception Frames").
constexpr std::uint8_t kVersion = 1;
constexpr std::uint8_t kCountEncoding = 0x03;  // udata4
constexpr std::uint8_t kTableEncoding = 0x3b;  // datarel | sdata4
constexpr std::size_t kHeaderBytes = 12;
constexpr std::size_t kEntryBytes = 8;

std::uint32_t word_at(const std::uint8_t* p) {
  std::uint32_t word = 0;
  std::memcpy(&word, p, sizeof word);
  return word;
}

std::uintptr_t relative(std::uintptr_t base, std::uint32_t offset) {
  return base +
         static_cast<std::uintptr_t>(static_cast<std::intptr_t>(static_cast<std::int32_t>(offset)));
}

std::uintptr_t address_of(const std::uint8_t* p) { return reinterpret_cast<std::uintptr_t>(p); }

// The common part of a description, whose letters tell.
bool is_signal_frame(const std::uint8_t* fde) {
  constexpr std::size_t kLettersAt = 9;  // behind its length, its number and its version
  const std::uint8_t* const common = fde + 4 - word_at(fde + 4);
  return std::strchr(reinterpret_cast<const char*>(common + kLettersAt), 'S') != nullptr;
}

}  // namespace

Image::Image(std::uintptr_t load, std::span<const Elf64_Phdr> headers) {
  CodeRange relro;
  for (const Elf64_Phdr& h : headers)
    if (h.p_type == PT_GNU_RELRO) relro = {load + h.p_vaddr, load + h.p_vaddr + h.p_memsz};
  for (const Elf64_Phdr& h : headers) {
    const std::uintptr_t at = load + h.p_vaddr;
    if (h.p_type == PT_LOAD && (h.p_flags & PF_X) != 0 && count_ < kMostSegments)
      segments_[count_++] = {at, at + h.p_filesz};
    if (h.p_type == PT_LOAD && (h.p_flags & PF_W) != 0 && data_count_ < kMostSegments)
      data_[data_count_++] = {relro.contains(at) ? relro.end : at, at + h.p_memsz};
    if (h.p_type != PT_GNU_EH_FRAME || h.p_memsz < kHeaderBytes) continue;
    const auto* index = reinterpret_cast<const std::uint8_t*>(at);  // NOLINT
    if (index[0] != kVersion || index[2] != kCountEncoding || index[3] != kTableEncoding) continue;
    const std::uint32_t entries = word_at(index + 8);
    if (kHeaderBytes + std::uint64_t{entries} * kEntryBytes > h.p_memsz) continue;
    index_ = index;
    index_entries_ = entries;
  }
}

Image::Function Image::function_at(std::uintptr_t address) const {
  const std::uintptr_t base = address_of(index_);
  const std::uint8_t* const table = index_ + kHeaderBytes;
  // The last entry that begins at the address or before it.
  std::uint32_t low = 0;
  std::uint32_t high = index_entries_;
  while (low < high) {
    const std::uint32_t middle = low + (high - low) / 2;
    if (relative(base, word_at(table + middle * kEntryBytes)) <= address)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return {};
  const std::uint8_t* const entry = table + (low - 1) * kEntryBytes;
  const std::uintptr_t begin = relative(base, word_at(entry));
  // The description: length, its common part, the first address (relative to where it stands) and
  // the length of the code. If it says another address, it is of a form not known here.
  const auto* fde =
      reinterpret_cast<const std::uint8_t*>(relative(base, word_at(entry + 4)));  // NOLINT
  if (relative(address_of(fde + 8), word_at(fde + 8)) != begin) return {};
  // Code behind a function's described part and in front of the next one is the function's, too: in
  // clone() a description ends where a thread has no caller any more.
  std::uintptr_t end = begin + word_at(fde + 12);
  if (address >= end && low < index_entries_)
    end = relative(base, word_at(table + low * kEntryBytes));
  const CodeRange code{begin, end};
  if (!code.contains(address)) return {};
  return {code, is_signal_frame(fde)};
}

void for_each_image(std::uintptr_t except, ImageBody body, void* context) {
  struct Visit {
    std::uintptr_t except, kernels;
    ImageBody body;
    void* context;
  } visit{except, getauxval(AT_SYSINFO_EHDR), body, context};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* raw) {
        const auto& v = *static_cast<const Visit*>(raw);
        if (info->dlpi_addr == v.except) return 0;
        // The kernel's object begins where its header lies.
        const std::span<const Elf64_Phdr> headers(info->dlpi_phdr, info->dlpi_phnum);
        const Image image(info->dlpi_addr, headers);
        for (const CodeRange& segment : image.segments())
          if (segment.contains(v.kernels)) return 0;
        v.body(image, v.context);
        return 0;
      },
      &visit);
}

}  // namespace buoy::gate
