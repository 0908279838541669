// Calls on memory, keys, security and the system as a whole.
#include <linux/landlock.h>
#include <linux/mempolicy.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>

#include "gate/calls_testing.h"

namespace buoy::gate::calls {
namespace {

constexpr std::size_t kPage = 4096;

NamedCall simple(long number, std::vector<Argument> arguments, unsigned loose = 0) {
  return {number, [=] { return Call{arguments, {}, {}, loose}; }};
}

char* some_pages() {
  void* p = mmap(nullptr, 8 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memset(p, 1, 8 * kPage);
  return static_cast<char*>(p);
}

Argument first_node() { return copy_of(std::uint64_t{1}); }

Call resident_pages() { return {{reinterpret_cast<long>(some_pages()), 7 * kPage + 1, room(8)}}; }
Call bind_memory() {
  return {{reinterpret_cast<long>(some_pages()), 8 * kPage, MPOL_BIND, first_node(), 65, 0}};
}
// The policy of the page that an address lies in, which is looked at for its node.
Call policy_of_page() { return {{room(4), 0, 0, room(1), MPOL_F_NODE | MPOL_F_ADDR}}; }
Call move_pages() {
  char* p = some_pages();
  return {{0, 2, copy_of(std::array<char*, 2>{p, p + kPage}), room(8), room(8), 2}};
}
Call advise() {
  constexpr int kCold = 20;
  const int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  char* p = some_pages();
  return {
      {self, copy_of(std::array<iovec, 2>{iovec{p, kPage}, iovec{p + kPage, kPage}}), 2, kCold, 0}};
}

constexpr int kProcessKeyring = -2;

Call add_key() {
  return {.arguments = {text("user"), text("buoy-calls"), room(10), 10, kProcessKeyring},
          .same_result = false};
}

Call list_modules() {
  std::uint64_t ids[32];
  std::uint32_t size = sizeof ids;
  constexpr long kListModules = 461;
  syscall(kListModules, ids, &size, 0);  // tells the size
  return {{room(size), copy_of(size), 0}};
}

perf_event_attr event_form() {
  perf_event_attr a{};
  a.type = PERF_TYPE_HARDWARE;
  a.size = sizeof a;
  a.exclude_kernel = 1;
  return a;
}

}  // namespace

Calls system_calls() {
  constexpr long kAnyKeyring = 0;
  const Argument random = room(64);
  return {
      {27, resident_pages},
      {237, bind_memory},
      simple(238, {MPOL_BIND, first_node(), 65}),
      simple(239, {room(4), room(128), 1024, 0, 0}),
      {239, policy_of_page},
      {279, move_pages},
      {440, advise},
      {248, add_key},
      simple(249, {text("user"), text("buoy-none"), 0, kAnyKeyring}),
      simple(256, {getpid(), 65, first_node(), first_node()}),
      simple(298, {copy_of(event_form()), 0, -1, -1, 0}),
      simple(318, {random, 64, 0}),
      simple(321, {0, room(72), 72}, 1U << 1),  // written by few of its commands
      {444,
       [] {
         return Call{{copy_of(std::uint64_t{1}), 8, 0}, {}, close_result};
       }},
      {461, list_modules},
  };
}

}  // namespace buoy::gate::calls
