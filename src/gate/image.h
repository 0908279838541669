// Image: the code of one ELF object as it lies in this process, and where its functions begin.
//
// Functions are known from the unwinder's table (.eh_frame_hdr), which stripped objects have, too.
// What has no entry there is not decoded: a decoder that starts in the middle of an instruction
// agrees with everything. Reads mapped memory only; allocates nothing.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace buoy::gate {

// Addresses: [begin, end).
struct CodeRange {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  [[nodiscard]] bool contains(std::uintptr_t at) const { return at >= begin && at < end; }
  [[nodiscard]] std::size_t bytes() const { return end - begin; }
  [[nodiscard]] std::span<const std::uint8_t> code() const {
    return {reinterpret_cast<const std::uint8_t*>(begin), bytes()};  // NOLINT
  }
};

class Image {
 public:
  static constexpr unsigned kMostSegments = 8;  // of code, and of data; objects have one

  // `load` is what the object's virtual addresses are counted from.
  Image(std::uintptr_t load, std::span<const Elf64_Phdr> headers);

  [[nodiscard]] std::span<const CodeRange> segments() const { return {segments_, count_}; }
  // What the object's code may store to, as the dynamic linker leaves it (RELRO is not of it).
  [[nodiscard]] std::span<const CodeRange> data() const { return {data_, data_count_}; }
  // From the first segment of code to the last.
  [[nodiscard]] CodeRange extent() const {
    return count_ == 0 ? CodeRange{} : CodeRange{segments_[0].begin, segments_[count_ - 1].end};
  }
  // The function around an address. No bytes: the table has none.
  struct Function {
    CodeRange code;
    // What a signal handler returns to: described from one byte too early on, and not called.
    bool is_signal_frame = false;
  };
  [[nodiscard]] Function function_at(std::uintptr_t address) const;

 private:
  CodeRange segments_[kMostSegments];
  unsigned count_ = 0;
  CodeRange data_[kMostSegments];
  unsigned data_count_ = 0;
  const std::uint8_t* index_ = nullptr;  // .eh_frame_hdr, if of the form that is understood
  std::uint32_t index_entries_ = 0;
};

// Calls body(const Image&) for every object that is loaded, but for the kernel's own and `except`,
// the load address of one. Takes the dynamic linker's lock.
using ImageBody = void (*)(const Image& image, void* context);
void for_each_image(std::uintptr_t except, ImageBody body, void* context);

}  // namespace buoy::gate
