/* Layers of spiking neurons behind any number of convolutions of spikes, in tiles of WIDTH channels.

   currents: bias [channels] + the sources + dense [steps or 1, batch, pixels, channels] (may be NULL; dense_step 0 if
   constant). Writes bits, the last membranes, and adds to the counts, all channels last; `fresh`: the membrane is theta / 2
   and nothing has been counted. `channels` is a multiple of WIDTH; padding channels have a bias of 0 and a threshold
   that is never reached. */

#define VECTORS (WIDTH / LANES)

/* V <- V + z; s = [V >= theta]; V <- V - theta s; N <- N + s, of WIDTH channels; returns s as bits. */
static inline uint64_t WIDE(fire)(VECTOR *v, VECTOR *n, const VECTOR *z, const VECTOR *th) {
  const VECTOR one = (VECTOR){0} + 1;
  uint64_t bits = 0;
  for (int k = 0; k < VECTORS; k++) {
    VECTOR high = v[k] + z[k];
    MASK fires = high >= th[k];
    v[k] = high - (VECTOR)((MASK)th[k] & fires);
    n[k] += (VECTOR)((MASK)one & fires);
    bits |= NAME(bits_of)(fires) << (k * LANES);
  }
  return bits;
}

static inline void WIDE(begin)(VECTOR *v, VECTOR *n, const REAL *membrane, const REAL *counts, const REAL *theta,
                               index_t at, index_t fresh) {
  for (int k = 0; k < VECTORS; k++) {
    if (fresh)
      v[k] = ((const VECTOR *)theta)[k] / 2, n[k] = (VECTOR){0};
    else
      v[k] = ((const VECTOR *)(membrane + at))[k], n[k] = ((const VECTOR *)(counts + at))[k];
  }
}

/* A tile's bits into their place in a word; the first tile of a word clears it. */
static inline void WIDE(put)(uint64_t *word, uint64_t bits, index_t tile) {
  index_t place = tile * WIDTH % 64;
  *word = (place ? *word : 0) | bits << place;
}

/* The neuron alone, on currents z [steps or 1 (z_step 0), pixels, channels]. */
void WIDE(if_bits)(const REAL *z, index_t z_step, uint64_t *out, REAL *membrane, REAL *counts, const REAL *theta,
                   index_t channels, index_t steps, index_t fresh, PARTS) {
  IN_PARTS {
    index_t words = (channels + 63) / 64;
    for (index_t pixel = begin; pixel < end; pixel++)
      for (index_t tile = 0; tile < channels / WIDTH; tile++) {
        index_t at = pixel * channels + tile * WIDTH;
        VECTOR v[VECTORS], n[VECTORS];
        WIDE(begin)(v, n, membrane, counts, theta + tile * WIDTH, at, fresh);
        for (index_t t = 0; t < steps; t++)
          WIDE(put)(out + (t * whole + pixel) * words + tile * WIDTH / 64,
                    WIDE(fire)(v, n, (const VECTOR *)(z + t * z_step + at), (const VECTOR *)(theta + tile * WIDTH)), tile);
        memcpy(membrane + at, v, sizeof v);
        memcpy(counts + at, n, sizeof n);
      }
  }
}

/* Sums of rows of weights, one per spike. A part has images begin..end - 1, or (`by_tile`) tiles of channels. */
void WIDE(event_layer)(const source_t *sources, index_t n_sources, const REAL *bias, const REAL *dense,
                       index_t dense_step, const REAL *theta, REAL *membrane, REAL *counts, uint64_t *out, index_t steps,
                       index_t batch, index_t height, index_t width, index_t channels, index_t fresh, index_t by_tile,
                       REAL *room, index_t enough, PARTS) {
  IN_PARTS {
    REAL *sums = room + part * enough;
    index_t words = (channels + 63) / 64, block = BLOCK / (steps * width), group = 1;
    index_t from_image = by_tile ? 0 : begin, to_image = by_tile ? batch : end;
    index_t from_tile = by_tile ? begin : 0, to_tile = by_tile ? end : channels / WIDTH;
    if (block < 1) block = 1;
    if (block >= height) { /* several whole images at once: they share each read of a tile of weights */
      group = block / height;
      block = height;
    }
    for (index_t first = from_image; first < to_image; first += group)
      for (index_t top = 0; top < height; top += block) {
        index_t images = to_image - first < group ? to_image - first : group;
        index_t rows = height - top < block ? height - top : block, area = rows * width;
        for (index_t tile = from_tile; tile < to_tile; tile++) {
          for (index_t p = 0; p < steps * images * area; p++)
            memcpy(sums + p * WIDTH, bias + tile * WIDTH, WIDTH * sizeof(REAL));
          for (index_t s = 0; s < n_sources; s++) {
            source_t in = sources[s];
            index_t taps = in.kernel[0] * in.kernel[1];
            for (index_t tap = 0; tap < taps; tap++) {
              index_t dy = tap / in.kernel[1] - in.padding[0], dx = tap % in.kernel[1] - in.padding[1];
              for (index_t w = 0; w < in.words; w++) {
                const REAL *weight = (const REAL *)in.weight + ((tile * taps + tap) * in.words + w) * 64 * WIDTH;
                for (index_t t = 0; t < steps; t++)
                  for (index_t r = 0; r < images * rows; r++) {
                    index_t image = first + r / rows, from = (top + r % rows) * in.stride[0] + dy;
                    if (from < 0 || from >= in.height) continue;
                    const uint64_t *row = in.bits + (((t * batch + image) * in.height + from) * in.width) * in.words + w;
                    REAL *sum = sums + (t * images * rows + r) * width * WIDTH;
                    for (index_t x = 0; x < width; x++) {
                      index_t at = x * in.stride[1] + dx;
                      if (at < 0 || at >= in.width) continue;
                      uint64_t word = row[at * in.words];
                      if (!word) continue;
                      VECTOR *target = (VECTOR *)(sum + x * WIDTH), part[VECTORS];
                      for (int k = 0; k < VECTORS; k++) part[k] = target[k];
#if WIDTH < 64 /* two independent chains of additions hide latency */
                      VECTOR other[VECTORS];
                      memset(other, 0, sizeof other);
                      for (int pairs = __builtin_popcountll(word) / 2; pairs; pairs--) {
                        const VECTOR *one = (const VECTOR *)(weight + __builtin_ctzll(word) * WIDTH);
                        word &= word - 1;
                        const VECTOR *two = (const VECTOR *)(weight + __builtin_ctzll(word) * WIDTH);
                        word &= word - 1;
                        for (int k = 0; k < VECTORS; k++) part[k] += one[k], other[k] += two[k];
                      }
                      for (int k = 0; k < VECTORS; k++) part[k] += other[k];
#endif
                      for (; word; word &= word - 1) {
                        const VECTOR *one = (const VECTOR *)(weight + __builtin_ctzll(word) * WIDTH);
                        for (int k = 0; k < VECTORS; k++) part[k] += one[k];
                      }
                      for (int k = 0; k < VECTORS; k++) target[k] = part[k];
                    }
                  }
              }
            }
          }
          for (index_t p = 0; p < images * area; p++) {
            index_t pixel = (first + p / area) * height * width + top * width + p % area;
            index_t at = pixel * channels + tile * WIDTH;
            const VECTOR *th = (const VECTOR *)(theta + tile * WIDTH);
            VECTOR v[VECTORS], n[VECTORS];
            WIDE(begin)(v, n, membrane, counts, theta + tile * WIDTH, at, fresh);
            for (index_t t = 0; t < steps; t++) {
              VECTOR *z = (VECTOR *)(sums + (t * images * area + p) * WIDTH);
              if (dense)
                for (int k = 0; k < VECTORS; k++) z[k] += ((const VECTOR *)(dense + t * dense_step + at))[k];
              WIDE(put)(out + (t * batch * height * width + pixel) * words + tile * WIDTH / 64, WIDE(fire)(v, n, z, th),
                        tile);
            }
            memcpy(membrane + at, v, sizeof v);
            memcpy(counts + at, n, sizeof n);
          }
        }
      }
  }
}

#if WIDTH < 64
#define ENTRIES 257 /* 256 are used: tables 2^n bytes apart would collide in the cache */
#define ABREAST (8 / VECTORS) /* steps at once: their sums stay in registers */

/* The same for sources of few channels: the sum of the rows of eight channels is looked up, at the same cost for any rate.

   In a source, `weight` is [tile][row of the kernel][word][bytes][ENTRIES][WIDTH], `bytes` is even, and pixel x of a row
   reads the words from x `words` on (written by `gather_bits`). Rows of pixels begin..end - 1. */
void WIDE(table_layer)(const source_t *sources, index_t n_sources, const REAL *bias, const REAL *dense,
                       index_t dense_step, const REAL *theta, REAL *membrane, REAL *counts, uint64_t *out, index_t steps,
                       index_t batch, index_t height, index_t width, index_t channels, index_t fresh, PARTS) {
  IN_PARTS {
    index_t words = (channels + 63) / 64, size = batch * height * width;
    for (index_t tile = 0; tile < channels / WIDTH; tile++)
      for (index_t row = begin; row < end; row++) {
        index_t image = row / height, y = row % height, n_seen = 0;
        struct {
          const uint64_t *bits;
          const VECTOR *table;
          index_t step, words, bytes;
        } seen[LOOKED_UP]; /* the words that this row's first pixel reads */
        for (index_t s = 0; s < n_sources; s++) {
          source_t in = sources[s];
          for (index_t tap = 0; tap < in.kernel[0]; tap++) {
            index_t from = y * in.stride[0] + tap - in.padding[0];
            if (from < 0 || from >= in.height) continue;
            for (index_t w = 0; w < in.words; w++, n_seen++) {
              seen[n_seen].bits = in.bits + (image * in.height + from) * in.width * in.words + w;
              seen[n_seen].table = (const VECTOR *)in.weight +
                                   ((tile * in.kernel[0] + tap) * in.words + w) * in.bytes * ENTRIES * VECTORS;
              seen[n_seen].step = batch * in.height * in.width * in.words;
              seen[n_seen].words = in.words, seen[n_seen].bytes = in.bytes;
            }
          }
        }
        for (index_t x = 0; x < width; x++) {
          index_t pixel = row * width + x, at = pixel * channels + tile * WIDTH;
          VECTOR v[VECTORS], n[VECTORS], z[ABREAST][VECTORS];
          WIDE(begin)(v, n, membrane, counts, theta + tile * WIDTH, at, fresh);
          for (index_t first = 0; first < steps; first += ABREAST) {
            index_t more = steps - first < ABREAST ? steps - first : ABREAST; /* the rest repeat the last, unused */
            for (int t = 0; t < ABREAST; t++)
              for (int k = 0; k < VECTORS; k++) z[t][k] = ((const VECTOR *)(bias + tile * WIDTH))[k];
            for (index_t s = 0; s < n_seen; s++) {
              const VECTOR *table = seen[s].table;
              uint64_t word[ABREAST];
              for (int t = 0; t < ABREAST; t++)
                word[t] = seen[s].bits[(first + (t < more ? t : more - 1)) * seen[s].step + x * seen[s].words];
              for (index_t b = 0; b < seen[s].bytes; b += 2, table += 2 * ENTRIES * VECTORS)
                for (int t = 0; t < ABREAST; t++) {
                  const VECTOR *one = table + (word[t] & 255) * VECTORS;
                  const VECTOR *two = table + (ENTRIES + (word[t] >> 8 & 255)) * VECTORS;
                  for (int k = 0; k < VECTORS; k++) z[t][k] += one[k];
                  for (int k = 0; k < VECTORS; k++) z[t][k] += two[k];
                  word[t] >>= 16;
                }
            }
            for (index_t t = 0; t < more; t++) {
              if (dense)
                for (int k = 0; k < VECTORS; k++)
                  z[t][k] += ((const VECTOR *)(dense + (first + t) * dense_step + at))[k];
              WIDE(put)(out + ((first + t) * size + pixel) * words + tile * WIDTH / 64,
                        WIDE(fire)(v, n, z[t], (const VECTOR *)(theta + tile * WIDTH)), tile);
            }
          }
          memcpy(membrane + at, v, sizeof v);
          memcpy(counts + at, n, sizeof n);
        }
      }
  }
}
#undef ABREAST
#undef ENTRIES
#endif

#undef VECTORS
