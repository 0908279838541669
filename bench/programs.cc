#include "programs.h"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>
#include <thread>

#include "access_pattern.h"
#include "cgroup.h"
#include "child.h"
#include "machine.h"
#include "undo.h"

namespace buoy::bench {
namespace {

constexpr std::size_t kMB = 1'000'000;

std::string temporary_file(std::string_view suffix) {
  const char* folder = std::getenv("TMPDIR");
  const std::string path =
      fmt::format("{}/buoy-bench.{}.{}", folder != nullptr ? folder : "/tmp", getpid(), suffix);
  undo_at_end(Undo::kRemoveFile, path);
  return path;
}

// The program's path, or empty. Folders of the system come first: a wrapper script in the user's
// own is not the program.
std::string find_program(std::string_view name) {
  std::string path = "/usr/bin:/bin:/usr/sbin:";
  if (const char* own = std::getenv("PATH"); own != nullptr) path += own;
  for (std::size_t start = 0; start < path.size();) {
    const std::size_t end = std::min(path.find(':', start), path.size());
    const std::string candidate = fmt::format("{}/{}", path.substr(start, end - start), name);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    start = end + 1;
  }
  return {};
}

Program installed(Program program) {
  std::string found = find_program(program.words.front());
  if (found.empty())
    program.missing = program.words.front() + " is not installed";
  else
    program.words.front() = std::move(found);
  return program;
}

// About 260 bytes an entry of the dict, and lists of its values.
Program python(std::size_t bytes) {
  constexpr std::string_view kScript = R"(
n = {}
table = {{i: 'value %d of the table' % (i * 7919) for i in range(n)}}
rows = [[i, i * 3, table[i]] for i in range(0, n, 2)]
total = 0
for turn in range(3):
    for key, value in table.items():
        total += len(value) + key
    for row in rows:
        total += row[1] + len(row[2])
print(total)
)";
  return installed(
      {"python3", {"python3", "-c", fmt::format(fmt::runtime(kScript), bytes / 260)}, {}, {}});
}

Program sqlite(std::size_t bytes) {
  constexpr std::string_view kScript = R"(
PRAGMA temp_store = memory;
PRAGMA cache_size = -4000000;
CREATE TABLE t (a INTEGER, b TEXT, c REAL);
WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s LIMIT {})
  INSERT INTO t SELECT n * 7919 % 1000003,
  printf('%08d is the key of row %d', n * 104729 % 999983, n), n * 0.5 FROM s;
CREATE INDEX i ON t (b);
SELECT count(*), sum(r * a) FROM (SELECT a, row_number() OVER (ORDER BY b, a) % 1000 AS r FROM t);
)";
  return installed({"sqlite3",
                    {"sqlite3", ":memory:", fmt::format(fmt::runtime(kScript), bytes / 210)},
                    {},
                    {}});
}

Program sort(std::size_t bytes) {
  const std::string input = temporary_file("lines");
  std::ofstream out(input);
  Random random(1);
  for (std::size_t written = 0; written < bytes / 2;) {
    const std::string line = fmt::format("{:08x} some words of line {}\n",
                                         random.next() & 0xffffffffU, random.below(100000));
    out << line;
    written += line.size();
  }
  if (!out) throw Unavailable(because_errno(input));
  return installed(
      {"sort", {"sort", "--parallel=2", "-S", fmt::format("{}b", bytes * 3), input}, {}, {}});
}

// Loads keys by redis-benchmark, reads them back in random order, and ends the server.
Program redis(std::size_t bytes) {
  const std::string socket = temporary_file("redis");
  constexpr std::string_view kClient = R"(
until redis-cli -s {0} ping >/dev/null 2>&1; do sleep 0.02; done
redis-benchmark -s {0} -q -P 16 -c 8 -d 400 -r {1} -n {2} -t set,get >/dev/null
redis-cli -s {0} shutdown nosave >/dev/null 2>&1
exit 0
)";
  const std::size_t keys = bytes / 500;
  Program program =
      installed({"redis-server",
                 {"redis-server", "--port", "0", "--unixsocket", socket, "--save", "", "--logfile",
                  "/dev/null", "--daemonize", "no"},
                 {"bash", "-c", fmt::format(fmt::runtime(kClient), socket, keys, keys * 3 / 2)},
                 {}});
  if (find_program("redis-benchmark").empty()) program.missing = "redis-benchmark is not installed";
  return program;
}

}  // namespace

std::vector<Program> real_programs(bool quick) {
  const std::size_t bytes = (quick ? 150 : 400) * kMB;
  return {python(bytes), sqlite(bytes), sort(bytes), redis(bytes)};
}

Program buffers_program() {
  constexpr const char* kScript = R"(
import hashlib
data = bytes(range(256)) * 8192
swap = bytes(reversed(range(256)))
kept = [data + bytes([i]) for i in range(8)]
total = hashlib.sha1()
for i in range(400):
    turned = data[i:] + data[:i]
    total.update(turned.translate(swap)[::512])
print(total.hexdigest(), sum(map(len, kept)))
)";
  return installed({"python3 buffers", {"python3", "-c", kScript}, {}, {}});
}

Sample run_program(const Program& program, std::uint64_t limit, bool swap,
                   const std::vector<std::string>& prefix) {
  constexpr double kPatience = 60;  // seconds: only a hang takes so long
  MemoryCgroup cgroup;
  cgroup.set_limit(limit);
  cgroup.allow_swap(swap);
  const std::jthread fresh = cgroup.keep_statistics_fresh();
  Command command{prefix, cgroup.procs_file()};
  command.words.insert(command.words.end(), program.words.begin(), program.words.end());
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  Child child(command);
  std::optional<Child> client;
  if (!program.client.empty()) client.emplace(Command{program.client, ""});
  const Ended ended = child.run_to_end(kPatience);
  const double wall = std::chrono::duration<double>(Clock::now() - start).count();
  return {{"wall_s", wall},
          {"major_faults", static_cast<double>(ended.major_faults)},
          {"peak_rss_bytes", static_cast<double>(ended.peak_rss_bytes)},
          {"cgroup_peak_bytes", static_cast<double>(cgroup.peak())},
          {"output_hash", static_cast<double>(ended.output_hash >> 12)}};
}

}  // namespace buoy::bench
