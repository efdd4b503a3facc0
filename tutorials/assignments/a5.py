"""A5, a schedule of your own. One function: the rule by which every neuron of a network decides what to send next."""

import numpy as np  # noqa: F401


def schedule_step(total, sent, threshold, levels, step, depth, deepest):
    """The spikes of this step, -1, 0 or 1 for each neuron of a layer [batch, ...].

    total      the input of the layer so far: its operator applied to what the layers before have sent
    sent       spikes sent so far; it must stay within 0..levels
    threshold  theta; a spike is worth theta / levels
    step       counts from 0; the image is present from step 0 on
    depth      of this layer, from 1; `deepest` is that of the last

    When nothing fires any more, every neuron must have sent level(total) = clip(floor(total L / theta + 1/2), 0, L).
    """
