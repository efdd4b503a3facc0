/* Event-driven layers: convolutions that add one row of weights for each spike, and the neuron, in one pass.

   Spikes are bits: a word holds 64 channels of one pixel in one step, [steps, batch, height, width, words]. A layer's
   channels are done in tiles of WIDTH (64, 32 or 16); weights are [tile][tap][word][64][WIDTH], already times what a spike
   of that channel is worth. The sum over taps, words and bits is taken in this order, in REAL. */

#ifndef EVENT_TYPES
#define EVENT_TYPES

typedef struct { /* one convolution's view of one layer's spikes; sizes are those of its input, then down and across */
  const uint64_t *bits;
  const void *weight;
  index_t height, width, words, kernel[2], stride[2], padding[2];
  index_t bytes; /* of a word that are looked up */
} source_t;
#endif

#define VECTOR NAME(vector)
#define MASK NAME(mask)
#define LANES ((int)(32 / sizeof(REAL)))

/* The signs of a vector's lanes as bits. */
static inline uint64_t NAME(bits_of)(MASK mask) {
#if defined(__AVX__)
  return (uint64_t)MOVEMASK((VECTOR)mask);
#else
  uint64_t bits = 0;
  for (int lane = 0; lane < LANES; lane++) bits |= (uint64_t)(mask[lane] & 1) << lane;
  return bits;
#endif
}

#define WIDTH 64
#define WIDE(name) NAME(name##_64)
#include "event_width.h"
#undef WIDTH
#undef WIDE
#define WIDTH 32
#define WIDE(name) NAME(name##_32)
#include "event_width.h"
#undef WIDTH
#undef WIDE
#define WIDTH 16
#define WIDE(name) NAME(name##_16)
#include "event_width.h"
#undef WIDTH
#undef WIDE
#undef VECTOR
#undef MASK
#undef LANES

/* bits [pixels, words] -> worth[c] where channel c spiked, else 0: [pixels, channels]. */
void NAME(unpack)(const uint64_t *bits, REAL *out, const REAL *worth, index_t channels, PARTS) {
  IN_PARTS {
    index_t words = (channels + 63) / 64;
    for (index_t pixel = begin; pixel < end; pixel++)
      for (index_t c = 0; c < channels; c++)
        out[pixel * channels + c] = bits[pixel * words + c / 64] >> (c % 64) & 1 ? worth[c] : 0;
  }
}

#ifndef EVENT_POOL
#define EVENT_POOL
/* What each pixel sees of a row of a kernel: [rows, width, many] -> [rows, out_width, taps / group, many]. Where there are
   few channels (many: 1), `group` neighbouring taps share a word: channel c of its tap i is bit i channels + c. */
void gather_bits(const uint64_t *bits, uint64_t *out, index_t width, index_t out_width, index_t many,
                 index_t channels, index_t kernel, index_t stride, index_t padding, index_t group, PARTS) {
  IN_PARTS {
    index_t words = (kernel + group - 1) / group * many;
    for (index_t row = begin; row < end; row++)
      for (index_t tap = 0; tap < kernel; tap++) {
        index_t shift = tap % group * channels, off = tap - padding; /* x stride + off is the place */
        index_t first = off < 0 ? (-off + stride - 1) / stride : 0, last = width - off;
        last = last <= 0 ? 0 : (last + stride - 1) / stride;
        if (last > out_width) last = out_width;
        for (index_t w = 0; w < many; w++) {
          uint64_t *to = out + row * out_width * words + tap / group * many + w;
          const uint64_t *seen = bits + (row * width + off) * many + w;
          for (index_t x = 0; !(tap % group) && x < out_width; x++) to[x * words] = 0;
          for (index_t x = first; x < last; x++) to[x * words] |= seen[x * stride * many] << shift;
        }
      }
  }
}

/* Sums over 2 x 2 windows as three planes of bits (ones, twos, fours): [n, height, width, words] ->
   [n, height / 2, width / 2, 3 words]; a pooled pixel is (ones + 2 twos + 4 fours) / 4. */
void pool_bits(const uint64_t *bits, uint64_t *out, index_t height, index_t width, index_t words, PARTS) {
  IN_PARTS {
    for (index_t i = begin; i < end; i++)
      for (index_t y = 0; y < height / 2; y++)
        for (index_t x = 0; x < width / 2; x++)
          for (index_t w = 0; w < words; w++) {
            const uint64_t *corner = bits + ((i * height + 2 * y) * width + 2 * x) * words + w;
            uint64_t a = corner[0], b = corner[words], c = corner[width * words], d = corner[(width + 1) * words];
            uint64_t ab = a ^ b, cd = c ^ d, both = (a & b) ^ (c & d), carry = ab & cd;
            uint64_t *pooled = out + ((i * (height / 2) + y) * (width / 2) + x) * 3 * words;
            pooled[w] = ab ^ cd;
            pooled[words + w] = both ^ carry;
            pooled[2 * words + w] = a & b & c & d;
          }
  }
}
#endif
