// The arena as a picture: before and after compaction, a cell a page, in one self-contained page of
// HTML (inline script and canvas, nothing loaded from anywhere).
#pragma once

#include <cstdio>

namespace buoy::bench {

// Churns an arena with movable pages, a driver's pinned ones, contiguous memory and a reserve,
// compacts it, and replaces what is in `file` by the page. Throws Unavailable, also if it cannot be
// written.
void draw_arena_map(std::FILE* file);

}  // namespace buoy::bench
