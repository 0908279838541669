#include "serve/page.h"

// BUOY_PAGE: the path of page.html.
asm(".pushsection .rodata\n"
    "buoy_page_begin:\n"
    ".incbin \"" BUOY_PAGE
    "\"\n"
    "buoy_page_end:\n"
    ".popsection\n");
extern "C" {
extern const char buoy_page_begin[];
extern const char buoy_page_end[];
}

namespace buoy::serve {

std::string_view page() {
  return {buoy_page_begin, static_cast<std::size_t>(buoy_page_end - buoy_page_begin)};
}

}  // namespace buoy::serve
