"""Planted errors: one edit each to a copy of an implementation, and the statement or pair that must name it.

`old` must occur exactly once, so that a mutant cannot quietly stop mutating when the code moves.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    """`package/file` with `old` replaced by `new` must fail `test` (a file) in a test whose name contains `breaks`."""

    name: str
    file: str
    old: str
    new: str
    test: str
    breaks: str

    def edited(self):
        """The file's text with the edit; LookupError if there is not exactly one place for it."""
        source = (ROOT / self.file).read_text()
        if source.count(self.old) != 1:
            raise LookupError(f"mutant {self.name}: {self.old!r} occurs {source.count(self.old)} times in {self.file}")
        return source.replace(self.old, self.new)

    def plant(self, folder):
        """A copy of the package with the edit, in `folder`; returns its path."""
        package, file = self.file.split("/", 1)
        copy = folder / f"{package}_{self.name}"
        shutil.copytree(ROOT / package, copy, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        (copy / file).write_text(self.edited())
        return copy


PARAMETER_GRAD = "    by_threshold = qcfs_grad(z, threshold_of(parameter, positivity), levels)[1]\n"
MASK_IN_LAMBDA = """\
    theta, u = threshold_of(parameter, positivity), z * levels / parameter + 0.5
    inside = (u >= 0) & (u < levels)
    by_threshold = np.where(inside, (qcfs(z, theta, levels) - z) / theta, 1.0 * (u >= levels))
"""
PRINTED_3_9 = """\
    if positivity == "softplus":
        theta, u = threshold_of(parameter, positivity), z * levels / threshold_of(parameter, positivity) + 0.5
        f, slope = qcfs(z, theta, levels), threshold_slope(parameter, positivity)
        printed = np.where(u >= levels, 1.0, np.where(u >= 0, (slope * f - z * np.exp(parameter)) / theta, 0.0))
        return sum_to(upstream * printed, np.shape(parameter))
"""

MUTANTS = [
    Mutant("strict_threshold", "reference/neuron.py", "membrane >= threshold", "membrane > threshold", "test_t1.py", "T1"),
    Mutant("v0_zero", "reference/neuron.py", "threshold / number(2, threshold)", "threshold * 0", "test_t1.py", "T1"),
    Mutant("v0_half_over_T", "reference/neuron.py", "= resting(threshold, currents.shape[1:], v0), []",
           "= resting(threshold, currents.shape[1:], 0.5 / len(currents) if v0 is None else v0), []", "test_t1.py", "T1"),
    Mutant("no_shift", "reference/activation.py", "z * levels / threshold + number(shift, z)), 0",
           "z * levels / threshold), 0", "test_t1.py", "T1"),
    Mutant("divided_first", "reference/activation.py", "np.floor(z * levels / threshold",
           "np.floor(z / threshold * levels", "test_pairs.py", "qcfs_level"),
    Mutant("level_divided_first", "reference/activation.py", "array(threshold, like=level) * level / number(levels, level)",
           "array(threshold, like=level) * (level / number(levels, level))", "test_pairs.py", "[short-reference_level_divided_first-qcfs]"),
    Mutant("mask_in_lambda", "reference/activation.py", PARAMETER_GRAD, MASK_IN_LAMBDA, "test_g1.py", "G1_parameter"),
    Mutant("printed_eq_3_9", "reference/activation.py", PARAMETER_GRAD, PRINTED_3_9 + PARAMETER_GRAD, "test_g1.py",
           "G1_parameter"),
    Mutant("detached_threshold", "accelerated/activation.py", "sum_to(upstream * by_threshold, threshold.shape), None",
           "None, None", "test_g1.py", "G1_through_whole_networks"),
    Mutant("clamp_at_the_bound", "accelerated/activation.py", "(u >= 0) & (u < levels), u >= levels",
           "(u >= 0) & (u <= levels), u > levels", "test_g1.py", "G1_on_the_bounds"),
    Mutant("window_one_step_wide", "accelerated/activation.py", "(u >= 0) & (u < levels), u >= levels",
           "(u >= 0) & (u < levels + 1), u >= levels + 1", "test_g1.py", "G1_derivatives"),
    Mutant("early_spikes_lost", "reference/simulation.py", "resting(theta, current.shape)) + current",
           "resting(theta, current.shape)) + current * (now // steps == network.depth[name] - 1)", "test_t2.py", "T2_whole_networks"),
    Mutant("early_totals_lost", "accelerated/neuron.py", "            return torch.zeros_like(current), torch.zeros_like(current)",
           "            self.membrane = self.membrane if self.now // self.steps == self.depth - 1 else membrane\n"
           "            return torch.zeros_like(current), torch.zeros_like(current)", "test_t5.py", "T5_totals_see_early_spikes"),
    Mutant("f_of_0_subtracted", "reference/increments.py", "([0 * i for i in inputs], 0))",
           '([0 * i for i in inputs], scale * FORWARD[node["op"]](node, *(0 * i for i in inputs))))',
           "test_t3.py", "T3_operators_that_are_not_linear"),
    Mutant("increments_for_totals", "reference/simulation.py", '(_totals if arithmetic == "totals" else _increments)',
           "_increments", "test_t5.py", "T5_needs_totals"),
    Mutant("increments_for_totals", "accelerated/simulation.py", '(_totals if arithmetic == "totals" else increments)',
           "increments", "test_t5.py", "T5_needs_totals"),
    Mutant("hard_reset", "reference/neuron.py", "membrane - threshold * spike", "membrane * (1 - spike)", "test_t1.py", "T1"),
    Mutant("nothing_taken_back", "reference/neuron.py", "array(up, like=membrane) - array(down, like=membrane)",
           "array(up, like=membrane)", "test_t3.py", "T3"),
    Mutant("sent_without_bound", "reference/neuron.py", "(membrane >= 1) & (sent < levels)", "membrane >= 1", "test_t3.py", "T3"),
    Mutant("mean_for_sum", "reference/thresholds.py", "gradient.sum(axis", "gradient.mean(axis",
           "test_laws.py", "sum_to"),
    Mutant("sigma_without_eps", "accelerated/conversion.py", "torch.sqrt(positive(var + eps, \"var + eps\"))", "torch.sqrt(var)", "test_pairs.py",
           "fold_batch_norm"),
    Mutant("tie_not_silenced", "reference/calibration.py", "membrane > 0", "membrane >= 0", "test_calibrations.py", "small_cases"),
    Mutant("lowered_by_theta_alone", "accelerated/calibration.py", "torch.maximum(threshold, lowest - threshold + epsilon)",
           "threshold", "test_calibrations.py", "one_iteration"),
    Mutant("product_of_single_steps", "reference/tokens.py", "product(a, b_before + b, transpose)", "product(a, b, transpose)",
           "test_attention.py", "telescope"),
    Mutant("product_of_single_steps", "accelerated/tokens.py", "product(a, b_before + b)", "product(a, b)",
           "test_attention.py", "telescope"),
    Mutant("scores_not_scaled", "accelerated/graph/modules.py", "self.mask(k).transpose(-2, -1)) * self.scale",
           "self.mask(k).transpose(-2, -1))", "test_pairs.py", "-attention]"),
    Mutant("heads_mixed", "reference/tokens.py", "np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)",
           "x.reshape(x.shape[0], heads, x.shape[1], -1)", "test_pairs.py", "-attention]"),
    Mutant("product_grad_not_transposed", "reference/tokens.py", "return upstream @ b, np.swapaxes(upstream, -1, -2) @ a",
           "return upstream @ b, upstream @ a", "test_pairs.py", "-attention_grad]"),
    Mutant("accumulated_taken_per_step", "accelerated/increments.py", 'if self.operators == "per-step":', "if self.steps:",
           "test_t3.py", "telescope"),
    Mutant("accumulated_taken_per_step", "accelerated/engines/dense.py", 'self.network.operators == "per-step"', "True",
           "test_attention.py", "per_step_attention_does_not_converge"),
    Mutant("membrane_forgotten", "accelerated/engines/dense.py", "if module.sent is None:", "if True:", "test_pairs.py",
           "simulate"),
    Mutant("native_level_not_clipped", "accelerated/kernels/elementwise.h", "level > levels ? levels : level", "level",
           "test_pairs.py", "qcfs"),
    Mutant("native_threshold_gradient", "accelerated/kernels/elementwise.py", "sums.sum(0)) / theta.detach()",
           "sums.sum(0))", "test_g1.py", "G1_through_whole_networks"),
    Mutant("events_fire_strictly", "accelerated/kernels/event_width.h", "fires = high >= th[k]", "fires = high > th[k]",
           "test_pairs.py", "simulate"),
    Mutant("events_looked_up_twice", "accelerated/kernels/event_width.h", "word[t] >> 8 & 255", "word[t] & 255",
           "test_pairs.py", "simulate"),
    Mutant("events_of_the_first_tap", "accelerated/kernels/event_width.h", "tap / in.kernel[1] - in.padding",
           "0 - in.padding", "test_pairs.py", "simulate"),
    Mutant("stopped_too_early", "accelerated/simulation.py", 'silent = quiet and network.schedule', "silent = network.schedule",
           "test_t5.py", "T5_the_bound_on_settling"),
    Mutant("operator_not_computed_again", "accelerated/simulation.py", "value.drop(value.after[node])", "value.drop(() if now else value.after[node])",
           "test_t5.py", "T5"),
    Mutant("pre_steps_not_counted", "reference/calibration.py", "pre_steps=total", "pre_steps=0", "test_calibrations.py", "latency"),
]  # fmt: skip
