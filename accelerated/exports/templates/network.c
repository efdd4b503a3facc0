#include "$stem.h"

#include <string.h>

$functions
$used

$data
void ${name}_reset(${name}_state *s, const $pixel *image) {
    memset(s, 0, sizeof *s);
    for (int32_t i = 0; i < ${NAME}_PIXELS; i++) s->change0[i] = ($changes)(image[i] - zero[i / $each]);
}

int32_t ${name}_step(${name}_state *s) {
    const int32_t now = s->now;
    const int due = $due; /* whether constants arrive */
    int32_t fired = 0;
    (void)due;
    if (now >= ${NAME}_MOST_STEPS) return -1;
$body
    s->now = now + 1;
    return fired;
}

int32_t ${name}_answer(const ${name}_state *s) {
    int32_t best = 0;
    for (int32_t i = 1; i < ${NAME}_CLASSES; i++)
        if (s->answer[i] > s->answer[best]) best = i;
    return best;
}

int32_t ${name}_size(int32_t layer) {
    static const int32_t sizes[${NAME}_LAYERS] = {$sizes};
    return sizes[layer];
}

int32_t ${name}_sent(const ${name}_state *s, int32_t layer, int32_t i) {
    switch (layer) {
$cases
    default: return 0;
    }
}
