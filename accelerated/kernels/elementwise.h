/* The IF neuron over many steps, and QCFS with its derivatives: one pass over memory each.

   Arrays are flat, in the order in which they lie in memory. The threshold of element i is theta[(i / inner) % count]:
   one number (count 1), channels of an image (inner: its pixels) or of channels_last (inner 1), heads, neurons. Threads
   divide an array into parts (kernels.c). */

#ifndef TILE
#define TILE 1024 /* elements that stay in the L1 cache */
#define LONG 16384 /* elements whose state stays in the L2 cache */
#endif

/* th[0..n - 1]: the thresholds of the elements from i on. */
static void NAME(thresholds)(REAL *th, const REAL *theta, index_t count, index_t inner, index_t i, index_t n) {
  if (count == 1) {
    for (index_t j = 0; j < n; j++) th[j] = theta[0];
    return;
  }
  index_t at = (i / inner) % count, left = inner - i % inner;
  for (index_t j = 0; j < n;) {
    if (inner == 1) {
      index_t run = count - at < n - j ? count - at : n - j;
      memcpy(th + j, theta + at, run * sizeof(REAL));
      j += run, at = 0;
    } else {
      index_t run = left < n - j ? left : n - j;
      for (index_t k = 0; k < run; k++) th[j + k] = theta[at];
      j += run, left = inner, at = at + 1 == count ? 0 : at + 1;
    }
  }
}

/* The number of elements from i on that share a threshold, which is written to th. */
static inline index_t NAME(shared)(REAL *th, const REAL *theta, index_t count, index_t inner, index_t i, index_t end) {
  index_t run = count == 1 ? end - i : inner - i % inner;
  *th = theta[count == 1 ? 0 : (i / inner) % count];
  return run < end - i ? run : end - i;
}

/* One step of n neurons; thresholds are th[0], or th[j] if `each`; a spike has the value 1 if `unit`, else theta. */
static inline __attribute__((always_inline)) void NAME(if_step)(const REAL *restrict z, REAL *restrict out,
                                                                REAL *restrict v, REAL *restrict counts,
                                                                const REAL *restrict th, index_t n, int each, int unit,
                                                                int counted) {
  for (index_t j = 0; j < n; j++) {
    REAL theta = th[each ? j : 0], high = v[j] + z[j];
    int fires = high >= theta;
    v[j] = high - (fires ? theta : 0);
    if (counted) counts[j] += fires ? 1 : 0;
    out[j] = fires ? (unit ? 1 : theta) : 0;
  }
}

/* V <- V + z_t; s_t = [V >= theta]; V <- V - theta s_t, for t = 0..steps - 1, from `membrane`, which receives the last V
   (NULL: from theta / 2, and the last V is not kept).

   z_t begins at z + t z_step (a constant current: z_step 0), theta s_t (s_t if `unit`) at out + t out_step. The spikes are
   added to `counts` (unless NULL). Memory is read and written in runs of LONG elements, step after step, while their
   state stays in the L2 cache. All steps of a few elements at once would be many streams, which can collide in the
   caches depending on how the system placed the pages. */
void NAME(if_run)(const REAL *z, index_t z_step, REAL *out, index_t out_step, REAL *membrane, REAL *counts, index_t unit,
                  const REAL *theta, index_t count, index_t inner, index_t steps, PARTS) {
  IN_PARTS {
    REAL th[LONG], v[LONG];
    for (index_t i = begin; i < end; i += LONG) {
      index_t n = end - i < LONG ? end - i : LONG;
      REAL *state = membrane ? membrane + i : v, *sent = counts ? counts + i : 0;
      if (i == begin || count != 1) NAME(thresholds)(th, theta, count, inner, i, n);
      for (index_t j = 0; !membrane && j < n; j++) v[j] = th[j] / 2;
      for (index_t t = 0; t < steps; t++) {
        const REAL *from = z + t * z_step + i;
        REAL *to = out + t * out_step + i;
        switch ((count != 1) * 4 + (unit != 0) * 2 + (counts != 0)) { /* loops without branches */
#define CASE(number) \
  case number: \
    NAME(if_step)(from, to, state, sent, th, n, (number) >> 2, (number) >> 1 & 1, (number) & 1); \
    break;
          CASE(0) CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7)
#undef CASE
        }
      }
    }
  }
}

/* clip(floor(z L / theta + shift), lowest, L); NaN stays NaN */
static inline REAL NAME(level)(REAL z, REAL theta, REAL levels, REAL shift, REAL lowest) {
  REAL level = FLOOR(z * levels / theta + shift);
  return level < lowest ? lowest : level > levels ? levels : level;
}

/* (theta level) / L. Division limits these loops: if L is a power of two, `inverse` is 1 / L, and multiplying by it
   gives the same number; otherwise `inverse` is 0. */
static inline REAL NAME(value)(REAL theta, REAL level, REAL levels, REAL inverse) {
  return inverse ? theta * level * inverse : theta * level / levels;
}

static REAL NAME(inverse)(REAL levels) {
  index_t whole = (index_t)levels;
  return whole & (whole - 1) ? 0 : 1 / levels;
}

/* s = sign(level(total)) while t < |level(total)|; N <- N + s in place; value = (theta N) / L. */
static inline void NAME(in_turn)(const REAL *restrict total, REAL *restrict sent, REAL *restrict spike,
                                 REAL *restrict value, const REAL *restrict th, REAL levels, REAL t, REAL lowest,
                                 index_t n) {
  for (index_t j = 0; j < n; j++) {
    REAL level = NAME(level)(total[j], th[j], levels, (REAL)0.5, lowest);
    spike[j] = t < level ? 1 : t < -level ? -1 : 0;
    sent[j] += spike[j];
    value[j] = NAME(value)(th[j], sent[j], levels, 0);
  }
}

/* s = clip(level(total) - N, -1, 1). */
static inline void NAME(towards)(const REAL *restrict total, REAL *restrict sent, REAL *restrict spike,
                                 REAL *restrict value, const REAL *restrict th, REAL levels, REAL lowest, index_t n) {
  for (index_t j = 0; j < n; j++) {
    REAL s = NAME(level)(total[j], th[j], levels, (REAL)0.5, lowest) - sent[j];
    spike[j] = s < -1 ? -1 : s > 1 ? 1 : s;
    sent[j] += spike[j];
    value[j] = NAME(value)(th[j], sent[j], levels, 0);
  }
}

/* s = 1 where u - N >= w / 2, -1 where u - N < -w / 2, with u = z L / theta, but none that would leave lowest..L;
   N <- N + w s. */
static inline void NAME(coarse)(const REAL *restrict total, REAL *restrict sent, REAL *restrict spike,
                                REAL *restrict value, const REAL *restrict th, REAL levels, REAL w, REAL lowest,
                                index_t n) {
  for (index_t j = 0; j < n; j++) {
    REAL before = sent[j], away = total[j] * levels / th[j] - before;
    REAL up = away >= w / 2 ? 1 : 0, down = away < -w / 2 ? 1 : 0;
    up = before + w <= levels ? up : 0;
    down = before - w >= lowest ? down : 0;
    spike[j] = up - down;
    sent[j] = before + w * (up - down);
    value[j] = NAME(value)(th[j], sent[j], levels, 0);
  }
}

/* One step of the exact schedules on totals: t >= 0 in a neuron's turn, and L is T; else every spike is worth -t. */
void NAME(total_step)(const REAL *restrict total, REAL *restrict sent, REAL *restrict spike, REAL *restrict value,
                      const REAL *theta, index_t count, index_t inner, REAL levels, REAL t, REAL lowest, PARTS) {
  IN_PARTS {
    REAL th[TILE];
    for (index_t i = begin; i < end; i += TILE) {
      index_t size = end - i < TILE ? end - i : TILE;
      if (i == begin || count != 1) NAME(thresholds)(th, theta, count, inner, i, size);
      if (t >= 0)
        NAME(in_turn)(total + i, sent + i, spike + i, value + i, th, levels, t, lowest, size);
      else if (t == -1)
        NAME(towards)(total + i, sent + i, spike + i, value + i, th, levels, lowest, size);
      else
        NAME(coarse)(total + i, sent + i, spike + i, value + i, th, levels, -t, lowest, size);
    }
  }
}

static inline void NAME(running_run)(const REAL *restrict x, REAL *restrict out, REAL *restrict sums, REAL step,
                                     index_t n) {
  for (index_t j = 0; j < n; j++) {
    sums[j] += x[j];
    out[j] = sums[j] / step;
  }
}

/* out_t = (sums + x_0 + ... + x_t) / (first + t) for t = 0..steps - 1, of arrays of `size` elements; sums are updated. */
void NAME(running)(const REAL *x, REAL *out, REAL *sums, index_t steps, index_t size, REAL first, PARTS) {
  IN_PARTS {
    for (index_t i = begin; i < end; i += TILE)
      for (index_t t = 0; t < steps; t++)
        NAME(running_run)(x + t * size + i, out + t * size + i, sums + i, first + t, end - i < TILE ? end - i : TILE);
  }
}

static inline void NAME(increments_run)(const REAL *restrict f, REAL *restrict out, REAL *restrict before, REAL step,
                                        index_t n) {
  for (index_t j = 0; j < n; j++) {
    REAL now = f[j] * step;
    out[j] = now - before[j];
    before[j] = now;
  }
}

/* out_t = (first + t) f_t - the same product one step earlier (`before`, updated), for t = 0..steps - 1. */
void NAME(increments)(const REAL *f, REAL *out, REAL *before, index_t steps, index_t size, REAL first, PARTS) {
  IN_PARTS {
    for (index_t i = begin; i < end; i += TILE)
      for (index_t t = 0; t < steps; t++)
        NAME(increments_run)(f + t * size + i, out + t * size + i, before + i, first + t, end - i < TILE ? end - i : TILE);
  }
}

/* out = (theta level(z)) / L of n elements, whose thresholds are th[0], or th[j] if `each` */
static inline void NAME(qcfs_run)(const REAL *restrict z, REAL *restrict out, const REAL *restrict th, int each,
                                  index_t n, REAL levels, REAL shift, REAL lowest, REAL inverse) {
  for (index_t j = 0; j < n; j++) {
    REAL theta = th[each ? j : 0];
    out[j] = NAME(value)(theta, NAME(level)(z[j], theta, levels, shift, lowest), levels, inverse);
  }
}

/* out = (theta level(z)) / L */
void NAME(qcfs)(const REAL *restrict z, REAL *restrict out, const REAL *theta, index_t count, index_t inner, REAL levels,
                REAL shift, REAL lowest, PARTS) {
  IN_PARTS {
    REAL th[TILE], inverse = NAME(inverse)(levels);
    int each = inner == 1 && count != 1;
    for (index_t i = begin, n; i < end; i += n) {
      if (each) {
        n = end - i < TILE ? end - i : TILE;
        NAME(thresholds)(th, theta, count, inner, i, n);
      } else
        n = NAME(shared)(th, theta, count, inner, i, end);
      if (each)
        NAME(qcfs_run)(z + i, out + i, th, 1, n, levels, shift, lowest, inverse);
      else if (inverse)
        NAME(qcfs_run)(z + i, out + i, th, 0, n, levels, shift, lowest, inverse);
      else
        NAME(qcfs_run)(z + i, out + i, th, 0, n, levels, shift, lowest, 0);
    }
  }
}

/* out and counts of n elements; adds to totals: the sum of the levels' sizes, the number not 0, the number of NaN in z */
static inline void NAME(counts_run)(const REAL *restrict z, REAL *restrict out, int32_t *restrict counts,
                                    const REAL *restrict th, index_t n, REAL levels, REAL shift, REAL lowest,
                                    int64_t *totals) {
  REAL level[TILE];
  int32_t some = 0, wrong = 0;
  int64_t sum = 0;
  for (index_t j = 0; j < n; j++) level[j] = NAME(level)(z[j], th[j], levels, shift, lowest);
  for (index_t j = 0; j < n; j++) out[j] = NAME(value)(th[j], level[j], levels, 0);
  for (index_t j = 0; j < n; j++) {
    wrong += level[j] != level[j];
    counts[j] = (int32_t)(level[j] == level[j] ? level[j] : 0); /* NaN has no integer value */
    some += counts[j] != 0;
  }
  for (index_t j = 0; j < n; j++) sum += counts[j] < 0 ? -counts[j] : counts[j];
  totals[0] += sum, totals[1] += some, totals[2] += wrong;
}

/* As qcfs, and counts = level; each part has its own eight totals, one cache line. */
void NAME(qcfs_counts)(const REAL *z, REAL *out, int32_t *counts, const REAL *theta, index_t count, index_t inner,
                       REAL levels, REAL shift, REAL lowest, int64_t *totals, PARTS) {
  IN_PARTS {
    REAL th[TILE];
    for (index_t i = begin; i < end; i += TILE) {
      index_t n = end - i < TILE ? end - i : TILE;
      if (i == begin || count != 1) NAME(thresholds)(th, theta, count, inner, i, n);
      NAME(counts_run)(z + i, out + i, counts + i, th, n, levels, shift, lowest, totals + 8 * part);
    }
  }
}

/* by_z = upstream [lowest <= u < L] of one element; returns upstream theta d/dtheta */
static inline REAL NAME(backward_of)(REAL z, REAL g, REAL theta, REAL levels, REAL shift, REAL lowest, REAL inverse,
                                     REAL *by_z) {
  REAL u = z * levels / theta + shift, inside = u >= lowest && u < levels ? 1 : 0;
  REAL outside = u >= levels ? theta : theta * lowest * inverse;
  *by_z = g * inside;
  return g * (inside != 0 ? theta * FLOOR(u) * inverse - z : outside);
}

/* by_z = upstream [lowest <= u < L]; sums[k] += upstream theta d/dtheta over the elements of threshold k, with

   u = z L / theta + shift, theta d/dtheta = qcfs(z) - z inside, theta above, theta lowest / L below. The caller divides the sums by
   theta, once per threshold. Each block of at most TILE elements is summed in 32 REAL lanes, and the lanes in double. */
void NAME(qcfs_backward)(const REAL *restrict z, const REAL *restrict upstream, REAL *restrict by_z,
                         const REAL *theta, index_t count, index_t inner, REAL levels, REAL shift,
                         REAL lowest, double *restrict sums, PARTS) {
  IN_PARTS {
    REAL th[TILE], share[TILE], inverse = 1 / levels;
    double *mine = sums + part * count;
    for (index_t i = begin, n; i < end; i += n) {
      if (inner == 1 && count != 1) {
        n = end - i < TILE ? end - i : TILE;
        NAME(thresholds)(th, theta, count, inner, i, n);
        for (index_t j = 0; j < n; j++)
          share[j] = NAME(backward_of)(z[i + j], upstream[i + j], th[j], levels, shift, lowest, inverse, by_z + i + j);
        index_t at = i % count;
        for (index_t j = 0; j < n;) {
          index_t run = count - at < n - j ? count - at : n - j;
          for (index_t k = 0; k < run; k++) mine[at + k] += share[j + k];
          j += run, at = 0;
        }
        continue;
      }
      n = NAME(shared)(th, theta, count, inner, i, end);
      n = n < TILE ? n : TILE;
      REAL lanes[32] = {0};
      index_t j = 0;
      for (; j + 32 <= n; j += 32)
        for (int lane = 0; lane < 32; lane++)
          lanes[lane] += NAME(backward_of)(z[i + j + lane], upstream[i + j + lane], th[0], levels, shift, lowest, inverse,
                                           by_z + i + j + lane);
      for (; j < n; j++)
        lanes[0] += NAME(backward_of)(z[i + j], upstream[i + j], th[0], levels, shift, lowest, inverse, by_z + i + j);
      double sum = 0;
      for (int lane = 0; lane < 32; lane++) sum += lanes[lane];
      mine[count == 1 ? 0 : (i / inner) % count] += sum;
    }
  }
}
