/* Event-driven layers of networks in whole numbers: every sum is exact, in any order.

   Spikes of either sign are two planes of bits, [2, steps, batch, height, width, words]. `spike_rows` and `spike_list`
   write them as lists, row by row of pixels, so that the spikes that a pixel reads through one row of a kernel lie one
   after another. A layer adds a row of 16-bit weights for each of them. */

typedef struct { /* one convolution's view of one layer's spikes; sizes are those of its input, then down and across */
  const uint32_t *entries; /* (2 x + sign) channels + c of each spike */
  const int64_t *base;     /* [steps batch height + 1]: where a row's spikes begin */
  const uint32_t *place;   /* [steps batch height, width + 1]: where a pixel's begin, from there */
  const int16_t *weight;   /* [tiles, down, across, 2 channels, WIDTH]: weights, and their negatives */
  const int32_t *worth;    /* of a spike in each step */
  index_t steps, height, width, channels, kernel[2], stride[2], padding[2];
  index_t room; /* as many weights have a sum that 16 bits hold */
} events_t;

/* A row of spikes that a row of pixels reads. */
typedef struct {
  index_t source, step;
  const uint32_t *entries, *place;
  const int16_t *weight;
} seen_t;

/* For each row of pixels: where the spikes of each pixel begin, counted from the row's first, and their number. Pixels may
   be sums over windows of down x across. `plane`: words from the positive to the negative spikes. */
void spike_rows(const uint64_t *bits, index_t plane, uint32_t *place, int64_t *total, index_t height, index_t width,
                index_t words, index_t down, index_t across, PARTS) {
  IN_PARTS {
    index_t high = height / down, wide = width / across;
    for (index_t row = begin; row < end; row++) {
      const uint64_t *seen = bits + (row / high * height + row % high * down) * width * words;
      uint32_t before = 0;
      for (index_t x = 0; x < wide; x++) {
        place[row * (wide + 1) + x] = before;
        for (index_t y = 0; y < down; y++)
          for (index_t w = 0; w < across * words; w++) {
            const uint64_t *word = seen + (y * width + x * across) * words + w;
            before += __builtin_popcountll(word[0]) + __builtin_popcountll(word[plane]);
          }
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

/* The spikes of each pixel of a row: (2 x + sign) channels + c, sign 1 for negative ones. */
void spike_list(const uint64_t *bits, index_t plane, const int64_t *base, uint32_t *entries, index_t room,
                index_t height, index_t width, index_t words, index_t down, index_t across, index_t channels, PARTS) {
  IN_PARTS {
    index_t high = height / down, wide = width / across;
    for (index_t row = begin; row < end; row++) {
      if (base[row] == base[row + 1] || base[row + 1] > room) continue;
      const uint64_t *seen = bits + (row / high * height + row % high * down) * width * words;
      uint32_t *to = entries + base[row], *stop = entries + base[row + 1];
      for (index_t x = 0; x < wide; x++)
        for (index_t y = 0; y < down; y++)
          for (index_t w = 0; w < across * words; w++) {
            const uint64_t *word = seen + (y * width + x * across) * words + w;
            uint32_t first = 2 * x * channels + w % words * 64;
            to = listed(word[0], first, to, stop);
            to = listed(word[plane], first + channels, to, stop);
          }
    }
  }
}

#if defined(__AVX512BW__) && defined(__AVX512DQ__)
#define WIDEST 64
#else
#define WIDEST 32
#endif
typedef int32_t wide_t __attribute__((vector_size(WIDEST), aligned(4), may_alias));
typedef int16_t narrow_t __attribute__((vector_size(WIDEST), aligned(2), may_alias));
typedef int16_t half_t __attribute__((vector_size(WIDEST / 2), aligned(2), may_alias));
#define LANES (WIDEST / 4)

/* The signs of a vector's lanes as bits. */
static inline uint64_t signs(wide_t mask) {
#if WIDEST == 64
  return (uint64_t)(uint16_t)__builtin_ia32_cvtd2mask512((__attribute__((vector_size(64))) int)mask);
#elif defined(__AVX__)
  return (uint64_t)__builtin_ia32_movmskps256((__attribute__((vector_size(32))) float)mask);
#else
  uint64_t bits = 0;
  for (int lane = 0; lane < LANES; lane++) bits |= (uint64_t)(mask[lane] & 1) << lane;
  return bits;
#endif
}

#define WIDTH 128
#define WORD uint64_t
#define WIDE(name) name##_128
#include "whole_width.h"
#undef WIDTH
#undef WORD
#undef WIDE
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
