// closed_zoo [MIB]: memory that the program itself has closed to stores, or to everything, is pushed
// out and found again as it was, in a fork child as well; and what is closed stays closed.
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csetjmp>
#include <csignal>

#include "check.h"

namespace {

constexpr std::size_t kPiece = 100;  // pages of one kind

char* memory = nullptr;
std::size_t pages = 0;

int protection_of(std::size_t piece, std::size_t round) {
  constexpr int kKinds[] = {PROT_READ, PROT_NONE, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE};
  return kKinds[(piece + round) % 4];
}

void protect_all(std::size_t round) {
  for (std::size_t i = 0; i < pages; i += kPiece) {
    const std::size_t n = i + kPiece <= pages ? kPiece : pages - i;
    CHECK(mprotect(memory + i * kPage, n * kPage, protection_of(i / kPiece, round)) == 0);
  }
}

sigjmp_buf after_fault;
void on_fault(int) { siglongjmp(after_fault, 1); }

bool faults(char* p, bool is_store) {
  if (sigsetjmp(after_fault, 1) != 0) return true;
  if (is_store)
    *static_cast<volatile char*>(p) = 1;
  else
    (void)*static_cast<volatile char*>(p);
  return false;
}

void check_closed(std::size_t round) {
  for (std::size_t i = 0; i < pages; i += kPiece) {
    const int protection = protection_of(i / kPiece, round);
    char* const p = memory + i * kPage;
    if ((protection & PROT_WRITE) == 0) CHECK(faults(p, true));
    if (protection == PROT_NONE) CHECK(faults(p, false));
  }
}

void check_readable(std::size_t round, std::uint64_t version) {
  for (std::size_t i = 0; i < pages; ++i)
    if (protection_of(i / kPiece, round) != PROT_NONE) check_stamp(memory + i * kPage, i, version);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t mib = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 64;
  pages = (mib << 20) / kPage;
  memory = static_cast<char*>(
      mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  CHECK(memory != MAP_FAILED);
  struct sigaction action {};
  action.sa_handler = on_fault;
  CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
  for (std::size_t round = 0; round < 4; ++round) {
    for (std::size_t i = 0; i < pages; ++i) stamp(memory + i * kPage, i, round);
    protect_all(round);
    check_readable(round, round);
    check_closed(round);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      check_closed(round);
      check_readable(round, round);
      CHECK(mprotect(memory, pages * kPage, PROT_READ | PROT_WRITE) == 0);
      for (std::size_t i = 0; i < pages; ++i) {
        check_stamp(memory + i * kPage, i, round);
        stamp(memory + i * kPage, i, 100);
      }
      _exit(0);
    }
    check_readable(round, round);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(mprotect(memory, pages * kPage, PROT_READ | PROT_WRITE) == 0);
    for (std::size_t i = 0; i < pages; ++i) check_stamp(memory + i * kPage, i, round);
  }
  std::puts("OK closed_zoo");
  return 0;
}
