/* Event-driven layers: convolutions that add one row of weights per spike, and the neuron, in one pass.

   Spikes are bits: a word holds 64 channels of one pixel in one step, [steps, batch, height, width, words]. A layer's
   channels are computed in tiles of WIDTH (64, 32 or 16); weights are [tile][tap][word][64][WIDTH], already multiplied by
   the value of a spike of that channel. The sum over taps, words and bits is taken in this order, in REAL. */

#ifndef EVENT_TYPES
#define EVENT_TYPES

typedef struct { /* one convolution's view of one layer's spikes; sizes are those of its input, then down and across */
  const uint64_t *bits;
  const void *weight;
  index_t height, width, words, kernel[2], stride[2], padding[2];
  index_t bytes; /* bytes of a word that are looked up */
} source_t;
#endif

typedef REAL NAME(vector) __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));
typedef INT NAME(mask) __attribute__((vector_size(32)));
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

/* Levels after each step, [steps, pixels, channels], from the last ones and planes of bits of spikes worth[t] each. */
void NAME(levels_after)(const uint64_t *bits, const int32_t *worth, const int16_t *last, index_t filled, REAL *out,
                        index_t steps, index_t channels, PARTS) {
  IN_PARTS {
    index_t words = (channels + 63) / 64;
    for (index_t at = begin; at < end; at++) {
      index_t first = at % words * 64, many = channels - first < 64 ? channels - first : 64, pixel = at / words;
      int32_t level[64];
      for (index_t c = 0; c < many; c++) level[c] = last[pixel * filled + first + c];
      for (index_t t = steps - 1; t >= 0; t--) {
        REAL *to = out + (t * (whole / words) + pixel) * channels + first;
        for (index_t c = 0; c < many; c++) to[c] = (REAL)level[c];
        for (int sign = 0; sign < 2; sign++)
          for (uint64_t word = bits[(sign * steps + t) * whole + at]; word; word &= word - 1)
            level[__builtin_ctzll(word)] -= sign ? -worth[t] : worth[t];
      }
    }
  }
}

#ifndef EVENT_POOL
#define EVENT_POOL
/* Of `taps` neighbouring pixels, whose first is seen[0], those that lie in the row: channel c of tap i is bit i channels + c.
   `before` and `after`: pixels of the row that lie left of seen[0], and from it on. */
static inline uint64_t joined(const uint64_t *seen, index_t many, index_t before, index_t after, index_t channels,
                              index_t taps) {
  uint64_t word = 0;
  for (index_t i = 0; i < taps; i++)
    if (i >= -before && i < after) word |= seen[i * many] << i * channels;
  return word;
}

static inline __attribute__((always_inline)) void joined_run(const uint64_t *restrict seen, uint64_t *restrict out,
                                                             index_t n, index_t words, index_t channels, index_t taps) {
  for (index_t x = 0; x < n; x++) {
    uint64_t word = seen[x];
    for (index_t i = 1; i < taps; i++) word |= seen[x + i] << i * channels;
    out[x * words] = word;
  }
}

/* The bits that each pixel reads for a row of a kernel: [rows, width, many] -> [rows, out_width, taps / group, many]. With
   few channels (many = 1), `group` neighbouring taps share a word. */
void gather_bits(const uint64_t *bits, uint64_t *out, index_t width, index_t out_width, index_t many, index_t channels,
                 index_t kernel, index_t stride, index_t padding, index_t group, PARTS) {
  IN_PARTS {
    index_t words = (kernel + group - 1) / group * many;
    for (index_t row = begin; row < end; row++)
      for (index_t word = 0; word < words; word++) {
        index_t tap = word / many * group, taps = kernel - tap < group ? kernel - tap : group, off = tap - padding;
        const uint64_t *seen = bits + row * width * many + word % many;
        uint64_t *to = out + row * out_width * words + word;
        index_t first = out_width, last = out_width; /* pixels with all taps inside the row: simple loops */
        if (stride == 1 && many == 1) {
          first = off < 0 ? -off : 0, last = width - off - taps + 1;
          last = last < first ? first : last > out_width ? out_width : last;
          if (taps == 3 && words == 1)
            joined_run(seen + first + off, to + first, last - first, 1, channels, 3);
          else
            joined_run(seen + first + off, to + first * words, last - first, words, channels, taps);
        }
        for (index_t x = first ? 0 : last; x < out_width; x = x + 1 == first ? last : x + 1) {
          index_t at = x * stride + off;
          to[x * words] = joined(seen + at * many, many, at, width - at, channels, taps);
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
