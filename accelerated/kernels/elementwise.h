/* The IF neuron over many steps, and QCFS with its derivatives: one pass over memory each.

   Arrays are flat, in the order in which they lie in memory. The threshold of element i is theta[(i / inner) % count]:
   one number (count 1), channels of an image (inner: its pixels) or of channels_last (inner 1), heads, neurons. Each call
   does the elements begin..end - 1, so that threads share an array. */

#ifndef TILE
#define TILE 1024 /* elements that stay in the first cache while time passes */
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

/* V <- V + z_t; s_t = [V >= theta]; V <- V - theta s_t, for t = 0..steps - 1, from `membrane`, where the last V is left.

   z_t begins at z + t z_step (a constant current: z_step 0), theta s_t at out + t out_step. The spikes
   are added to `counts`. */
void NAME(if_run)(const REAL *restrict z, index_t z_step, REAL *restrict out, index_t out_step, REAL *restrict membrane,
                  REAL *restrict counts, const REAL *theta, index_t count, index_t inner, index_t steps, index_t begin,
                  index_t end) {
  REAL th[TILE], v[TILE], n[TILE];
  for (index_t i = begin; i < end; i += TILE) {
    index_t size = end - i < TILE ? end - i : TILE;
    NAME(thresholds)(th, theta, count, inner, i, size);
    memcpy(v, membrane + i, size * sizeof(REAL));
    memcpy(n, counts + i, size * sizeof(REAL));
    for (index_t t = 0; t < steps; t++) {
      const REAL *restrict current = z + t * z_step + i;
      REAL *restrict sent = out + t * out_step + i;
      for (index_t j = 0; j < size; j++) {
        REAL high = v[j] + current[j], fire = high >= th[j] ? th[j] : 0;
        v[j] = high - fire;
        n[j] += high >= th[j] ? 1 : 0;
        sent[j] = fire;
      }
    }
    memcpy(membrane + i, v, size * sizeof(REAL));
    memcpy(counts + i, n, size * sizeof(REAL));
  }
}

/* clip(floor(z L / theta + shift), 0, L); a NaN stays one */
static inline REAL NAME(level)(REAL z, REAL theta, REAL levels, REAL shift) {
  REAL level = FLOOR(z * levels / theta + shift);
  return level < 0 ? 0 : level > levels ? levels : level;
}

/* One step of the exact schedules on totals: s = clip(level(total) - N, -1, 1) (t < 0: signed), else s = [t < level(total)];
   N <- N + s in place; value = (theta N) / L. L is T for the latter. */
void NAME(total_step)(const REAL *restrict total, REAL *restrict sent, REAL *restrict spike, REAL *restrict value,
                      const REAL *theta, index_t count, index_t inner, REAL levels, REAL t, index_t begin, index_t end) {
  REAL th[TILE];
  for (index_t i = begin; i < end; i += TILE) {
    index_t size = end - i < TILE ? end - i : TILE;
    if (i == begin || count != 1) NAME(thresholds)(th, theta, count, inner, i, size);
    for (index_t j = 0; j < size; j++) {
      REAL level = NAME(level)(total[i + j], th[j], levels, (REAL)0.5), s = level - sent[i + j];
      s = t >= 0 ? (t < level ? 1 : 0) : s < -1 ? -1 : s > 1 ? 1 : s;
      spike[i + j] = s;
      sent[i + j] += s;
      value[i + j] = th[j] * sent[i + j] / levels;
    }
  }
}

/* out_t = (sums + x_0 + ... + x_t) / (first + t) for t = 0..steps - 1, of arrays of `size` elements; sums are updated. */
void NAME(running)(const REAL *restrict x, REAL *restrict out, REAL *restrict sums, index_t steps, index_t size,
                   REAL first, index_t begin, index_t end) {
  for (index_t i = begin; i < end; i += TILE)
    for (index_t t = 0; t < steps; t++)
      for (index_t j = i; j < (end < i + TILE ? end : i + TILE); j++) {
        sums[j] += x[t * size + j];
        out[t * size + j] = sums[j] / (first + t);
      }
}

/* out_t = (first + t) f_t - what this product was a step before (`before`, updated), for t = 0..steps - 1. */
void NAME(increments)(const REAL *restrict f, REAL *restrict out, REAL *restrict before, index_t steps, index_t size,
                      REAL first, index_t begin, index_t end) {
  for (index_t i = begin; i < end; i += TILE)
    for (index_t t = 0; t < steps; t++)
      for (index_t j = i; j < (end < i + TILE ? end : i + TILE); j++) {
        REAL now = f[t * size + j] * (first + t);
        out[t * size + j] = now - before[j];
        before[j] = now;
      }
}

/* out = (theta clip(floor(z L / theta + shift), 0, L)) / L */
void NAME(qcfs)(const REAL *restrict z, REAL *restrict out, const REAL *theta, index_t count, index_t inner, REAL levels,
                REAL shift, index_t begin, index_t end) {
  REAL th[TILE];
  for (index_t i = begin; i < end; i += TILE) {
    index_t size = end - i < TILE ? end - i : TILE;
    if (i == begin || count != 1) NAME(thresholds)(th, theta, count, inner, i, size);
    for (index_t j = 0; j < size; j++) {
      REAL level = NAME(level)(z[i + j], th[j], levels, shift);
      out[i + j] = th[j] * level / levels;
    }
  }
}

/* As qcfs, and counts = level; totals[0..2] += the sum of the levels, how many are not 0, and how many z are NaN. */
void NAME(qcfs_counts)(const REAL *restrict z, REAL *restrict out, int32_t *restrict counts, const REAL *theta,
                       index_t count, index_t inner, REAL levels, REAL shift, int64_t *totals, index_t begin,
                       index_t end) {
  REAL th[TILE];
  for (index_t i = begin; i < end; i += TILE) {
    index_t size = end - i < TILE ? end - i : TILE;
    if (i == begin || count != 1) NAME(thresholds)(th, theta, count, inner, i, size);
    int32_t some = 0, wrong = 0;
    int64_t sum = 0;
    for (index_t j = 0; j < size; j++) {
      REAL level = NAME(level)(z[i + j], th[j], levels, shift);
      wrong += level != level;
      out[i + j] = th[j] * level / levels;
      level = level == level ? level : 0; /* a NaN is no integer */
      counts[i + j] = (int32_t)level;
      some += level != 0;
      sum += counts[i + j];
    }
    totals[0] += sum, totals[1] += some, totals[2] += wrong;
  }
}

/* by_z = upstream [0 <= u < L]; sums[k] += upstream d/dtheta over the elements of threshold k, with

   u = z L / theta + shift, d/dtheta = (qcfs(z) - z) / theta inside, 1 above, 0 below. Sums are taken in double. */
void NAME(qcfs_backward)(const REAL *restrict z, const REAL *restrict upstream, REAL *restrict by_z,
                         const REAL *theta, index_t count, index_t inner, REAL levels, REAL shift,
                         double *restrict sums, index_t begin, index_t end) {
  REAL th[TILE], part[TILE];
  for (index_t i = begin; i < end; i += TILE) {
    index_t size = end - i < TILE ? end - i : TILE;
    if (i == begin || count != 1) NAME(thresholds)(th, theta, count, inner, i, size);
    for (index_t j = 0; j < size; j++) {
      REAL u = z[i + j] * levels / th[j] + shift, level = FLOOR(u), g = upstream[i + j];
      REAL inside = u >= 0 && u < levels ? 1 : 0, above = u >= levels ? 1 : 0;
      by_z[i + j] = g * inside;
      part[j] = g * (inside != 0 ? (th[j] * level / levels - z[i + j]) / th[j] : above);
    }
    if (inner == 1 && count != 1) {
      index_t at = i % count;
      for (index_t j = 0; j < size;) {
        index_t run = count - at < size - j ? count - at : size - j;
        for (index_t k = 0; k < run; k++) sums[at + k] += part[j + k];
        j += run, at = 0;
      }
      continue;
    }
    index_t at = count == 1 ? 0 : (i / inner) % count, left = count == 1 ? size : inner - i % inner;
    for (index_t j = 0; j < size;) {
      index_t run = left < size - j ? left : size - j, k = 0;
      double lanes[8] = {0};
      for (; k + 8 <= run; k += 8)
        for (int lane = 0; lane < 8; lane++) lanes[lane] += part[j + k + lane];
      for (; k < run; k++) lanes[0] += part[j + k];
      for (int lane = 0; lane < 8; lane++) sums[at] += lanes[lane];
      j += run, left = inner, at = at + 1 == count ? 0 : at + 1;
    }
  }
}
