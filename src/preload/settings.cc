#include "preload/settings.h"

#include <cerrno>
#include <climits>
#include <cstring>

#include "base/digits.h"
#include "base/sys.h"
#include "preload/environment.h"

// Exported by the dynamic linker: where the kernel put argc, argv, envp.
extern "C" void* __libc_stack_end;  // NOLINT(bugprone-reserved-identifier)

namespace buoy::preload {
namespace {

// A positive decimal number and nothing else; 0 if it is not one.
std::uint64_t parse_number(const char* text) {
  if (text == nullptr) return 0;
  const std::uint64_t n = parse_digits(&text);
  return n == kNoNumber || *text != '\0' ? 0 : n;
}

// The process's copies of the paths.
constinit char kept_backing_file[PATH_MAX] = {};
constinit char kept_stats[PATH_MAX] = {};
constinit char kept_trace[PATH_MAX] = {};

// Null where there is none; ENAMETOOLONG.
Result<const char*> keep_path(const char* name, char (&into)[PATH_MAX]) {
  const char* path = initial_environment(name);
  if (path == nullptr) return path;
  const std::size_t length = std::strlen(path);
  if (length >= sizeof into) return Error{ENAMETOOLONG};
  std::memcpy(into, path, length + 1);
  return static_cast<const char*>(into);
}

bool is(const char* value, const char* word) {
  return value != nullptr && std::strcmp(value, word) == 0;
}

}  // namespace

const char* initial_environment(const char* name) {
  auto* word = static_cast<char**>(__libc_stack_end);
  const auto argc = reinterpret_cast<std::uintptr_t>(word[0]);
  const std::size_t length = std::strlen(name);
  for (char** entry = word + 1 + argc + 1; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, name, length) == 0 && (*entry)[length] == '=')
      return *entry + length + 1;
  }
  return nullptr;
}

Status path_of_this_process(const char* path, int first_pid, char* out, std::size_t capacity) {
  constexpr std::size_t kSuffix = 12;  // a point and a pid
  std::size_t n = std::strlen(path);
  if (n + kSuffix >= capacity) return Error{ENAMETOOLONG};
  std::memcpy(out, path, n);
  if (const auto pid = static_cast<int>(sys::call(SYS_getpid)); pid != first_pid) {
    char digits[kSuffix];
    std::size_t k = 0;
    for (int rest = pid; rest != 0; rest /= 10) digits[k++] = static_cast<char>('0' + rest % 10);
    out[n++] = '.';
    while (k != 0) out[n++] = digits[--k];
  }
  out[n] = '\0';
  return {};
}

Result<Settings> read_settings(const char** what) {
  Settings s;
  *what = environment::kBudget;
  s.pool.budget = parse_number(initial_environment(environment::kBudget));
  if (s.pool.budget == 0) return Error{EINVAL};

  s.first_pid = static_cast<int>(parse_number(initial_environment(environment::kFirstPid)));

  *what = environment::kBackingFile;
  const char* file = initial_environment(environment::kBackingFile);
  if (is(file, "auto")) {
    s.pool.backing_file = "auto";
  } else if (file != nullptr && !is(file, "none")) {
    if (Status named = path_of_this_process(file, s.first_pid, kept_backing_file, PATH_MAX); !named)
      return named.error();
    s.pool.backing_file = kept_backing_file;
  }

  *what = environment::kEncryption;
  const char* encryption = initial_environment(environment::kEncryption);
  if (is(encryption, "chacha20"))
    s.pool.encryption = swap::FileEncryption::kChaCha20;
  else if (encryption != nullptr && !is(encryption, "none"))
    return Error{EINVAL};

  *what = environment::kCompressed;
  if (const char* most = initial_environment(environment::kCompressed); most != nullptr) {
    s.pool.most_compressed = parse_number(most);
    if (s.pool.most_compressed == 0) return Error{EINVAL};
  }

  *what = environment::kCompressor;
  const char* compressor = initial_environment(environment::kCompressor);
  if (compressor == nullptr || is(compressor, "lz4")) {
    s.pool.compressor = swap::CompressorKind::kLz4;
  } else if (is(compressor, "zstd")) {
    s.pool.compressor = swap::CompressorKind::kZstd;
  } else if (is(compressor, "none")) {
    s.pool.compressor = swap::CompressorKind::kNone;
  } else {
    return Error{EINVAL};
  }

  *what = environment::kFaults;
  const char* faults = initial_environment(environment::kFaults);
  if (faults == nullptr || is(faults, "auto")) {
    s.pool.faults = Faults::kAuto;
  } else if (is(faults, "signal")) {
    s.pool.faults = Faults::kSignal;
  } else if (is(faults, "thread")) {
    s.pool.faults = Faults::kThread;
  } else {
    return Error{EINVAL};
  }

  *what = environment::kOnExhausted;
  const char* exhausted = initial_environment(environment::kOnExhausted);
  if (exhausted == nullptr || is(exhausted, "sigbus")) {
    s.pool.on_exhausted = OnExhausted::kSigbus;
  } else if (is(exhausted, "wait")) {
    s.pool.on_exhausted = OnExhausted::kWait;
  } else if (is(exhausted, "enomem")) {
    s.pool.on_exhausted = OnExhausted::kEnomem;
  } else {
    return Error{EINVAL};
  }

  *what = environment::kUnmanagedExec;
  const char* unmanaged = initial_environment(environment::kUnmanagedExec);
  if (is(unmanaged, "allow")) {
    s.unmanaged_exec = UnmanagedExec::kAllow;
  } else if (unmanaged != nullptr && !is(unmanaged, "refuse")) {
    return Error{EINVAL};
  }

  *what = environment::kBudgetScope;
  const char* scope = initial_environment(environment::kBudgetScope);
  if (is(scope, "tree")) {
    s.scope = BudgetScope::kTree;
  } else if (scope != nullptr && !is(scope, "process")) {
    return Error{EINVAL};
  }

  *what = environment::kShowBudget;
  const char* shown = initial_environment(environment::kShowBudget);
  if (is(shown, "no")) {
    s.show_budget = ShowBudget::kNo;
  } else if (shown != nullptr && !is(shown, "yes")) {
    return Error{EINVAL};
  }

  *what = environment::kStats;
  const Result<const char*> stats = keep_path(environment::kStats, kept_stats);
  if (!stats) return stats.error();
  s.stats = *stats;

  *what = environment::kTrace;
  const Result<const char*> trace = keep_path(environment::kTrace, kept_trace);
  if (!trace) return trace.error();
  s.trace = *trace;
  return s;
}

}  // namespace buoy::preload
