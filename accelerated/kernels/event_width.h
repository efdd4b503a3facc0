/* One layer of spiking neurons behind any number of convolutions of spikes, in tiles of WIDTH channels.

   Images begin..end - 1. currents: bias [channels] + the sources + dense [steps or 1, batch, pixels, channels] (may be
   NULL; dense_step 0 if constant). Writes bits, the last membranes, and adds to the counts, all channels last. `channels`
   is a multiple of WIDTH; those that only fill up have a bias of 0 and a threshold of infinity. `out` begins as zeros. */

#define VECTORS (WIDTH / LANES)

void WIDE(event_layer)(const source_t *sources, index_t n_sources, const REAL *bias, const REAL *dense,
                       index_t dense_step, const REAL *theta, REAL *membrane, REAL *counts, uint64_t *out, index_t steps,
                       index_t batch, index_t height, index_t width, index_t channels, REAL *room, index_t enough, PARTS) {
  IN_PARTS {
    REAL *sums = room + part * enough;
    index_t words = (channels + 63) / 64, block = BLOCK / (steps * width), group = 1;
    if (block < 1) block = 1;
    if (block >= height) { /* whole images, several at once: a tile of weights is read for all of them */
      group = block / height;
      block = height;
    }
    for (index_t first = begin; first < end; first += group)
      for (index_t top = 0; top < height; top += block) {
        index_t images = end - first < group ? end - first : group;
        index_t rows = height - top < block ? height - top : block, area = rows * width;
        for (index_t tile = 0; tile < channels / WIDTH; tile++) {
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
  #if WIDTH < 64 /* two chains of additions: one would wait for itself */
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
            const REAL *th = theta + tile * WIDTH;
            REAL v[WIDTH], c[WIDTH];
            uint8_t truth[WIDTH];
            memcpy(v, membrane + at, sizeof v);
            memcpy(c, counts + at, sizeof c);
            for (index_t t = 0; t < steps; t++) {
              const REAL *current = sums + (t * images * area + p) * WIDTH;
              if (dense) {
                const REAL *more = dense + t * dense_step + at;
                for (int j = 0; j < WIDTH; j++) v[j] += current[j] + more[j];
              } else {
                for (int j = 0; j < WIDTH; j++) v[j] += current[j];
              }
              for (int j = 0; j < WIDTH; j++) {
                REAL fire = v[j] >= th[j] ? th[j] : 0;
                c[j] += v[j] >= th[j] ? 1 : 0;
                truth[j] = v[j] >= th[j];
                v[j] -= fire;
              }
              out[(t * batch * height * width + pixel) * words + tile * WIDTH / 64] |=
                  packed(truth, WIDTH) << (tile * WIDTH % 64);
            }
            memcpy(membrane + at, v, sizeof v);
            memcpy(counts + at, c, sizeof c);
          }
        }
      }
  }
}

#undef VECTORS
