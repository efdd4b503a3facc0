/* Layers of settling neurons in tiles of WIDTH channels, all steps of a chunk at once.

   A step's current is the sum of a row of weights for each spike, times what a spike is worth, and of `dense`. Membranes
   are (u - N) D: with w = worth[t], +1 at M >= w D / 2 while N + w <= most, -1 at M < -w D / 2 while N - w >= lowest. The
   first spike comes `lag` steps after the first input. `out` is 0 before. */

#define VECTORS (WIDTH / LANES)
#define PAIRS WIDE(pairs)
#define NARROW ((int)(WIDTH / sizeof(PAIRS)))
typedef int16_t PAIRS __attribute__((vector_size(WIDTH < WIDEST ? WIDTH : WIDEST), aligned(1), may_alias));

/* m += worth times the sum of the rows of some spikes, at most as many as 16 bits hold. Bytes lie in pairs: `both` sums
   pairs as one number, `upper` upper bytes alone; lower bytes hold 128 + a weight. */
static inline void WIDE(add_rows)(wide_t *m, const int8_t *weight, const uint32_t *entry, const uint32_t *stop,
                                  int32_t worth) {
  PAIRS both[NARROW], upper[NARROW];
  int16_t sum[WIDTH], over = (int16_t)(128 * (stop - entry));
  for (int k = 0; k < NARROW; k++) both[k] = upper[k] = (PAIRS){0};
#pragma GCC unroll 4
  for (; entry != stop; entry++) {
    const PAIRS *row = (const PAIRS *)(weight + (size_t)*entry * WIDTH);
    for (int k = 0; k < NARROW; k++) both[k] += row[k], upper[k] += row[k] >> 8;
  }
  for (int k = 0; k < NARROW; k++) {
    ((PAIRS *)sum)[k] = both[k] - (upper[k] << 8) - over;
    ((PAIRS *)sum)[NARROW + k] = upper[k];
  }
  for (int k = 0; k < VECTORS; k++) m[k] += __builtin_convertvector(((const half_t *)sum)[k], wide_t) * worth;
}

/* Add the spikes of one sign of a source in step t to a row of pixels; calm[x] = 0 where any arrived. */
static inline void WIDE(arrive)(const events_t *in, index_t sign, index_t t, index_t batch, index_t image, index_t y,
                                index_t tile, int32_t *membrane, index_t channels, index_t width, uint8_t *calm,
                                scratch_t *scratch) {
  row_t rows[in->kernel[0]];
  index_t number = rows_of(in, sign, t, batch, image, y, rows);
  if (!number) return;
  row_t all = merge(rows, number, in->width, scratch);
  const int8_t *weight = in->weight + (tile * in->kernel[0] * in->kernel[1] * in->channels + all.tap) * WIDTH;
  int32_t worth = sign ? -in->worth[t] : in->worth[t];
  for (index_t x = 0; x < width; x++) {
    index_t left = x * in->stride[1] - in->padding[1], right = left + in->kernel[1];
    const int8_t *seen = weight - left * in->channels * WIDTH;
    left = left < 0 ? 0 : left > in->width ? in->width : left;
    right = right < 0 ? 0 : right > in->width ? in->width : right;
    for (index_t at = all.place[left], stop = all.place[right], next; at < stop; at = next, calm[x] = 0) {
      next = stop - at > in->room ? at + in->room : stop;
      WIDE(add_rows)((wide_t *)(membrane + x * channels), seen, all.entries + at, all.entries + next, worth);
    }
  }
}

/* The same of neurons at the same places, each spike times a factor. */
static inline void WIDE(arrive_directly)(const direct_t *in, index_t sign, index_t t, index_t rows, index_t row,
                                         index_t words, index_t tile, int32_t *membrane, index_t channels,
                                         index_t width, uint8_t *calm) {
  const wide_t bit = {1, 2, 4, 8, 16, 32, 64, 128}, *factor = (const wide_t *)(in->factor + tile * WIDTH);
  index_t at = (sign * in->steps + t) * rows + row;
  const WORD *word = (const WORD *)in->bits + at * width * words + tile;
  int32_t worth = sign ? -in->worth[t] : in->worth[t];
  if (in->base[at] == in->base[at + 1]) return;
  for (index_t x = 0; x < width; x++) {
    if (!word[x * words]) continue;
    wide_t *m = (wide_t *)(membrane + x * channels);
    for (int k = 0; k < VECTORS; k++)
      m[k] += ((bit & (int32_t)(word[x * words] >> k * LANES)) == bit) & (factor[k] * worth);
    calm[x] = 0;
  }
}

/* One step of the neurons of a pixel; returns the positive spikes as bits, and the negative ones in `down`. */
static inline uint64_t WIDE(settle)(wide_t *m, wide_t *n, wide_t *e, const wide_t *step, int32_t w, int32_t most,
                                    int32_t lowest, uint64_t *down) {
  uint64_t up = 0, below = 0;
  for (int k = 0; k < VECTORS; k++) {
    wide_t value = step[k] * w, half = value >> 1;
    wide_t plus = (m[k] > value - half - 1) & (n[k] < most - w + 1), minus = (m[k] < -half) & (n[k] > lowest + w - 1);
    m[k] += (value & minus) - (value & plus);
    n[k] += (plus & w) - (minus & w);
    e[k] -= plus | minus;
    up |= signs(plus) << (k * LANES);
    below |= signs(minus) << (k * LANES);
  }
  *down = below;
  return up;
}

void WIDE(whole_layer)(const events_t *sources, index_t n_sources, const direct_t *directs, index_t n_directs,
                       const int32_t *dense, index_t dense_step, index_t dense_steps, const int32_t *step,
                       index_t step_pixel, const int32_t *start, const int32_t *worth, int32_t *membrane, int16_t *sent,
                       int16_t *emitted, WORD *out, uint8_t *fired, index_t steps, index_t lag, index_t fresh,
                       index_t batch, index_t height, index_t width, index_t channels, index_t most, index_t lowest,
                       PARTS) {
  IN_PARTS {
    index_t words = (channels + 63) / 64 * (64 / WIDTH), rows = batch * height, plane = steps * rows * width * words;
    scratch_t scratch = {0}, counts = {0}, flags = {0};
    wide_t *n = (wide_t *)grown(&counts, 2 * width * WIDTH), *e = n + width * VECTORS;
    uint8_t *calm = (uint8_t *)grown(&flags, width); /* pixels that wait for input or for another worth */
    for (index_t at = begin; at < end; at++) {
      index_t tile = at / rows, row = at % rows, image = row / height, y = row % height;
      index_t place = row * width * channels + tile * WIDTH;
      const int32_t *step_of = step + tile * WIDTH + (step_pixel ? y * width * channels : 0);
      for (index_t x = 0; x < width; x++)
        for (int k = 0; k < VECTORS; k++) {
          index_t here = place + x * channels + k * LANES, i = x * VECTORS + k;
          if (fresh) *(wide_t *)(membrane + here) = *(const wide_t *)(start + tile * WIDTH + k * LANES);
          n[i] = fresh ? (wide_t){0} : __builtin_convertvector(*(const half_t *)(sent + here), wide_t);
          e[i] = fresh ? (wide_t){0} : __builtin_convertvector(*(const half_t *)(emitted + here), wide_t);
        }
      for (index_t t = 0; t < steps + lag; t++) {
        index_t now = t - lag, any = 0;
        if (now <= 0 || worth[now] != worth[now - 1] || t < dense_steps) memset(calm, 0, width);
        for (index_t x = 0; x < width && t < dense_steps; x++)
          for (int k = 0; k < VECTORS; k++) {
            index_t here = place + x * channels + k * LANES;
            *(wide_t *)(membrane + here) += *(const wide_t *)(dense + t * dense_step + here);
          }
        for (int sign = 0; sign < 2; sign++) {
          for (const events_t *in = sources; in < sources + n_sources; in++)
            if (t < in->steps)
              WIDE(arrive)(in, sign, t, batch, image, y, tile, membrane + place, channels, width, calm, &scratch);
          for (const direct_t *in = directs; in < directs + n_directs; in++)
            if (t < in->steps)
              WIDE(arrive_directly)(in, sign, t, rows, row, words, tile, membrane + place, channels, width, calm);
        }
        if (t < lag) continue;
        if (worth[now] > most - lowest) memset(calm, 1, width);
        WORD *to = out + (now * rows + row) * width * words + tile;
        for (index_t x = 0; x < width; x++) {
          if (calm[x]) continue;
          const int32_t *step_at = step_of + (step_pixel ? x * channels : 0);
          uint64_t down, up = WIDE(settle)((wide_t *)(membrane + place + x * channels), n + x * VECTORS,
                                           e + x * VECTORS, (const wide_t *)step_at, worth[now], most, lowest, &down);
          to[x * words] = (WORD)up, to[plane + x * words] = (WORD)down;
          calm[x] = !(up | down), any |= !calm[x];
        }
        if (any) __atomic_store_n(fired + now * batch + image, 1, __ATOMIC_RELAXED);
      }
      for (index_t x = 0; x < width; x++)
        for (int k = 0; k < VECTORS; k++) {
          index_t here = place + x * channels + k * LANES, i = x * VECTORS + k;
          *(half_t *)(sent + here) = __builtin_convertvector(n[i], half_t);
          *(half_t *)(emitted + here) = __builtin_convertvector(e[i], half_t);
        }
    }
    free(scratch.at), free(counts.at), free(flags.at);
  }
}
#undef VECTORS
#undef PAIRS
#undef NARROW
