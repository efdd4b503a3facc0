"""The assignments, as data: for each statement its points and the tests that judge it.

A test is named by file, function and, where a function judges many things, the part of its parameters that counts.
A statement's points are proportional to its passing tests. But a law counts only if every pair that is listed with it
passes: a function that does not compute the steps may still obey their consequences.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Statement:
    """One column of the grade report."""

    name: str
    points: int
    tests: tuple  # "file::function" or "file::function[parameter]"


@dataclass(frozen=True)
class Assignment:
    """A title, the names that a file must define, and the statements that judge them."""

    title: str
    names: tuple
    statements: tuple

    @property
    def points(self):
        return sum(statement.points for statement in self.statements)


def pairs(*names):
    """The tests that compare these functions with the reference's."""
    return tuple(f"test_pairs::test_pair[{name}]" for name in names)


NEURON = ("qcfs_level", "if_run", "lif_run", "integrate_then_fire_run", "signed_step", "st_bif_run")
A1 = Assignment("The neuron", NEURON, (
    Statement("if", 20, (*pairs("if_run", "lif_run"), "test_t1::test_a_leak_of_1_is_the_if_neuron")),
    Statement("T1", 25, (*pairs("if_run"), "test_t1::test_T1_count_equals_level_on_every_edge",
                         "test_t1::test_T1_holds_for_varying_currents_and_any_start")),
    Statement("N1", 10, (*pairs("if_run", "qcfs_level"), "test_n1::test_N1_smallest_cases")),
    Statement("T2", 20, (*pairs("integrate_then_fire_run"), "test_t2::test_T2_count_is_the_level_of_the_mean")),
    Statement("T3", 25, (*pairs("signed_step", "st_bif_run-1", "st_bif_run-2"),
                         "test_t3::test_T3_settles_within_L_steps_after_any_input",
                         "test_t3::test_T3_every_step_is_a_step_towards_the_level")),
))  # fmt: skip

ACTIVATION = ("softplus", "softplus_inverse", "softplus_slope", "threshold_shape", "sum_to", "qcfs_level", "qcfs",
              "qcfs_grad", "qcfs_parameter_grad")  # fmt: skip
A2 = Assignment("QCFS and its derivatives", ACTIVATION, (
    Statement("thresholds", 20, (*pairs("softplus", "softplus_inverse", "softplus_slope", "threshold_shape"),
                                 "test_laws::test_softplus_is_positive_and_its_inverse_undoes_it")),
    Statement("blocks", 15, (*pairs("sum_to"), "test_laws::test_sum_to_is_the_adjoint_of_broadcasting")),
    Statement("levels", 25, (*pairs("qcfs_level", "qcfs"),
                             "test_laws::test_levels_are_whole_numbers_between_0_and_L",
                             "test_laws::test_qcfs_is_idempotent_on_its_own_outputs")),
    Statement("G1", 40, (*pairs("qcfs_grad", "qcfs_parameter_grad"),
                         "test_g1::test_G1_derivatives_against_finite_differences", "test_g1::test_G1_on_the_bounds",
                         "test_g1::test_G1_parameter")),
))  # fmt: skip

CNN = ("linear", "conv2d", "avg_pool2d", "fold_batch_norm", "build", "answer", "convert", "simulate")
A3 = Assignment("Conversion of a CNN", CNN, (
    Statement("layers", 20, pairs("linear", "conv2d", "avg_pool2d", "fold_batch_norm")),
    Statement("streaming", 20, ("test_n1::test_N1_errors_grow_with_depth",)),
    Statement("T2", 30, ("test_t2::test_T2_whole_networks_with_integer_weights_bit_for_bit",)),
    Statement("T3", 30, ("test_t3::test_T3_whole_networks_with_integer_weights_bit_for_bit",)),
))  # fmt: skip

LAYERS = ("softmax", "layer_norm", "product_run", "softmax_run", "layer_norm_run", "attention", "attention_grad",
          "attention_spiking", "feed_forward", "feed_forward_grad", "feed_forward_spiking")  # fmt: skip
A4 = Assignment("Attention", LAYERS, (
    Statement("operators", 10, pairs("softmax", "layer_norm")),
    Statement("telescoping", 15, (*pairs("product_run", "softmax_run", "layer_norm_run"),
                                  "test_attention::test_runs_of_an_implementation_telescope")),
    Statement("attention", 25, pairs("attention", "feed_forward")),
    Statement("G1", 20, pairs("attention_grad", "feed_forward_grad")),
    Statement("T5", 30, (*pairs("attention_spiking", "feed_forward_spiking"),
                         "test_attention::test_T5_one_attention_and_one_feed_forward_layer")),
))  # fmt: skip

A5 = Assignment("A schedule of your own", ("schedule_step",), (
    Statement("exact", 50, ("test_schedules::test_the_answer_is_the_quantised_networks",)),
    Statement("faster", 30, ("test_schedules::test_it_is_faster_than_integrate_then_fire",)),
    Statement("frugal", 20, ("test_schedules::test_it_is_frugal",)),
))  # fmt: skip

ASSIGNMENTS = {"a1": A1, "a2": A2, "a3": A3, "a4": A4, "a5": A5}
