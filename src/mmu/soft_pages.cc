#include "mmu/soft_pages.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/sys.h"

namespace buoy::mmu {

namespace {

constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);

std::size_t root_bytes(std::uint64_t blocks) {
  return PageCount::covering(blocks * sizeof(void*)).bytes();
}

std::byte* new_buffer() {
  auto* p = static_cast<std::byte*>(std::malloc(kPageSize));
  BUOY_CHECK(p != nullptr);
  return p;
}

void fill(std::byte* buffer, std::uint64_t word) {
  for (std::size_t i = 0; i < kWords; ++i)
    std::memcpy(buffer + i * sizeof word, &word, sizeof word);
}

// The word that all of the page consists of, if there is one.
bool try_as_word(const std::byte* bytes, std::uint64_t& word) {
  std::memcpy(&word, bytes, sizeof word);
  return std::memcmp(bytes, bytes + sizeof word, kPageSize - sizeof word) == 0;
}

}  // namespace

SoftPages::SoftPages(PageCount pages)
    : blocks_((pages.value() + kPagesPerBlock - 1) / kPagesPerBlock) {
  auto root = sys::reserve(root_bytes(blocks_), kPageSize, PROT_READ | PROT_WRITE);
  BUOY_CHECK(root.ok());
  root_ = reinterpret_cast<Block**>(*root);
}

SoftPages::~SoftPages() {
  for (std::uint64_t b = 0; b < blocks_; ++b) {
    if (root_[b] == nullptr) continue;
    for (std::uint64_t p = 0; p < kPagesPerBlock; ++p) {
      const std::uint64_t i = b * kPagesPerBlock + p;
      if (has(i, kBuffered) && !has(i, kBorrowed)) std::free(buffer(i));
    }
    std::free(root_[b]);
  }
  sys::unmap(root_, root_bytes(blocks_));
}

// ---- Flags -------------------------------------------------------------------------------------

std::uint8_t SoftPages::flags(std::uint64_t i) const {
  const Block* block = root_[i / kPagesPerBlock];
  return block == nullptr ? std::uint8_t{0} : block->flags[i % kPagesPerBlock];
}

SoftPages::Block& SoftPages::block_of(std::uint64_t i) {
  Block*& block = root_[i / kPagesPerBlock];
  if (block == nullptr) block = static_cast<Block*>(std::calloc(1, sizeof(Block)));
  BUOY_CHECK(block != nullptr);
  return *block;
}

void SoftPages::change_flags(std::uint64_t i, std::uint8_t flags) {
  Block& block = block_of(i);
  std::uint8_t& old = block.flags[i % kPagesPerBlock];
  if ((old & kPresent) == 0 && (flags & kPresent) != 0) present_ += PageCount(1);
  if ((old & kPresent) != 0 && (flags & kPresent) == 0) present_ -= PageCount(1);
  if (old == 0 && flags != 0) ++block.used;
  if (old != 0 && flags == 0) --block.used;
  old = flags;
  if (block.used != 0) return;
  std::free(&block);
  root_[i / kPagesPerBlock] = nullptr;
}

void SoftPages::set(std::uint64_t i, Flag flag) {
  change_flags(i, static_cast<std::uint8_t>(flags(i) | flag));
}

void SoftPages::clear(std::uint64_t i, Flag flag) {
  if (has(i, flag)) change_flags(i, static_cast<std::uint8_t>(flags(i) & ~flag));
}

// ---- Contents ----------------------------------------------------------------------------------

std::uint64_t SoftPages::contents(std::uint64_t i) const {
  return root_[i / kPagesPerBlock]->contents[i % kPagesPerBlock];
}

std::byte* SoftPages::buffer(std::uint64_t i) const {
  return reinterpret_cast<std::byte*>(contents(i));
}

void SoftPages::put_word(std::uint64_t i, std::uint64_t word) {
  BUOY_CHECK(!has(i, kPresent));
  change_flags(i, static_cast<std::uint8_t>((flags(i) & kOfThePlace) | kPresent));
  block_of(i).contents[i % kPagesPerBlock] = word;
}

void SoftPages::put_bytes(std::uint64_t i, const std::byte* bytes) {
  std::uint64_t word = 0;
  const bool is_uniform = try_as_word(bytes, word);
  put_word(i, word);
  if (is_uniform) return;
  std::memcpy(materialise(i), bytes, kPageSize);
}

void SoftPages::put_borrowed(std::uint64_t i, std::byte* bytes) {
  put_word(i, reinterpret_cast<std::uint64_t>(bytes));
  set(i, kBuffered);
  set(i, kBorrowed);
}

void SoftPages::own_borrowed(std::uint64_t i) {
  if (!has(i, kBorrowed)) return;
  std::byte* own = new_buffer();
  std::memcpy(own, buffer(i), kPageSize);
  block_of(i).contents[i % kPagesPerBlock] = reinterpret_cast<std::uint64_t>(own);
  clear(i, kBorrowed);
  compact(i);
}

void SoftPages::remove(std::uint64_t i) {
  if (has(i, kBuffered) && !has(i, kBorrowed)) std::free(buffer(i));
  const auto left = static_cast<std::uint8_t>(flags(i) & kOfThePlace);
  if (flags(i) != left) change_flags(i, left);
}

void SoftPages::move(SoftPages& from, std::uint64_t i, SoftPages& to, std::uint64_t j) {
  from.own_borrowed(i);
  from.compact(i);
  to.put_word(j, from.contents(i));
  if (from.has(i, kBuffered)) to.set(j, kBuffered);
  if (from.has(i, kShared)) to.set(j, kShared);
  from.clear(i, kBuffered);  // the buffer is `to`'s now
  from.remove(i);
}

void SoftPages::copy(const SoftPages& from, std::uint64_t i, SoftPages& to, std::uint64_t j) {
  BUOY_CHECK(from.has(i, kPresent));
  if (from.has(i, kBuffered))
    to.put_bytes(j, from.buffer(i));
  else
    to.put_word(j, from.contents(i));
}

void SoftPages::read(std::uint64_t i, std::size_t offset, void* out, std::size_t n) const {
  BUOY_CHECK(has(i, kPresent) && offset + n <= kPageSize);
  if (has(i, kBuffered)) {
    std::memcpy(out, buffer(i) + offset, n);
    return;
  }
  const std::uint64_t word = contents(i);
  for (std::size_t k = 0; k < n; ++k) {
    const std::size_t shift = (offset + k) % sizeof word * 8;
    static_cast<unsigned char*>(out)[k] = static_cast<unsigned char>(word >> shift);
  }
}

void SoftPages::write(std::uint64_t i, std::size_t offset, const void* in, std::size_t n) {
  BUOY_CHECK(has(i, kPresent) && offset + n <= kPageSize);
  std::memcpy(materialise(i) + offset, in, n);
}

void SoftPages::write_word(std::uint64_t i, std::uint64_t word) {
  BUOY_CHECK(has(i, kPresent));
  if (has(i, kBuffered)) {
    fill(buffer(i), word);
    compact(i);
  } else {
    block_of(i).contents[i % kPagesPerBlock] = word;
  }
}

std::byte* SoftPages::materialise(std::uint64_t i) {
  BUOY_CHECK(has(i, kPresent));
  if (has(i, kBuffered)) return buffer(i);
  std::byte* own = new_buffer();
  fill(own, contents(i));
  block_of(i).contents[i % kPagesPerBlock] = reinterpret_cast<std::uint64_t>(own);
  set(i, kBuffered);
  return own;
}

void SoftPages::compact(std::uint64_t i) {
  if (!has(i, kBuffered) || has(i, kBorrowed)) return;
  std::uint64_t word = 0;
  std::byte* own = buffer(i);
  if (!try_as_word(own, word)) return;
  std::free(own);
  block_of(i).contents[i % kPagesPerBlock] = word;
  clear(i, kBuffered);
}

}  // namespace buoy::mmu
