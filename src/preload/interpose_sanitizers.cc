// A program built with a sanitizer brings a malloc and a map of the address space of its own, which
// cannot be had together with ours: one line, and the end. `buoy run` sees it in the program's file;
// here it is seen in what a program executes, and in libraries.
//
// The sanitizers' own start comes before our constructors. An indirect function is resolved while
// this library is relocated, which is before anybody's.
#include "base/sys.h"
#include "preload/interpose.h"

// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {
__attribute__((weak)) void __asan_init();
__attribute__((weak)) void __tsan_init();
__attribute__((weak)) void __msan_init();
__attribute__((weak)) void __hwasan_init();
__attribute__((weak)) void __lsan_init();
}
// NOLINTEND(bugprone-reserved-identifier)

namespace {

const char* sanitizer() {
  if (__asan_init != nullptr) return "address";
  if (__tsan_init != nullptr) return "thread";
  if (__msan_init != nullptr) return "memory";
  if (__hwasan_init != nullptr) return "hwaddress";
  if (__lsan_init != nullptr) return "leak";
  return nullptr;
}

void nothing() {}

}  // namespace

extern "C" {
__attribute__((visibility("hidden"), used)) void (*buoy_resolve_after_a_look_around())() {
  if (const char* kind = sanitizer(); kind != nullptr) {
    buoy::sys::Line()
        .text("this program is built with -fsanitize=")
        .text(kind)
        .text(", whose malloc cannot run within a budget; build it without")
        .complain();
    for (;;) buoy::sys::call(SYS_exit_group, 2);
  }
  return nothing;
}
__attribute__((visibility("hidden"), used, ifunc("buoy_resolve_after_a_look_around"))) void
buoy_look_around();
}

// Something must refer to it, or it is never resolved.
__attribute__((used)) static void (*const looked_around)() = buoy_look_around;
