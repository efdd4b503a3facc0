"""Planted errors: one edit each to a copy of an implementation, and the statement or pair that must name it.

An error names a function and an expression or statements in it, compared as syntax, so files, lines
and spaces may change. It must match in exactly one place, so that a change of the code cannot silently disable it.
"""

import ast
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent


@cache
def _functions(package):
    """{name of a function, its class before it: [(file, its syntax)]} of a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        if "tests" in path.parts:
            continue
        stack = [("", ast.parse(path.read_text()))]
        while stack:
            prefix, parent = stack.pop()
            for node in ast.iter_child_nodes(parent):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    found.setdefault(prefix + node.name, []).append((path, node))
                    stack.append((prefix + node.name + ".", node))
    return found


def _lines(nodes):
    return nodes[0].lineno, nodes[0].col_offset, nodes[-1].end_lineno, nodes[-1].end_col_offset


def _matches(function, old):
    """Where in a function the syntax `old` stands, an expression or statements: [(line, column, line, column)]."""
    wanted = ast.parse(old).body
    if len(wanted) == 1 and isinstance(wanted[0], ast.Expr):
        same = ast.dump(wanted[0].value)
        return [_lines([node]) for node in ast.walk(function) if isinstance(node, ast.expr) and ast.dump(node) == same]
    same, places = [ast.dump(node) for node in wanted], []
    for node in ast.walk(function):
        for field in ("body", "orelse"):
            block = getattr(node, field, None)
            for i in range(len(block) if isinstance(block, list) else 0):
                if [ast.dump(line) for line in block[i : i + len(wanted)]] == same:
                    places.append(_lines(block[i : i + len(wanted)]))
    return places


@dataclass(frozen=True)
class Mutant:
    """`old` replaced by `new` in `function` of `package` must fail `test` (a file) in a test whose name has `breaks`.

    In C, where there is no syntax to compare, `function` is a part of the file's name, and `old` stands there once.
    """

    name: str
    package: str
    function: str
    old: str
    new: str
    test: str
    breaks: str

    @property
    def native(self):
        """Whether it is planted in C."""
        return self.function.endswith(".h")

    def edited(self):
        """(file, its text with the edit); LookupError if there is not exactly one place for it."""
        if self.native:
            (path,) = (ROOT / self.package).rglob(self.function)
            source = path.read_text()
            if source.count(self.old) != 1:
                raise LookupError(f"{self.name}: {self.old!r} occurs {source.count(self.old)} times in {path.name}")
            return path, source.replace(self.old, self.new)
        found = [(path, place) for path, function in _functions(self.package).get(self.function, [])
                 for place in _matches(function, self.old)]  # fmt: skip
        if len(found) != 1:
            raise LookupError(f"{self.name}: {self.old!r} has {len(found)} places in {self.package}'s {self.function}")
        path, (first, start, last, end) = found[0]
        lines = path.read_text().encode().split(b"\n")  # columns count bytes
        indent = b" " * start
        new = self.new.rstrip("\n").encode().replace(b"\n", b"\n" + indent)
        lines[first - 1 : last] = [lines[first - 1][:start] + new + lines[last - 1][end:]]
        return path, b"\n".join(lines).decode()

    def plant(self, folder):
        """A copy of the package with the edit, in `folder`; returns its path."""
        path, text = self.edited()
        copy = folder / f"{self.package}_{self.name}"
        shutil.copytree(ROOT / self.package, copy, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        (copy / path.relative_to(ROOT / self.package)).write_text(text)
        return copy


PARAMETER_GRAD = "by_threshold = qcfs_grad(z, threshold_of(parameter, positivity), levels, lowest=lowest, mask=mask)[1]"
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
R, A = "reference", "accelerated"

MUTANTS = [
    Mutant("strict_threshold", R, "if_step", "membrane >= threshold", "membrane > threshold", "test_t1.py", "T1"),
    Mutant("v0_zero", R, "resting", "threshold / number(2, threshold)", "threshold * 0", "test_t1.py", "T1"),
    Mutant("v0_half_over_T", R, "lif_run", "resting(threshold, currents.shape[1:], v0)",
           "resting(threshold, currents.shape[1:], 0.5 / len(currents) if v0 is None else v0)", "test_t1.py", "T1"),
    Mutant("no_shift", R, "qcfs_level", "z * levels / threshold + number(shift, z)", "z * levels / threshold", "test_t1.py", "T1"),
    Mutant("divided_first", R, "qcfs_level", "z * levels / threshold", "z / threshold * levels", "test_pairs.py", "qcfs_level"),
    Mutant("level_divided_first", R, "level_value", "array(threshold, like=level) * level / number(levels, level)",
           "array(threshold, like=level) * (level / number(levels, level))", "test_pairs.py", "[short-reference_level_divided_first-qcfs]"),
    Mutant("mask_in_lambda", R, "qcfs_parameter_grad", PARAMETER_GRAD, MASK_IN_LAMBDA, "test_g1.py", "G1_parameter"),
    Mutant("printed_eq_3_9", R, "qcfs_parameter_grad", PARAMETER_GRAD, PRINTED_3_9 + PARAMETER_GRAD, "test_g1.py", "G1_parameter"),
    Mutant("detached_threshold", A, "_QCFS.backward", "sum_to(upstream * by_threshold, threshold.shape)", "None", "test_g1.py",
           "G1_through_whole_networks"),
    Mutant("clamp_at_the_bound", A, "_grad", "inside = MASKS[mask](z * levels / threshold + shift, levels, lowest, shift)",
           "inside = (z * levels / threshold + shift >= lowest) & (z * levels / threshold + shift <= levels)", "test_g1.py", "G1_on_the_bounds"),
    Mutant("window_one_step_wide", A, "_grad", "inside = MASKS[mask](z * levels / threshold + shift, levels, lowest, shift)",
           "inside = MASKS[\"0<=u<L+1\"](z * levels / threshold + shift, levels, lowest, shift)", "test_g1.py", "G1_derivatives"),
    Mutant("early_spikes_lost", R, "step_increments", "spikes[name], membranes[name] = 0 * current, membrane + current",
           "spikes[name], membranes[name] = 0 * current, membrane + current * (now // steps == network.depth[name] - 1)",
           "test_t2.py", "T2_whole_networks"),
    Mutant("early_totals_lost", A, "SpikingNeuron._on_increments",
           "state.spike, state.membrane = torch.zeros_like(current), membrane + current",
           "state.spike, state.membrane = torch.zeros_like(current), membrane + current * (state.now // state.steps == self.depth - 1)",
           "test_t5.py", "T5_totals_see_early_spikes"),
    Mutant("f_of_0_subtracted", R, "operate", "([0 * i for i in inputs], 0)",
           "([0 * i for i in inputs], scale * op(node, *(0 * i for i in inputs)))", "test_t3.py", "T3_operators_that_are_not_linear"),
    Mutant("increments_for_totals", R, "simulate", '{"totals": step_totals, "increments": step_increments}',
           '{"totals": step_increments, "increments": step_increments}', "test_t5.py", "T5_needs_totals"),
    Mutant("increments_for_totals", A, "SpikingNetwork.begin", 'totals = arithmetic == "totals"', "totals = False", "test_t5.py",
           "T5_needs_totals"),
    Mutant("hard_reset", R, "if_step", "membrane - threshold * spike", "membrane * (1 - spike)", "test_t1.py", "T1"),
    Mutant("nothing_taken_back", R, "halving_membrane_step", "array(up, like=membrane) - array(down, like=membrane)",
           "array(up, like=membrane)", "test_t3.py", "T3"),
    Mutant("sent_without_bound", R, "halving_membrane_step", "(membrane >= (1 + worth) / 2 * value) & (sent + worth <= levels)",
           "membrane >= (1 + worth) / 2 * value", "test_t3.py", "T3"),
    Mutant("below_zero_without_bound", R, "bounded_step", "(membrane < 0) & (sent > lowest)", "membrane < 0", "test_lowest.py", "T2"),
    Mutant("below_zero_without_bound", A, "halving_membrane_step", "(membrane < (1 - worth) / 2 * value) & (sent - worth >= lowest)",
           "membrane < (1 - worth) / 2 * value", "test_lowest.py", "T3"),
    Mutant("worth_not_undone", R, "halving_membrane_step", "membrane - worth * value * spike", "membrane - value * spike", "test_t6.py", "T6"),
    Mutant("worth_not_undone", A, "SpikingNeuron._on_totals", "sent + worth * state.spike", "sent + state.spike", "test_t6.py", "T6"),
    Mutant("native_worth_not_undone", A, "elementwise.h", "before + w * (up - down)", "before + (up - down)", "test_t6.py", "T6"),
    Mutant("beyond_the_levels", R, "halving_step", "(away >= worth / 2) & (sent + worth <= levels)", "away >= worth / 2", "test_t6.py", "T6"),
    Mutant("wrong_half_at_a_tie", R, "halving_step", "(away < -worth / 2) & (sent - worth >= lowest)",
           "(away <= -worth / 2) & (sent - worth >= lowest)", "test_t6.py", "T6"),
    Mutant("threshold_that_does_not_halve", A, "halving_membrane_step", "(membrane >= (1 + worth) / 2 * value) & (sent + worth <= levels)",
           "(membrane >= value) & (sent + worth <= levels)", "test_t6.py", "T6"),
    Mutant("silent_coarse_step_believed", A, "OnTotals.step", "quiet and self.network.schedule.settles and now >= self.coarse",
           "quiet and self.network.schedule.settles", "test_t6.py", "silent_coarse_step"),
    Mutant("silent_coarse_step_believed", R, "result", "bool((settled_at < steps).all()) and network.coarse < steps if settles else None",
           "bool((settled_at < steps).all()) if settles else None", "test_t6.py", "silent_coarse_step"),
    Mutant("all_layers_at_once", R, "Schedule.worths_of", "(2 * levels + 1,) * silent + own[:1] * same + own", "own", "test_t6.py", "deeper_layers"),
    Mutant("thresholds_not_whole", R, "Units.unit", "np.floor(level / least / 2)", "level / least / 2", "test_t7.py", "T7"),
    Mutant("thresholds_odd", R, "even", "2 * np.clip(halves, 1, largest_step(levels) // 2)", "1 + 2 * np.clip(halves, 1, largest_step(levels) // 2)", "test_t7.py", "T7"),
    Mutant("sums_without_biases", R, "largest", "np.abs(0 if node[\"bias\"] is None else node[\"bias\"])", "0", "test_t7.py", "T7_no_sum"),
    Mutant("a_bit_too_many", R, "held", "np.finfo(format).nmant + 1", "np.finfo(format).nmant + 2", "test_t7.py", "T7_a_format"),
    Mutant("weights_not_rounded", A, "Whole.forward", "exact.detach().round()", "exact.detach()", "test_t7.py", "T7"),
    Mutant("skip_not_whole", A, "Units.multiple", "(worth / unit).round()", "worth / unit", "test_t7.py", "T7"),
    Mutant("levels_from_zero", A, "unchecked_level", "torch.clamp(torch.floor(z * levels / threshold + shift), lowest, levels)",
           "torch.clamp(torch.floor(z * levels / threshold + shift), 0, levels)", "test_lowest.py", "clipped_at_the_lowest"),
    Mutant("native_levels_from_zero", A, "elementwise.h", "level < lowest ? lowest", "level < 0 ? 0", "test_lowest.py", "T5"),
    Mutant("mean_for_sum", R, "sum_to", "gradient.sum", "gradient.mean", "test_laws.py", "sum_to"),
    Mutant("sigma_without_eps", A, "fold_batch_norm", 'torch.sqrt(positive(var + eps, "var + eps"))', "torch.sqrt(var)",
           "test_pairs.py", "fold_batch_norm"),
    Mutant("tie_not_silenced", R, "srp_fires", "membrane > 0", "membrane >= 0", "test_calibrations.py", "small_cases"),
    Mutant("lowered_by_theta_alone", A, "cos_start", "torch.maximum(threshold, lowest - threshold + epsilon)", "threshold",
           "test_calibrations.py", "one_iteration"),
    Mutant("product_of_single_steps", R, "product_step", "product(a, b_before + b, transpose)", "product(a, b, transpose)",
           "test_attention.py", "telescope"),
    Mutant("product_of_single_steps", A, "product_step", "product(a, b_before + b)", "product(a, b)", "test_attention.py", "telescope"),
    Mutant("scores_not_scaled", A, "Attention.forward", "(self.mask(q) @ self.mask(k).transpose(-2, -1)) * self.scale",
           "self.mask(q) @ self.mask(k).transpose(-2, -1)", "test_pairs.py", "-attention]"),
    Mutant("heads_mixed", R, "split_heads", "np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2)",
           "x.reshape(x.shape[0], heads, x.shape[1], -1)", "test_pairs.py", "-attention]"),
    Mutant("product_grad_not_transposed", R, "product_grad", "return upstream @ b, np.swapaxes(upstream, -1, -2) @ a",
           "return upstream @ b, upstream @ a", "test_pairs.py", "-attention_grad]"),
    Mutant("accumulated_taken_per_step", A, "IncrementalOperators.__call__", 'self.operators == "per-step"', "self.steps", "test_t3.py", "telescope"),
    Mutant("accumulated_taken_per_step", A, "DenseRun._operator", 'self.network.operators == "per-step"', "True",
           "test_attention.py", "per_step_attention_does_not_converge"),
    Mutant("membrane_forgotten", A, "DenseRun._begin", "state.sent is None", "True", "test_pairs.py", "simulate"),
    Mutant("native_level_not_clipped", A, "elementwise.h", "level > levels ? levels : level", "level", "test_pairs.py", "qcfs"),
    Mutant("native_threshold_gradient", A, "qcfs_backward", "by.gathered(sums.sum(0)) / theta.detach()", "by.gathered(sums.sum(0))",
           "test_g1.py", "G1_through_whole_networks"),
    Mutant("events_fire_strictly", A, "event_width.h", "fires = high >= th[k]", "fires = high > th[k]", "test_pairs.py", "simulate"),
    Mutant("events_looked_up_twice", A, "event_width.h", "word[t] >> 8 & 255", "word[t] & 255", "test_pairs.py", "simulate"),
    Mutant("events_of_the_first_tap", A, "event_width.h", "tap / in.kernel[1] - in.padding", "0 - in.padding", "test_pairs.py", "simulate"),
    Mutant("events_worth_one", A, "whole_width.h", "sign ? -in->worth[t] : in->worth[t];\n  for", "sign ? -1 : 1;\n  for",
           "test_t7.py", "T7_every_way"),
    Mutant("events_bytes_not_moved_back", A, "whole_width.h", "over = (int16_t)(128 *", "over = (int16_t)(127 *", "test_t7.py",
           "T7_every_way"),
    Mutant("events_taken_back_strictly", A, "whole_width.h", "m[k] < -half", "m[k] <= -half", "test_t7.py", "T7_every_way"),
    Mutant("events_never_taken_back", A, "whole_width.h", "sign ? -in->worth[t] : in->worth[t];\n  for",
           "in->worth[t];\n  for", "test_t7.py", "T7_every_way"),
    Mutant("events_rest_too_early", A, "whole_width.h", "now <= 0 || worth[now] != worth[now - 1] ||", "now <= 0 ||", "test_t7.py",
           "T7_every_way"),
    Mutant("stopped_too_early", A, "OnTotals.step", "quiet and self.network.schedule.settles and now >= self.coarse",
           "self.network.schedule.settles and now >= self.coarse", "test_t5.py", "T5_the_bound_on_settling"),
    Mutant("operator_not_computed_again", A, "OnTotals.step", "value.drop(value.after[node])",
           "value.drop(() if now else value.after[node])", "test_t5.py", "T5"),
    Mutant("pre_steps_not_counted", R, "calibrate", "network._replace(starts=starts, pre_steps=total, pre_spikes=pre_spikes, images=x)",
           "network._replace(starts=starts, pre_steps=0, pre_spikes=pre_spikes, images=x)", "test_calibrations.py", "latency"),
]  # fmt: skip
