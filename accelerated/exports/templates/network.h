/* A spiking network in whole numbers, made by isospike $version. Schedule: $schedule.

   Tables: $tables bytes. State: $state bytes. No membrane leaves -$widest$times..$widest$times$after: proved of the
   weights, whatever the image. Spiking layers:
$layers
*/

#ifndef ${NAME}_H
#define ${NAME}_H

#include <stdint.h>

#define ${NAME}_PIXELS $pixels
#define ${NAME}_CLASSES $classes
#define ${NAME}_LAYERS $many
#define ${NAME}_STEPS $steps /* $why */
#define ${NAME}_COARSE $coarse /* from this step on (from 0), one without spikes means that the answer is exact */
#define ${NAME}_MOST_STEPS $most_steps /* which 32 bits hold */

typedef struct {
    int32_t now; /* steps taken */
$fields
} ${name}_state;

/* Begin with an image of $shape pixels, 0 to $brightest. */
void ${name}_reset(${name}_state *s, const $pixel *image);

/* One time step; returns the number of spikes in it, -1 beyond ${NAME}_MOST_STEPS. */
int32_t ${name}_step(${name}_state *s);

/* The class with the largest of the numbers s->answer; the first of several. */
int32_t ${name}_answer(const ${name}_state *s);

/* How many neurons a layer (from 0) has, and the levels that neuron i of it has sent. */
int32_t ${name}_size(int32_t layer);
int32_t ${name}_sent(const ${name}_state *s, int32_t layer, int32_t i);

#endif
