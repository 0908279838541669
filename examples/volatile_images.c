/* Volatile memory in plain C: decoded images stay marked volatile while nobody looks at them.
 * Looking unmarks, decodes again if pages were purged, and marks when done. A careless reader, who
 * looks without unmarking, gets SIGBUS; the handler decodes the image under his feet.
 *
 *   examples/volatile_images [BUDGET_MIB [IMAGES]] */
#include <buoy/buoy.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "qoi.h"

enum { kSide = 512, kPixels = kSide * kSide };
static const size_t kImageBytes = kPixels * sizeof(qoi_pixel);

static unsigned count;
static qoi_image* encoded;
static uint64_t* checksums;
static qoi_pixel* decoded; /* image i at i * kPixels */
static volatile sig_atomic_t careless;

static qoi_pixel* image(unsigned i) { return decoded + (size_t)i * kPixels; }

/* The image is to stay; decoded again if it was lost. Returns whether it was. */
static int look_at(unsigned i) {
  int purged = 0;
  if (buoy_mark_nonvolatile(image(i), kImageBytes, &purged) < 0) abort();
  if (purged && qoi_decode(&encoded[i], image(i)) != 0) abort();
  return purged;
}
static void look_away(unsigned i) {
  if (buoy_mark_volatile(image(i), kImageBytes, 0) < 0) abort();
}

static void on_bus_error(int signal, siginfo_t* info, void* context) {
  (void)signal;
  (void)context;
  const qoi_pixel* const touched = (const qoi_pixel*)info->si_addr;
  if (touched < decoded || touched >= decoded + (size_t)count * kPixels) _exit(2);
  ++careless;
  /* It stays unmarked: the instruction is tried again when we return. */
  look_at((unsigned)((size_t)(touched - decoded) / kPixels));
}

int main(int argc, char** argv) {
  struct buoy_options options = {.struct_size = sizeof options};
  options.budget = strtoul(argc > 1 ? argv[1] : "64", NULL, 10) << 20;
  count = (unsigned)strtoul(argc > 2 ? argv[2] : "200", NULL, 10);
  buoy_pool* pool = NULL;
  if (buoy_pool_create(&options, &pool) != 0) {
    perror("buoy_pool_create");
    return 2;
  }
  struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
  sigaction(SIGBUS, &action, NULL);

  decoded = buoy_map(pool, (size_t)count * kImageBytes, 0);
  encoded = calloc(count, sizeof *encoded);
  checksums = calloc(count, sizeof *checksums);
  if (decoded == NULL || encoded == NULL || checksums == NULL) {
    perror("memory");
    return 2;
  }
  for (unsigned i = 0; i < count; ++i) {
    qoi_paint(i, image(i), kSide, kSide);
    encoded[i] = qoi_encode(image(i), kSide, kSide);
    checksums[i] = qoi_checksum(image(i), kPixels);
    look_away(i);
  }

  unsigned lost = 0;
  unsigned wrong = 0;
  unsigned random = 1;
  for (unsigned n = 0; n < 3000; ++n) {
    random = random * 1664525U + 1013904223U;
    /* A third of the images get two thirds of the looks. */
    const unsigned i = (random >> 8) % (random % 3 != 0 ? count / 3 : count);
    const int is_careless = n % 100 == 0;
    if (!is_careless) lost += (unsigned)look_at(i);
    if (qoi_checksum(image(i), kPixels) != checksums[i]) ++wrong;
    look_away(i);
  }
  uint64_t peak = 0;
  buoy_pool_stat(pool, "resident_peak_bytes", &peak);
  printf("3000 looks at %u images (%zu MiB) in %zu MiB: %u decoded again, %d by the handler\n",
         count, (size_t)count * kImageBytes >> 20, options.budget >> 20, lost, (int)careless);
  printf("resident at most: %zu MiB; wrong images: %u\n", (size_t)peak >> 20, wrong);

  for (unsigned i = 0; i < count; ++i) free(encoded[i].bytes);
  free(encoded);
  free(checksums);
  buoy_unmap(decoded, (size_t)count * kImageBytes);
  buoy_pool_destroy(pool);
  return wrong == 0 ? 0 : 1;
}
