// A picture browser's cache: 400 encoded images, whose decoded pixels would take 400 MiB, in a
// budget of 64 MiB. Four threads ask for images, some far more often than others; what is not in
// the cache is decoded again. The cache is never told a size.
//
//   examples/image_cache [BUDGET_MIB [IMAGES]]
#include <atomic>
#include <buoy/purgeable_cache.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "qoi.h"

namespace {

constexpr std::uint32_t kSide = 512;
constexpr std::size_t kPixels = std::size_t{kSide} * kSide;
constexpr int kRequests = 500;  // a thread
constexpr unsigned kThreads = 4;

struct Picture {
  qoi_image encoded;
  std::uint64_t checksum;
};

std::vector<Picture> paint_all(unsigned count) {
  std::vector<qoi_pixel> pixels(kPixels);
  std::vector<Picture> pictures;
  for (unsigned i = 0; i < count; ++i) {
    qoi_paint(i, pixels.data(), kSide, kSide);
    pictures.push_back(
        {qoi_encode(pixels.data(), kSide, kSide), qoi_checksum(pixels.data(), kPixels)});
  }
  return pictures;
}

// Few are asked for often.
unsigned choose(std::mt19937& random, unsigned count) {
  const double u = std::uniform_real_distribution<double>(0, 1)(random);
  return static_cast<unsigned>(std::pow(static_cast<double>(count), u)) - 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t budget = std::strtoul(argc > 1 ? argv[1] : "64", nullptr, 10) << 20;
  const auto count = static_cast<unsigned>(std::strtoul(argc > 2 ? argv[2] : "400", nullptr, 10));
  const std::vector<Picture> pictures = paint_all(count);

  const buoy::Pool pool(budget);
  buoy::purgeable_cache<unsigned, std::vector<qoi_pixel>> cache(pool);
  std::atomic<int> wrong{0};
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < kRequests; ++i) {
        const unsigned n = choose(random, count);
        // Decoded right into the cache's memory.
        const auto image = cache.get(n, [&](unsigned key, auto& place) {
          auto pixels = place.template allocate<qoi_pixel>(kPixels);
          if (qoi_decode(&pictures[key].encoded, pixels.data()) != 0) std::abort();
        });
        if (qoi_checksum(image.view().data(), image.view().size()) != pictures[n].checksum) ++wrong;
      }
    });
  for (std::thread& t : threads) t.join();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;

  const buoy::purgeable_cache_stats stats = cache.stats();
  std::printf("%u requests in %.2f s: %.1f %% from the cache, %llu decoded, %llu of them again\n",
              kThreads * kRequests, taken.count(),
              100.0 * static_cast<double>(stats.hits) / (kThreads * kRequests),
              static_cast<unsigned long long>(stats.misses),
              static_cast<unsigned long long>(stats.lost));
  std::printf(
      "decoded pixels of all images: %zu MiB; budget: %zu MiB; resident at most: %llu MiB\n",
      count * kPixels * sizeof(qoi_pixel) >> 20, budget >> 20,
      static_cast<unsigned long long>(pool.stat("resident_peak_bytes") >> 20));
  for (const Picture& p : pictures) std::free(p.encoded.bytes);
  return wrong == 0 ? 0 : 1;
}
