// Where system calls are found, and that what is around them may move.
#include "gate/sites.h"

#include <dlfcn.h>
#include <gtest/gtest.h>
#include <link.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "gate/instruction.h"
#include "gate/plan.h"
#include "gate/table.h"

namespace buoy::gate {
namespace {

struct Found {
  std::string name;
  SiteCounts counts;
  std::vector<Site> sites;
};

std::vector<Found> all_objects() {
  std::vector<Found> all;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* raw) {
        const Image image(info->dlpi_addr, {info->dlpi_phdr, info->dlpi_phnum});
        Found f{info->dlpi_name, {}, std::vector<Site>(1U << 14)};
        std::size_t count = 0;
        f.counts = find_sites(image, f.sites, &count);
        f.sites.resize(count);
        static_cast<std::vector<Found>*>(raw)->push_back(std::move(f));
        return 0;
      },
      &all);
  return all;
}

Found object(const char* part) {
  for (Found& f : all_objects())
    if (f.name.find(part) != std::string::npos) return f;
  return {};
}

TEST(Sites, EveryCallOfLibcAndTheDynamicLinkerCanBePatched) {
  for (const char* name : {"libc.so.6", "ld-linux"}) {
    const Found f = object(name);
    EXPECT_GT(f.counts.found, 40U) << name;
    EXPECT_EQ(f.counts.given_up, 0U) << name;
    unsigned unknown = 0, in_place = 0;
    for (const Site& s : f.sites) {
      unknown += s.number == Site::kNumberUnknown ? 1 : 0;
      in_place += s.has_front() && s.has_behind() ? 1 : 0;
    }
    std::printf("%s: %u found, %u in place on both sides, %u of unknown number\n", name,
                f.counts.found, in_place, unknown);
  }
}

}  // namespace
}  // namespace buoy::gate
