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
} source_t;

/* 64 truth values in bytes -> 64 bits */
static inline uint64_t packed(const uint8_t *truth, int n) {
  uint64_t word = 0;
  for (int k = 0; k < n; k += 8) {
    uint64_t eight;
    memcpy(&eight, truth + k, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    eight = __builtin_bswap64(eight);
#endif
    word |= (uint64_t)((eight * 0x0102040810204080ull) >> 56) << k;
  }
  return word;
}
#endif

#define VECTOR NAME(vector)
#define LANES ((int)(32 / sizeof(REAL)))

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
#undef LANES

/* bits of the IF neuron on dense currents z [steps, batch, size, channels] (channels last): as event_layer's neuron. */
void NAME(if_bits)(const REAL *z, index_t z_step, uint64_t *out, index_t out_step, REAL *membrane, REAL *counts,
                   const REAL *theta, index_t channels, index_t steps, PARTS) {
  IN_PARTS {
    index_t words = (channels + 63) / 64;
    for (index_t pixel = begin; pixel < end; pixel++)
      for (index_t w = 0; w < words; w++) {
        index_t first = w * 64, n = channels - first < 64 ? channels - first : 64, at = pixel * channels + first;
        REAL v[64], c[64];
        uint8_t truth[64] = {0};
        memcpy(v, membrane + at, n * sizeof(REAL));
        memcpy(c, counts + at, n * sizeof(REAL));
        for (index_t t = 0; t < steps; t++) {
          const REAL *current = z + t * z_step + at;
          for (index_t j = 0; j < n; j++) {
            REAL high = v[j] + current[j], th = theta[first + j];
            uint8_t fires = high >= th;
            v[j] = high - (fires ? th : 0);
            c[j] += fires;
            truth[j] = fires;
          }
          out[t * out_step + pixel * words + w] = packed(truth, 64);
        }
        memcpy(membrane + at, v, n * sizeof(REAL));
        memcpy(counts + at, c, n * sizeof(REAL));
      }
  }
}

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
/* Few channels: `group` neighbouring taps of a kernel's row share a word. [rows, width] of one word each ->
   [rows, out_width, words]; channel c of tap i of its word is bit i channels + c. */
void gather_bits(const uint64_t *bits, uint64_t *out, index_t width, index_t out_width, index_t channels, index_t kernel,
                 index_t stride, index_t padding, index_t group, PARTS) {
  IN_PARTS {
    index_t words = (kernel + group - 1) / group;
    for (index_t row = begin; row < end; row++)
      for (index_t x = 0; x < out_width; x++)
        for (index_t w = 0; w < words; w++) {
          uint64_t word = 0;
          for (index_t i = 0; i < group && w * group + i < kernel; i++) {
            index_t at = x * stride + w * group + i - padding;
            if (at >= 0 && at < width) word |= bits[row * width + at] << (i * channels);
          }
          out[(row * out_width + x) * words + w] = word;
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
