"""The ground truth of isospike, in NumPy alone: the contract, in reading order.

`accelerated` exports the same names for torch tensors; `pytest equivalence_tests` tests the same statements on both.
"""

from .activation import qcfs, qcfs_grad, qcfs_level, qcfs_parameter_grad
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
from .conversion import convert, fold_batch_norm, fold_batch_norms
from .conversion_error import conversion_error
from .correction import correct_biases
from .energy import Energy, energy
from .integers import integers
from .layers import avg_pool2d, conv2d, linear, max_pool2d, max_pool2d_run
from .network import answer, build
from .neuron import if_run, integrate_then_fire_run, lif_run
from .quantisation import expand, quantise
from .schedules import halving
from .signed import halving_run, halving_step, signed_step, st_bif_run
from .simulation import Simulation, simulate
from .sums import largest_sums
from .thresholds import softplus, softplus_inverse, softplus_slope, sum_to, threshold_shape
from .tokens import layer_norm, layer_norm_run, product_run, softmax, softmax_run
from .worths import choose_halving

__all__ = [
    "softplus", "softplus_inverse", "softplus_slope", "threshold_shape", "sum_to",
    "qcfs_level", "qcfs", "qcfs_grad", "qcfs_parameter_grad",
    "if_run", "lif_run", "integrate_then_fire_run", "signed_step", "st_bif_run", "halving_step", "halving_run",
    "srp_run", "cos_run",
    "linear", "conv2d", "avg_pool2d", "max_pool2d", "max_pool2d_run",
    "layer_norm", "softmax", "product_run", "softmax_run", "layer_norm_run",
    "build", "answer", "quantise", "expand", "correct_biases",
    "fold_batch_norm", "fold_batch_norms", "integers", "largest_sums", "halving", "choose_halving", "convert",
    "simulate", "Simulation", "calibrate", "energy", "Energy", "conversion_error",
    "attention", "attention_grad", "attention_spiking", "feed_forward", "feed_forward_grad", "feed_forward_spiking",
    "InputError",
]  # fmt: skip
