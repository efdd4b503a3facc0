"""The contract of `reference`, for torch tensors and modules, in reading order.

All functions of networks take any module; `quantise` reads it while it answers a sample. `build` makes a network from a
list of nodes.
"""

from .activation import QCFS, qcfs, qcfs_grad, qcfs_level, qcfs_parameter_grad
from .attention import (
    attention,
    attention_grad,
    attention_spiking,
    feed_forward,
    feed_forward_grad,
    feed_forward_spiking,
)
from .calibration import calibrate, cos_run, srp_run
from .checks import InputError
from .conversion import SpikingNetwork, convert, fold_batch_norm, fold_batch_norms, summary
from .conversion_error import conversion_error
from .correction import correct_biases
from .energy import Energy, energy
from .exports.weights import load_weights, save_weights
from .integers import integers
from .layers import avg_pool2d, conv2d, linear, max_pool2d, max_pool2d_run
from .network import answer, build
from .neuron import SpikingNeuron, if_run, integrate_then_fire_run, lif_run
from .quantisation import expand, quantise
from .schedules import halving
from .signed import halving_run, halving_step, signed_step, st_bif_run
from .simulation import Simulation, evaluate, simulate
from .sums import largest_sums
from .thresholds import softplus, softplus_inverse, softplus_slope, sum_to, threshold_shape
from .tokens import layer_norm, layer_norm_run, product_run, softmax, softmax_run
from .training import reconstruct
from .worths import choose_halving

__all__ = [
    "softplus", "softplus_inverse", "softplus_slope", "threshold_shape", "sum_to",
    "qcfs_level", "qcfs", "qcfs_grad", "qcfs_parameter_grad", "QCFS",
    "if_run", "lif_run", "integrate_then_fire_run", "signed_step", "st_bif_run", "halving_step", "halving_run",
    "srp_run", "cos_run", "SpikingNeuron",
    "linear", "conv2d", "avg_pool2d", "max_pool2d", "max_pool2d_run",
    "layer_norm", "softmax", "product_run", "softmax_run", "layer_norm_run",
    "build", "answer", "quantise", "expand", "correct_biases", "reconstruct",
    "fold_batch_norm", "fold_batch_norms", "integers", "largest_sums", "halving", "choose_halving", "convert",
    "SpikingNetwork", "summary",
    "simulate", "Simulation", "evaluate", "calibrate", "energy", "Energy", "conversion_error",
    "attention", "attention_grad", "attention_spiking", "feed_forward", "feed_forward_grad", "feed_forward_spiking",
    "save_weights", "load_weights", "load", "InputError",
]  # fmt: skip


def __getattr__(name):
    """`load` is imported on first use: the data sets and run settings that it needs take a second to import."""
    if name == "load":
        from .runs.saved import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
