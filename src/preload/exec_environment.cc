#include "preload/exec_environment.h"

#include <sys/mman.h>
#include <unistd.h>

#include <climits>
#include <cstring>
#include <iterator>

#include "base/sys.h"
#include "preload/environment.h"
#include "preload/settings.h"
#include "preload/trace_file.h"

namespace buoy::preload {
namespace {

constexpr const char* kPreload = "LD_PRELOAD";
constexpr std::size_t kMostKept = 32;
static_assert(std::size(environment::kSetByRun) <= kMostKept);

// "NAME=VALUE" of every variable of ours that this process was started with; LD_PRELOAD is apart.
constinit char kept_text[4 * PATH_MAX] = {};
constinit const char* kept[kMostKept] = {};
constinit std::size_t kept_count = 0;
constinit std::size_t kept_bytes = 0;
constinit const char* library = nullptr;  // its path

bool has_name(const char* entry, const char* name, std::size_t length) {
  return std::strncmp(entry, name, length) == 0 && entry[length] == '=';
}

// The value of a variable in an environment, or null.
const char* value_in(char* const* list, const char* name) {
  const std::size_t length = std::strlen(name);
  for (; list != nullptr && *list != nullptr; ++list)
    if (has_name(*list, name, length)) return *list + length + 1;
  return nullptr;
}

char* keep(const char* first, std::size_t first_bytes, const char* second,
           std::size_t second_bytes) {
  if (kept_bytes + first_bytes + second_bytes + 1 > sizeof kept_text) return nullptr;
  char* const at = kept_text + kept_bytes;
  std::memcpy(at, first, first_bytes);
  std::memcpy(at + first_bytes, second, second_bytes);
  at[first_bytes + second_bytes] = '\0';
  kept_bytes += first_bytes + second_bytes + 1;
  return at;
}

bool starts_with_library(const char* preload) {
  if (preload == nullptr) return false;
  const std::size_t length = std::strlen(library);
  return std::strncmp(preload, library, length) == 0 &&
         std::strchr(" :", preload[length]) != nullptr;  // the end counts as well
}

std::size_t name_length(const char* entry) {
  const char* const end = std::strchr(entry, '=');
  return end == nullptr ? std::strlen(entry) : static_cast<std::size_t>(end - entry);
}

bool is_complete(char* const* program) {
  if (!starts_with_library(value_in(program, kPreload))) return false;
  return value_in(program, environment::kBudget) != nullptr;
}

}  // namespace

void keep_environment_for_exec() {
  const char* preload = initial_environment(kPreload);
  if (preload == nullptr) return;
  library = keep("", 0, preload, std::strcspn(preload, " :"));
  for (const char* name : environment::kSetByRun) {
    const char* const value = initial_environment(name);
    if (value == nullptr || kept_count == kMostKept) continue;
    char both[64];
    const std::size_t length = std::strlen(name);
    if (length + 1 >= sizeof both) continue;
    std::memcpy(both, name, length);
    both[length] = '=';
    kept[kept_count] = keep(both, length + 1, value, std::strlen(value));
    if (kept[kept_count] != nullptr) ++kept_count;
  }
}

ExecEnvironment::ExecEnvironment(char* const* program) : list_(program) {
  flush_trace();  // a program that takes our place does so without a word
  if (library == nullptr || is_complete(program)) return;
  std::size_t entries = 0;
  while (program != nullptr && program[entries] != nullptr) ++entries;
  const char* const others = value_in(program, kPreload);
  const std::size_t prefix = std::strlen("LD_PRELOAD=");
  const std::size_t preload_bytes =
      prefix + std::strlen(library) + 1 + (others == nullptr ? 0 : std::strlen(others)) + 1;
  auto** list = reinterpret_cast<char**>(take_bytes((entries + kept_count + 2) * sizeof(char*)));
  char* const preload = take_bytes(preload_bytes);
  if (list == nullptr || preload == nullptr) return;  // then the call fails for want of memory, too

  std::memcpy(preload, "LD_PRELOAD=", prefix);
  std::strcpy(preload + prefix, library);
  if (others != nullptr && *others != '\0') {
    std::strcat(preload + prefix, ":");
    std::strcat(preload + prefix, others);
  }
  std::size_t n = 0;
  for (std::size_t i = 0; i < entries; ++i)
    if (!has_name(program[i], kPreload, prefix - 1)) list[n++] = program[i];
  list[n++] = preload;
  for (std::size_t i = 0; i < kept_count; ++i) {
    const std::size_t length = name_length(kept[i]);
    bool is_there = false;
    for (std::size_t k = 0; k < entries; ++k)
      is_there = is_there || has_name(program[k], kept[i], length);
    if (!is_there) list[n++] = const_cast<char*>(kept[i]);
  }
  list[n] = nullptr;
  list_ = list;
  is_mended_ = true;
}

bool ExecEnvironment::is_library_in_reach() {
  if (library == nullptr || sys::call(SYS_access, sys::ptr(library), R_OK) == 0) return true;
  sys::Line()
      .text("not executed: ")
      .text(library)
      .text(
          " cannot be read from here (a chroot, or other rights), and without it the program "
          "would run without a budget")
      .complain();
  return false;
}

ExecEnvironment::~ExecEnvironment() {
  if (mapped_ != nullptr) sys::unmap(mapped_, mapped_bytes_);
}

char* ExecEnvironment::take_bytes(std::size_t bytes) {
  bytes = (bytes + alignof(char*) - 1) & ~(alignof(char*) - 1);
  if (used_ + bytes <= kRoom) {
    used_ += bytes;
    return room_ + used_ - bytes;
  }
  if (mapped_ != nullptr) return nullptr;
  auto memory = sys::reserve(bytes, alignof(char*), PROT_READ | PROT_WRITE);
  if (!memory) return nullptr;
  mapped_ = reinterpret_cast<char*>(*memory);
  mapped_bytes_ = bytes;
  return mapped_;
}

}  // namespace buoy::preload
