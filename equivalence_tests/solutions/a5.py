"""A5, a schedule of your own: a model solution, spikes that can be taken back."""

import numpy as np


def schedule_step(total, sent, threshold, levels, step, depth, deepest):
    level = np.clip(np.floor(total * levels / threshold + 0.5), 0, levels)
    return np.clip(level - sent, -1, 1)
