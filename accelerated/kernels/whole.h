/* Event-driven layers of networks in whole numbers: every sum is exact, in any order.

   Spikes of either sign are two planes of bits, [2, steps, batch, height, width, words]. `spike_rows` and `spike_list`
   write them as lists, row by row of pixels, so that the spikes that a pixel reads through one row of a kernel lie one
   after another. A layer adds or subtracts a row of 8-bit weights for each of them. */

typedef struct { /* one convolution's view of one layer's spikes; sizes are those of its input, then down and across */
  const uint32_t *entries; /* x channels + c of each spike */
  const int64_t *base;     /* [2 steps batch height + 1]: where a row's spikes begin */
  const uint32_t *place;   /* [2 steps batch height, width + 1]: where a pixel's begin, from there */
  const int8_t *weight;    /* [tiles, down, across, channels, WIDTH] */
  const int32_t *worth;    /* of a spike in each step */
  index_t steps, height, width, channels, kernel[2], stride[2], padding[2];
  index_t room; /* as many weights have a sum that 16 bits hold */
} events_t;

typedef struct { /* spikes that arrive at the neuron of their own place, times a factor of their channel */
  const uint64_t *bits; /* [2, steps, batch, height, width, words] */
  const int64_t *base;  /* as above */
  const int32_t *factor, *worth;
  index_t steps;
} direct_t;

/* A row of spikes: where those of each pixel begin; `tap` is added to each entry. */
typedef struct {
  const uint32_t *entries, *place;
  uint32_t tap;
} row_t;

/* Entries that are copied at once: lists end with as many that belong to nobody. */
typedef uint32_t copied_t __attribute__((vector_size(4 * COPIED), aligned(4), may_alias));

/* The rows that row y of pixels reads through the rows of a kernel, but empty ones; returns their number. */
static inline index_t rows_of(const events_t *in, index_t sign, index_t t, index_t batch, index_t image, index_t y,
                              row_t *rows) {
  index_t number = 0, first = y * in->stride[0] - in->padding[0];
  for (index_t ky = 0; ky < in->kernel[0]; ky++) {
    index_t at = ((sign * in->steps + t) * batch + image) * in->height + first + ky;
    if (first + ky < 0 || first + ky >= in->height || in->base[at] == in->base[at + 1]) continue;
    rows[number++] = (row_t){in->entries + in->base[at], in->place + at * (in->width + 1),
                             (uint32_t)(ky * in->kernel[1] * in->channels)};
  }
  return number;
}

/* Memory of one thread that grows to what is needed. */
typedef struct {
  uint32_t *at;
  size_t room;
} scratch_t;

static inline uint32_t *grown(scratch_t *scratch, size_t count) {
  if (count > scratch->room) {
    free(scratch->at);
    scratch->room = 2 * count;
    scratch->at = malloc(scratch->room * sizeof(uint32_t));
    if (!scratch->at) abort();
  }
  return scratch->at;
}

/* Some rows as one, pixel by pixel: what a pixel reads lies in one run. */
static inline row_t merge(const row_t *rows, index_t number, index_t width, scratch_t *scratch) {
  if (number == 1) return rows[0];
  size_t total = width + 1 + COPIED;
  for (index_t i = 0; i < number; i++) total += rows[i].place[width];
  uint32_t at = 0, *place = grown(scratch, total), *to = place + width + 1;
  for (index_t x = 0; x < width; x++) {
    place[x] = at;
    for (index_t i = 0; i < number; i++) {
      const uint32_t *entry = rows[i].entries + rows[i].place[x];
      uint32_t count = rows[i].place[x + 1] - rows[i].place[x], done = 0;
      do *(copied_t *)(to + at + done) = *(const copied_t *)(entry + done) + rows[i].tap;
      while ((done += COPIED) < count);
      at += count;
    }
  }
  place[width] = at;
  return (row_t){to, place, 0};
}

/* For each row of pixels: where the spikes of each pixel begin, counted from the row's first, and their number. Pixels may
   be sums over windows of down x across. */
void spike_rows(const uint64_t *bits, uint32_t *place, int64_t *total, index_t height, index_t width,
                index_t words, index_t down, index_t across, PARTS) {
  IN_PARTS {
    index_t high = height / down, wide = width / across;
    for (index_t row = begin; row < end; row++) {
      const uint64_t *seen = bits + (row / high * height + row % high * down) * width * words;
      uint32_t before = 0;
      for (index_t x = 0; x < wide; x++) {
        place[row * (wide + 1) + x] = before;
        for (index_t y = 0; y < down; y++)
          for (index_t w = 0; w < across * words; w++)
            before += __builtin_popcountll(seen[(y * width + x * across) * words + w]);
      }
      place[row * (wide + 1) + wide] = before;
      total[row] = before;
    }
  }
}

/* first + the place of each bit of a word, from `to` on. */
static inline uint32_t *listed(uint64_t word, uint32_t first, uint32_t *to, const uint32_t *stop) {
  uint32_t *next = to + __builtin_popcountll(word);
  for (; word && to + 4 <= stop; to += 4) /* four at once, without a branch; those too many are overwritten */
    for (int i = 0; i < 4; i++, word &= word - 1) to[i] = first + __builtin_ctzll(word | 1ull << 63);
  for (; word && to < stop; word &= word - 1) *to++ = first + __builtin_ctzll(word);
  return next;
}

/* The spikes of each pixel of a row: x channels + c. */
void spike_list(const uint64_t *bits, const int64_t *base, uint32_t *entries, index_t room,
                index_t height, index_t width, index_t words, index_t down, index_t across, index_t channels, PARTS) {
  IN_PARTS {
    index_t high = height / down, wide = width / across;
    for (index_t row = begin; row < end; row++) {
      if (base[row] == base[row + 1] || base[row + 1] > room) continue;
      const uint64_t *seen = bits + (row / high * height + row % high * down) * width * words;
      uint32_t *to = entries + base[row], *stop = entries + base[row + 1];
      for (index_t x = 0; x < wide; x++)
        for (index_t y = 0; y < down; y++)
          for (index_t w = 0; w < across * words; w++)
            to = listed(seen[(y * width + x * across) * words + w], x * channels + w % words * 64, to, stop);
    }
  }
}

#if defined(__AVX512BW__) && defined(__AVX512DQ__)
#define WIDEST 64
#else
#define WIDEST 32
#endif
typedef int32_t wide_t __attribute__((vector_size(32), aligned(4), may_alias));
typedef int16_t half_t __attribute__((vector_size(16), aligned(2), may_alias));
#define LANES 8

/* The signs of a vector's lanes as bits. */
static inline uint64_t signs(wide_t mask) {
#if defined(__AVX__)
  return (uint64_t)__builtin_ia32_movmskps256((__attribute__((vector_size(32))) float)mask);
#else
  uint64_t bits = 0;
  for (int lane = 0; lane < LANES; lane++) bits |= (uint64_t)(mask[lane] & 1) << lane;
  return bits;
#endif
}

#define WIDTH 64
#define WORD uint64_t
#define WIDE(name) name##_64
#include "whole_width.h"
#undef WIDTH
#undef WORD
#undef WIDE
#define WIDTH 32
#define WORD uint32_t
#define WIDE(name) name##_32
#include "whole_width.h"
#undef WIDTH
#undef WORD
#undef WIDE
#define WIDTH 16
#define WORD uint16_t
#define WIDE(name) name##_16
#include "whole_width.h"
#undef WIDTH
#undef WORD
#undef WIDE
#undef LANES

/* Where whole values [pixels, channels] are at least `bound`, and at most -bound, as two planes of bits. */
void value_bits(const int32_t *values, uint64_t *bits, index_t plane, index_t channels, index_t bound, PARTS) {
  IN_PARTS {
    index_t words = (channels + 63) / 64;
    for (index_t pixel = begin; pixel < end; pixel++)
      for (index_t w = 0; w < words; w++) {
        uint64_t up = 0, down = 0;
        for (index_t c = 64 * w; c < channels && c < 64 * w + 64; c++) {
          int32_t value = values[pixel * channels + c];
          up |= (uint64_t)(value >= bound) << (c % 64);
          down |= (uint64_t)(value <= -bound) << (c % 64);
        }
        bits[pixel * words + w] = up;
        bits[plane + pixel * words + w] = down;
      }
  }
}
