/* IN and OUT are types of whole numbers; sums stay in OUT by the proof that the header names. */

#define ADD(IN, OUT) \
static void add_##IN##_##OUT(const IN *x, OUT *out, int32_t size) { \
    for (int32_t i = 0; i < size; i++) out[i] = (OUT)(out[i] + x[i]); \
}

/* out += factor x; each factor is that of `each` numbers in a row. */
#define SCALE(IN, OUT) \
static void scale_##IN##_##OUT(const IN *x, OUT *out, int32_t size, const int32_t *factor, int32_t each) { \
    for (int32_t i = 0; i < size; i++) out[i] = (OUT)(out[i] + x[i] * factor[i / each]); \
}

/* out[i] += x[from[i]], nothing where from[i] is negative; x is one of several arrays in a row, and begins at `first`. */
#define GATHER(IN, OUT) \
static void gather_##IN##_##OUT(const IN *x, OUT *out, int32_t size, const int32_t *from, int32_t first, int32_t many) { \
    for (int32_t i = 0; i < size; i++) \
        if (from[i] >= first && from[i] < first + many) out[i] = (OUT)(out[i] + x[from[i] - first]); \
}

typedef struct {
    int16_t channels, height, width, out_channels, out_height, out_width;
    int16_t down, across, stride_down, stride_across, pad_down, pad_across, dilate_down, dilate_across, groups;
} geometry;

/* out += the convolution of x: a row of weights for each x that is not 0. The gain is the channel's, or 1 without. */
#define CONV(IN, OUT) \
static void conv_##IN##_##OUT(const IN *x, OUT *out, const int8_t *weight, const int16_t *gain, const geometry *g) { \
    const int32_t in_group = g->channels / g->groups, out_group = g->out_channels / g->groups; \
    for (int32_t c = 0; c < g->channels; c++) \
        for (int32_t i = 0; i < g->height; i++) \
            for (int32_t j = 0; j < g->width; j++) { \
                const int32_t value = *x++; \
                if (value == 0) continue; \
                const int32_t first = c / in_group * out_group; \
                for (int32_t o = first; o < first + out_group; o++) { \
                    const int8_t *row = weight + (o * in_group + c % in_group) * g->down * g->across; \
                    const int32_t times = gain ? value * gain[o] : value; \
                    for (int32_t y = 0; y < g->down; y++) { \
                        const int32_t to = i + g->pad_down - y * g->dilate_down; \
                        if (to < 0 || to % g->stride_down || to / g->stride_down >= g->out_height) continue; \
                        OUT *line = out + (o * g->out_height + to / g->stride_down) * g->out_width; \
                        for (int32_t z = 0; z < g->across; z++) { \
                            const int32_t at = j + g->pad_across - z * g->dilate_across; \
                            if (at < 0 || at % g->stride_across || at / g->stride_across >= g->out_width) continue; \
                            OUT *sum = line + at / g->stride_across; \
                            *sum = (OUT)(*sum + row[y * g->across + z] * times); \
                        } \
                    } \
                } \
            } \
}

/* out += the sums of x over windows. */
#define SUM_POOL(IN, OUT) \
static void sum_pool_##IN##_##OUT(const IN *x, OUT *out, const geometry *g) { \
    for (int32_t c = 0; c < g->channels; c++) \
        for (int32_t i = 0; i < g->out_height; i++) \
            for (int32_t j = 0; j < g->out_width; j++, out++) \
                for (int32_t y = 0; y < g->down; y++) \
                    for (int32_t z = 0; z < g->across; z++) { \
                        const int32_t row = i * g->stride_down + y - g->pad_down; \
                        const int32_t column = j * g->stride_across + z - g->pad_across; \
                        if (row < 0 || row >= g->height || column < 0 || column >= g->width) continue; \
                        *out = (OUT)(*out + x[(c * g->height + row) * g->width + column]); \
                    } \
}

/* change = how much the maxima over windows of `sum`, to which x is added, have grown; `maximum` are the last ones. */
#define MAX_POOL(IN, SUM, OUT) \
static void max_pool_##IN##_##SUM##_##OUT(const IN *x, SUM *sum, SUM *maximum, OUT *change, const geometry *g) { \
    for (int32_t i = 0; i < g->channels * g->height * g->width; i++) sum[i] = (SUM)(sum[i] + x[i]); \
    for (int32_t c = 0; c < g->channels; c++) \
        for (int32_t i = 0; i < g->out_height; i++) \
            for (int32_t j = 0; j < g->out_width; j++, maximum++, change++) { \
                int32_t most = 0; \
                int found = 0; \
                for (int32_t y = 0; y < g->down; y++) \
                    for (int32_t z = 0; z < g->across; z++) { \
                        const int32_t row = i * g->stride_down + y - g->pad_down; \
                        const int32_t column = j * g->stride_across + z - g->pad_across; \
                        if (row < 0 || row >= g->height || column < 0 || column >= g->width) continue; \
                        const int32_t value = sum[(c * g->height + row) * g->width + column]; \
                        if (!found || value > most) most = value; \
                        found = 1; \
                    } \
                *change = (OUT)(most - *maximum); \
                *maximum = (SUM)most; \
            } \
}

/* out += a bias for each channel of `each` numbers. */
#define BIAS(OUT) \
static void bias_##OUT(OUT *out, int32_t size, const int32_t *bias, int32_t each) { \
    for (int32_t i = 0; i < size; i++) out[i] = (OUT)(out[i] + bias[i / each]); \
}

/* A layer's spikes of this step: +1 from 2 V >= unit D on, -1 below -unit D, none that would leave least..most. A spike
   sends `unit` and counts `worth`. Returns how many there are. */
#define FIRE(SUM, LEVEL, OUT) \
static int32_t fire_##SUM##_##LEVEL##_##OUT(SUM *membrane, LEVEL *sent, OUT *change, int32_t size, const int16_t *step, \
                                    int32_t each, int32_t unit, int32_t worth, int32_t most, int32_t least) { \
    int32_t fired = 0; \
    for (int32_t i = 0; i < size; i++) { \
        const int32_t twice = 2 * (int32_t)membrane[i], from = unit * step[i / each]; \
        const int32_t up = twice >= from && sent[i] + worth <= most; \
        const int32_t spike = up - (twice < -from && sent[i] - worth >= least); \
        fired += spike != 0; \
        sent[i] = (LEVEL)(sent[i] + worth * spike); \
        change[i] = (OUT)(unit * spike); \
        membrane[i] = (SUM)(membrane[i] - spike * from); \
    } \
    return fired; \
}
