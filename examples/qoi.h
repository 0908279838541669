/* A decoder and encoder of QOI images ("The Quite OK Image Format", qoiformat.org, version 1.0,
 * 2022), four channels, and pictures to encode: work that is worth caching. C and C++. */
#ifndef EXAMPLES_QOI_H
#define EXAMPLES_QOI_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  uint8_t r, g, b, a;
} qoi_pixel;

typedef struct {
  uint32_t width, height;
  size_t size;
  uint8_t* bytes; /* header, chunks, end marker; malloc'ed */
} qoi_image;

static inline unsigned qoi_hash(qoi_pixel p) {
  return (p.r * 3U + p.g * 5U + p.b * 7U + p.a * 11U) % 64U;
}
static inline int qoi_equal(qoi_pixel a, qoi_pixel b) { return memcmp(&a, &b, sizeof a) == 0; }

static inline void qoi_put32(uint8_t* to, uint32_t v) {
  to[0] = (uint8_t)(v >> 24);
  to[1] = (uint8_t)(v >> 16);
  to[2] = (uint8_t)(v >> 8);
  to[3] = (uint8_t)v;
}
static inline uint32_t qoi_get32(const uint8_t* from) {
  return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

/* The bytes of the result are NULL if there is no memory. */
static inline qoi_image qoi_encode(const qoi_pixel* pixels, uint32_t width, uint32_t height) {
  static const uint8_t end[8] = {0, 0, 0, 0, 0, 0, 0, 1};
  const size_t count = (size_t)width * height;
  qoi_image image = {width, height, 0, (uint8_t*)malloc(14 + count * 5 + sizeof end)};
  if (image.bytes == NULL) return image;
  uint8_t* out = image.bytes;
  memcpy(out, "qoif", 4);
  qoi_put32(out + 4, width);
  qoi_put32(out + 8, height);
  out[12] = 4;
  out[13] = 0;
  out += 14;
  qoi_pixel seen[64] = {{0, 0, 0, 0}};
  qoi_pixel last = {0, 0, 0, 255};
  unsigned run = 0;
  for (size_t i = 0; i < count; ++i) {
    const qoi_pixel p = pixels[i];
    if (qoi_equal(p, last)) {
      if (++run == 62 || i + 1 == count) {
        *out++ = (uint8_t)(0xc0 | (run - 1));
        run = 0;
      }
      continue;
    }
    if (run != 0) *out++ = (uint8_t)(0xc0 | (run - 1));
    run = 0;
    const unsigned index = qoi_hash(p);
    const int dr = (int8_t)(p.r - last.r);
    const int dg = (int8_t)(p.g - last.g);
    const int db = (int8_t)(p.b - last.b);
    if (qoi_equal(seen[index], p)) {
      *out++ = (uint8_t)index;
    } else if (p.a != last.a) {
      *out++ = 0xff;
      memcpy(out, &p, 4);
      out += 4;
    } else if (dr >= -2 && dr <= 1 && dg >= -2 && dg <= 1 && db >= -2 && db <= 1) {
      *out++ = (uint8_t)(0x40 | (dr + 2) << 4 | (dg + 2) << 2 | (db + 2));
    } else if (dg >= -32 && dg <= 31 && dr - dg >= -8 && dr - dg <= 7 && db - dg >= -8 &&
               db - dg <= 7) {
      *out++ = (uint8_t)(0x80 | (dg + 32));
      *out++ = (uint8_t)((dr - dg + 8) << 4 | (db - dg + 8));
    } else {
      *out++ = 0xfe;
      memcpy(out, &p, 3);
      out += 3;
    }
    seen[index] = p;
    last = p;
  }
  memcpy(out, end, sizeof end);
  image.size = (size_t)(out + sizeof end - image.bytes);
  uint8_t* const fitted = (uint8_t*)realloc(image.bytes, image.size);
  if (fitted != NULL) image.bytes = fitted;
  return image;
}

/* `pixels` has room for width * height. 0, or -1 if the data is not what it says. */
static inline int qoi_decode(const qoi_image* image, qoi_pixel* pixels) {
  const size_t count = (size_t)image->width * image->height;
  const uint8_t* in = image->bytes;
  if (image->size < 22 || memcmp(in, "qoif", 4) != 0 || qoi_get32(in + 4) != image->width ||
      qoi_get32(in + 8) != image->height)
    return -1;
  const uint8_t* const end = in + image->size - 8;
  in += 14;
  qoi_pixel seen[64] = {{0, 0, 0, 0}};
  qoi_pixel p = {0, 0, 0, 255};
  unsigned run = 0;
  for (size_t i = 0; i < count; ++i) {
    if (run > 0) {
      --run;
    } else {
      if (in >= end) return -1;
      const uint8_t op = *in++;
      if (op == 0xfe || op == 0xff) {
        const size_t n = op == 0xfe ? 3 : 4;
        if ((size_t)(end - in) < n) return -1;
        memcpy(&p, in, n);
        in += n;
      } else if (op >> 6 == 0) {
        p = seen[op];
      } else if (op >> 6 == 1) {
        p.r = (uint8_t)(p.r + ((op >> 4 & 3) - 2));
        p.g = (uint8_t)(p.g + ((op >> 2 & 3) - 2));
        p.b = (uint8_t)(p.b + ((op & 3) - 2));
      } else if (op >> 6 == 2) {
        if (in >= end) return -1;
        const int dg = (op & 0x3f) - 32;
        const uint8_t more = *in++;
        p.r = (uint8_t)(p.r + dg - 8 + (more >> 4));
        p.g = (uint8_t)(p.g + dg);
        p.b = (uint8_t)(p.b + dg - 8 + (more & 0xf));
      } else {
        run = op & 0x3f;
      }
      seen[qoi_hash(p)] = p;
    }
    pixels[i] = p;
  }
  return 0;
}

/* Picture `number`: a landscape of a few waves, some noise, and a flat frame. */
static inline void qoi_paint(unsigned number, qoi_pixel* pixels, uint32_t width, uint32_t height) {
  uint32_t noise = number * 2654435761U + 1;
  for (uint32_t y = 0; y < height; ++y)
    for (uint32_t x = 0; x < width; ++x) {
      qoi_pixel p = {40, 44, 52, 255};
      const int is_frame = x < 16 || y < 16 || x + 16 >= width || y + 16 >= height;
      if (!is_frame) {
        noise ^= noise << 13;
        noise ^= noise >> 17;
        noise ^= noise << 5;
        p.r = (uint8_t)((x * (number % 7 + 1)) / 8 + (noise & 3));
        p.g = (uint8_t)((y * (number % 5 + 1)) / 8 + (x * y / 4096));
        p.b = (uint8_t)((x + y + number) / 3);
      }
      pixels[(size_t)y * width + x] = p;
    }
}

static inline uint64_t qoi_checksum(const qoi_pixel* pixels, size_t count) {
  uint64_t sum = 14695981039346656037U;
  for (size_t i = 0; i < count; ++i) {
    uint32_t word;
    memcpy(&word, &pixels[i], sizeof word);
    sum = (sum ^ word) * 1099511628211U;
  }
  return sum;
}

#endif /* EXAMPLES_QOI_H */
