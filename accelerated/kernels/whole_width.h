/* Layers of settling neurons in tiles of WIDTH channels, all steps of a chunk at once.

   A step's current is the sum of a row of weights for each spike, times what a spike is worth, and of `dense`. Membranes
   are (u - N) D: with w = worth[t], +1 at M >= w D / 2 while N + w <= most, -1 at M < -w D / 2 while N - w >= lowest. The
   first spike comes `lag` steps after the first input. */

#define VECTORS (WIDTH / LANES)
#define NARROW (VECTORS / 2)
#define TOGETHER (WIDTH < 64 ? WIDTH : 64) /* channels of a word */

/* One step of the neurons of a word; returns the positive spikes as bits, and the negative ones in `down`. */
static inline uint64_t WIDE(settle)(wide_t *m, wide_t *n, wide_t *e, const int32_t *step, int32_t w, int32_t most,
                                    int32_t lowest, uint64_t *down) {
  uint64_t up = 0, below = 0;
  for (int k = 0; k < TOGETHER / LANES; k++) {
    wide_t value = ((const wide_t *)step)[k] * w, half = value >> 1;
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

/* m += worth sum, and the sum is 0 again. */
static inline void WIDE(widen)(wide_t *m, narrow_t *sum, int32_t worth) {
  for (int k = 0; k < NARROW; k++) {
    const half_t *half = (const half_t *)(sum + k);
    m[2 * k] += __builtin_convertvector(half[0], wide_t) * worth;
    m[2 * k + 1] += __builtin_convertvector(half[1], wide_t) * worth;
    sum[k] = (narrow_t){0};
  }
}

void WIDE(whole_layer)(const events_t *sources, index_t n_sources, const int32_t *dense, index_t dense_step,
                       index_t dense_steps, const int32_t *step, index_t step_pixel, const int32_t *worth,
                       int32_t *membrane, int16_t *sent, int16_t *emitted, WORD *out, index_t steps, index_t lag,
                       index_t fresh, index_t batch, index_t height, index_t width, index_t channels, index_t most, index_t lowest, PARTS) {
  IN_PARTS {
    index_t rows = 0, pixels = batch * height * width, words = (channels + 63) / 64 * (64 / TOGETHER);
    for (index_t s = 0; s < n_sources; s++) rows += sources[s].steps * sources[s].kernel[0];
    seen_t seen[rows + 1];
    for (index_t at = begin; at < end; at++) {
      index_t tile = at / (batch * height), image = at / height % batch, y = at % height, number = 0;
      for (index_t t = 0; t < steps + lag; t++)
        for (index_t s = 0; s < n_sources; s++)
          for (index_t ky = 0; ky < sources[s].kernel[0] && t < sources[s].steps; ky++) {
            const events_t *in = sources + s;
            index_t from = y * in->stride[0] + ky - in->padding[0], row = (t * batch + image) * in->height + from;
            if (from < 0 || from >= in->height || in->base[row] == in->base[row + 1]) continue;
            seen[number].source = s, seen[number].step = t;
            seen[number].entries = in->entries + in->base[row];
            seen[number].place = in->place + row * (in->width + 1);
            seen[number++].weight = in->weight + (tile * in->kernel[0] + ky) * in->kernel[1] * 2 * in->channels * WIDTH;
          }
      seen[number].step = steps + lag;
      for (index_t x = 0; x < width; x++) {
        index_t pixel = (image * height + y) * width + x, place = pixel * channels + tile * WIDTH, calm = 0;
        wide_t m[VECTORS], n[VECTORS], e[VECTORS];
        narrow_t sum[NARROW];
        for (int k = 0; k < NARROW; k++) sum[k] = (narrow_t){0};
        memcpy(m, membrane + place, sizeof m);
        if (fresh)
          for (int k = 0; k < VECTORS; k++) n[k] = e[k] = (wide_t){0};
        else
          for (int k = 0; k < VECTORS; k++) {
            n[k] = __builtin_convertvector(((const half_t *)(sent + place))[k], wide_t);
            e[k] = __builtin_convertvector(((const half_t *)(emitted + place))[k], wide_t);
          }
        const seen_t *row = seen;
        const int32_t *steps_of = step + (step_pixel ? place % (height * width * channels) : tile * WIDTH);
        for (index_t t = 0; t < steps + lag; t++) {
          index_t busy = t < dense_steps;
          if (busy)
            for (int k = 0; k < VECTORS; k++) m[k] += ((const wide_t *)(dense + t * dense_step + place))[k];
          while (row->step == t) {
            const events_t *in = sources + row->source;
            index_t left = x * in->stride[1] - in->padding[1], right = left + in->kernel[1], room = in->room;
            index_t off = left * 2 * in->channels * WIDTH;
            left = left < 0 ? 0 : left > in->width ? in->width : left;
            right = right < 0 ? 0 : right > in->width ? in->width : right;
            for (index_t source = row->source; row->step == t && row->source == source; row++) {
              const uint32_t *entry = row->entries + row->place[left], *stop = row->entries + row->place[right];
              const narrow_t *weight = (const narrow_t *)(row->weight - off);
              while (entry < stop) {
                const uint32_t *here = stop - entry > room ? entry + room : stop;
                room -= here - entry;
                narrow_t part[NARROW];
                for (int k = 0; k < NARROW; k++) part[k] = sum[k];
                for (; entry != here; entry++) {
                  const narrow_t *one = weight + (size_t)*entry * NARROW;
                  for (int k = 0; k < NARROW; k++) part[k] += one[k];
                }
                for (int k = 0; k < NARROW; k++) sum[k] = part[k];
                if (room) continue;
                WIDE(widen)(m, sum, in->worth[t]);
                room = in->room;
                busy = 1;
              }
            }
            if (room == in->room) continue;
            WIDE(widen)(m, sum, in->worth[t]);
            busy = 1;
          }
          if (t < lag) continue;
          index_t now = t - lag, fires = busy || !calm || worth[now] != worth[now - 1];
          fires &= worth[now] <= most - lowest;
          calm = 1;
          for (int part = 0; part < WIDTH / TOGETHER; part++) {
            uint64_t up = 0, down = 0;
            int k = part * (TOGETHER / LANES);
            if (fires)
              up = WIDE(settle)(m + k, n + k, e + k, steps_of + part * TOGETHER, worth[now], most, lowest, &down);
            calm &= !(up | down);
            WORD *to = out + (now * pixels + pixel) * words + tile * (WIDTH / TOGETHER) + part;
            to[0] = (WORD)up, to[steps * pixels * words] = (WORD)down;
          }
        }
        memcpy(membrane + place, m, sizeof m);
        for (int k = 0; k < VECTORS; k++) {
          ((half_t *)(sent + place))[k] = __builtin_convertvector(n[k], half_t);
          ((half_t *)(emitted + place))[k] = __builtin_convertvector(e[k], half_t);
        }
      }
    }
  }
}
#undef VECTORS
#undef NARROW
#undef TOGETHER
