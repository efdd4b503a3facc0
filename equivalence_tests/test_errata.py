"""The printed versions fail: one test for each row of docs/errata.md that can be computed."""

import numpy as np
import pytest

import accelerated as acc
import reference as ref
from accelerated.runs.learning import cosine
from accelerated.thesis.presets import figures, published, transformer
from reference.thresholds import threshold_of

from . import random_networks as nets


def softplus(x):
    return float(ref.softplus(np.array(x)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def count(z, theta, steps, v0=None):
    """Spikes of the IF neuron under a constant current."""
    return int(ref.if_run(np.full((steps, 1, 1), float(z)), np.array(theta), v0)[0].sum())


def by_hand(z, threshold, v0, steps):
    """Spikes of a soft-reset IF neuron with any threshold, a negative one included."""
    v, n = v0, 0
    for _ in range(steps):
        v += z
        if v >= threshold:
            v, n = v - threshold, n + 1
    return n


def test_eq_3_9_inside():
    """At lambda = 0.3, L = 4, z = 0.5: -0.503 printed, -0.049 derived and by finite difference."""
    lam, levels, z = 0.3, 4, 0.5
    theta = softplus(lam)
    f = float(ref.qcfs(np.array(z), theta, levels))
    printed = (sigmoid(lam) * f - z * np.exp(lam)) / theta
    rest = z * levels / theta + 0.5 - float(ref.qcfs_level(np.array(z), theta, levels))
    surrogate = lambda x: softplus(x) / levels * (z * levels / softplus(x) + 0.5 - rest)  # noqa: E731
    difference = (surrogate(lam + 1e-6) - surrogate(lam - 1e-6)) / 2e-6
    ours = float(ref.qcfs_parameter_grad(np.array([z]), np.array(lam), levels, "softplus", np.ones(1)))
    assert printed == pytest.approx(-0.503, abs=5e-4)
    assert ours == pytest.approx(-0.049, abs=5e-4)
    assert ours == pytest.approx(difference, abs=1e-8)  # a central difference of width 1e-6 is good to some 1e-10


def test_eq_3_9_saturated():
    """Above, f = Softplus(lambda): its slope is Sigmoid(lambda), not 1."""
    lam = 0.3
    ours = float(ref.qcfs_parameter_grad(np.array([9.0]), np.array(lam), 4, "softplus", np.ones(1)))
    assert ours == pytest.approx((softplus(lam + 1e-6) - softplus(lam - 1e-6)) / 2e-6, abs=1e-8)
    assert abs(ours - 1) > 0.4


def test_eq_3_8_and_3_9_bounds_in_lambda():
    """For lambda < 0 the printed window is empty, while the activation still has L steps to pass a gradient through."""
    lam, levels = -1.0, 4
    assert -lam / (2 * levels) > lam - lam / (2 * levels), "the printed lower bound lies above the upper one"
    z = np.linspace(0.01, 0.9, 20) * softplus(lam) * (1 - 1 / (2 * levels))
    assert (ref.qcfs_grad(z, softplus(lam), levels)[0] == 1).all()


def test_eq_3_3_negative_threshold():
    """QCFS(z) - lambda [z >= lambda / 2] with V0 = lambda / 2; with V0 = phi = 0 the printed ends are wrong."""
    lam, levels = -1.0, 4
    steps = lambda z, phi: lam * np.clip(np.floor(z * levels / lam + phi), 0, levels) / levels  # noqa: E731
    printed = lambda z: -lam if z < lam else lam / levels * np.floor(z * levels / lam) if z < 0 else lam  # noqa: E731
    unshifted = lambda z: lam if z < lam else steps(z, 0) - lam if z < 0 else -lam  # noqa: E731
    for z in (-1.7, -1.05, -0.9, -0.55, -0.45, -0.3, 0.0, 0.2, 1.3):
        shifted = steps(z, 0.5) - lam * by_hand(z, lam, lam / 2, levels) / levels
        assert shifted == pytest.approx(steps(z, 0.5) - lam * (z >= lam / 2))
        plain = steps(z, 0) - lam * by_hand(z, lam, 0.0, levels) / levels
        assert plain == pytest.approx(unshifted(z))
        assert printed(z) != pytest.approx(plain)


def test_eq_3_2_no_error_for_positive_thresholds():
    """Only under T1's conditions: currents (1/2, -1/4) leave count 1 and level 0 (N1)."""
    z = np.array([0.5, -0.25])[:, None, None]
    sent = ref.if_run(z, np.array(1.0))[0].mean()
    assert sent != float(ref.qcfs(z.mean(axis=0), 1.0, 2).item())


def test_algorithm_1_line_16_threshold_is_softplus_of_lambda():
    """V <- lambda: the neuron's output is not the activation's; V <- Softplus(lambda): it is."""
    lam, levels = 0.3, 4
    for z in (0.2, 0.5, 0.8):
        ann = float(ref.qcfs(np.array(z), softplus(lam), levels))
        assert softplus(lam) * count(z, softplus(lam), levels) / levels == pytest.approx(ann)
    assert lam * count(0.8, lam, levels) / levels != pytest.approx(
        float(ref.qcfs(np.array(0.8), softplus(lam), levels))
    )


def test_algorithm_1_line_9_keeps_the_threshold_only_through_the_inverse():
    """lambda_i <- lambda moves theta from 1 to 1.313; the inverse keeps it, and there is none for theta <= 0."""
    assert float(threshold_of(np.array(1.0), "softplus")) == pytest.approx(1.313, abs=1e-3)
    assert softplus(float(ref.softplus_inverse(np.array(1.0)))) == pytest.approx(1, abs=1e-15)
    with pytest.raises(ref.InputError):
        ref.softplus_inverse(np.array(-0.5))


def test_algorithm_1_line_14_needs_folding():
    """Copying the weights leaves batch norm behind: the sum of a neuron's currents is not what the network trained."""
    x, weight = np.array([[2.0]]), np.array([[1.5]])
    gamma, beta, mean, var = (np.array([v]) for v in (0.5, 0.25, 1.0, 4.0))
    folded = ref.fold_batch_norm(weight, None, gamma, beta, mean, var, 0.0)
    assert ref.linear(x, *folded) == 0.5 * (3 - 1) / 2 + 0.25
    assert ref.linear(x, weight) != ref.linear(x, *folded)


def test_eq_2_10_depends_on_its_own_reset():
    """S = [V - theta S >= theta] has no solution for theta <= V < 2 theta: the membrane before the reset decides."""
    theta, before = 1.0, 1.2
    assert not any(s == (before - theta * s >= theta) for s in (0, 1))


def test_eq_2_4_hard_reset_breaks_t1():
    """Resetting to 0 loses the residue: z = 3/4, T = L = 4 gives 2 spikes, the level is 3."""
    v, spikes = 0.5, 0
    for _ in range(4):
        v += 0.75
        if v >= 1:
            v, spikes = 0.0, spikes + 1
    assert spikes == 2
    assert count(0.75, 1.0, 4) == ref.qcfs_level(np.array(0.75), 1.0, 4) == 3


def test_eq_2_15_and_2_17_lack_the_bias():
    """V(T) - V(0) = T (W phi + b) - theta N: without b the two sides differ by T b."""
    weight, bias, phi, steps = np.array([[0.5]]), np.array([0.25]), np.array([[0.75]]), 4
    current = ref.linear(phi, weight, bias)
    spikes, membrane = ref.if_run(np.stack([current] * steps), np.array(1.0))
    left = membrane.item() - 0.5
    assert left == steps * current.item() - spikes.sum()
    assert left - (steps * ref.linear(phi, weight).item() - spikes.sum()) == steps * bias.item()


def test_eq_2_15_holds_without_leak_only():
    z = np.full((4, 1, 1), 0.75)
    for leak, holds in ((1.0, True), (0.5, False)):
        spikes, membrane = ref.lif_run(z, np.array(1.0), leak)
        assert (membrane.item() - 0.5 == z.sum() - spikes.sum()) == holds


def test_eq_2_18_needs_clipping():
    """For T to infinity the mean is clip(W phi, 0, V_th), not W phi."""
    for z in (-1.0, 0.3, 2.0):
        assert count(z, 1.0, 2000) / 2000 == pytest.approx(np.clip(z, 0, 1), abs=1 / 2000)  # the residue is below theta


def test_eq_2_21_the_unclipped_floor_is_not_the_count():
    """z = 2 theta: floor(T z / theta) = 2 T, the neuron fires T times."""
    assert np.floor(4 * 2.0) == 8
    assert count(2.0, 1.0, 4, v0=0.0) == 4


def test_eq_2_25_needs_the_shift_on_the_spiking_side():
    """T = L and V_th = lambda alone: with V0 = 0 and phi = 1/2, z = theta / 2 L gives level 1 and no spike."""
    z = 1 / 8
    assert ref.qcfs_level(np.array(z), 1.0, 4) == 1
    assert count(z, 1.0, 4, v0=0.0) == 0
    assert count(z, 1.0, 4) == 1


def test_eq_2_27_sigma_is_the_root_of_var_plus_eps():
    """With var = eps = 1e-5 the printed sigma scales by 1.41 too much."""
    small = np.array([1e-5])
    one, zero = np.ones(1), np.zeros(1)
    weight, _ = ref.fold_batch_norm(np.ones((1, 1)), None, one, zero, zero, small, 1e-5)
    y = ref.layers.batch_norm(np.ones((1, 1)), one, zero, zero, small, 1e-5)
    assert weight.item() == pytest.approx(y.item())
    assert 1 / np.sqrt(small.item()) == pytest.approx(np.sqrt(2) * y.item())


def test_summary_v0_of_half_over_t():
    """V0 = 0.5 / T fails already at T = 2, z = 1/4: no spike, level 1."""
    assert count(0.25, 1.0, 2, v0=0.25) == 0
    assert count(0.25, 1.0, 2) == ref.qcfs_level(np.array(0.25), 1.0, 2) == 1


def test_summary_the_shift_is_to_the_left():
    """The first step is at theta / 2 L, before the unshifted one at theta / L."""
    z = np.array([1 / 8, 1 / 4])
    assert ref.qcfs_level(z, 1.0, 4).tolist() == [1, 1]
    assert ref.qcfs_level(z, 1.0, 4, shift=0.0).tolist() == [0, 1]


def test_summary_where_the_activation_jumps_and_when_a_neuron_fires():
    """Flat around 0, a step at each (k - 1/2) theta / L; a neuron that starts at theta / 2 fires from there on."""
    levels, theta = 4, 2.0
    z = np.arange(-64, 129) / 64 * theta
    jumps = z[1:][np.diff(ref.qcfs_level(z[None], theta, levels)[0]) != 0]
    assert jumps.tolist() == [(k - 0.5) * theta / levels for k in range(1, levels + 1)]
    for value, fires in ((0.5 * theta, 1), (0.5 * theta - 2**-40, 0)):  # what float64 adds to theta / 2 exactly
        assert ref.if_run(np.array([[value]]), theta)[0].item() == fires


def test_summary_other_t_are_possible():
    """Trained with L = 4, run with T = 16: one neuron's error stays below half a coarse step; its mean is 0 (T4)."""
    z = np.linspace(0, 1, 1001)
    spikes = ref.if_run(np.stack([z[None]] * 16), np.array(1.0))[0].mean(axis=0)[0]
    assert np.abs(spikes - ref.qcfs(z, 1.0, 4)).max() <= 1 / 8 + 1 / 32


def test_tables_at_T_leave_out_the_steps_of_cos():
    """Three spiking layers, rho = 4: what the tables call T = 1 takes 13 steps."""
    nodes, x = nets.integer_cnn(np.random.default_rng(0), 3, 4), np.full((1, 1, 4, 4), 0.5)
    calibrated = ref.calibrate(ref.convert(nodes, "streaming"), x, "cos", 4)
    assert ref.simulate(calibrated, x, 1).latency == 3 * 4 + 1


def test_published_code_of_cos_never_stops_at_T_above_rho():
    """Theta 1, rho 4: full pre-steps, then T = 16 steps that take back from the fifth on what they can."""
    currents = np.array([2.0] * 8 + [-1.0] * 12)[:, None]
    ours, theirs = (ref.cos_run(currents, np.array(1.0), 4, published=published)[0] for published in (False, True))
    assert ours.ravel().tolist() == [1] * 6 + [0] * 10
    assert theirs.ravel().tolist() == [1] * 16
    assert (ours[:4] == theirs[:4]).all(), "up to T = rho there is no difference"


def test_table_4_1_a_threshold_of_3_silences_attention():
    """L = 16, theta = 3: probabilities below 3/32 are level 0, for instance those of a softmax over 64 patches."""
    p = np.array([3 / 32 - 1e-9, 3 / 32])
    assert ref.qcfs_level(p, 3.0, 16).tolist() == [0, 1]
    x = np.random.default_rng(0).normal(size=(1, 64, 8))
    weights = nets.attention_weights(np.random.default_rng(1), 8)
    theta = dict.fromkeys(("q", "k", "v", "attention", "head", "projection"), np.array(3.0))
    s = ref.attention_spiking(x, weights, theta, 16, 2, 16, "integrate-then-fire")
    assert s.nonzero_share["attention.q"] > 0.2
    assert s.nonzero_share["attention.attention"] < 0.01
    assert s.nonzero_share["attention.head"] < 0.01


def test_prose_of_chapter_4_against_its_tables():
    """The thesis's own figures, as printed."""

    def row(table, *label):
        found = [line for line in published(f"table_4_{table}") if list(line.values())[:3] == list(label)]
        return figures(found[0])

    for network, gain in (("ViT", 34.87), ("Swin-T", 6.14)):
        ours, mst = (row(2, "CIFAR-10", network, method) for method in ("ours", "MST"))
        assert ours[1] - mst[1] == pytest.approx(gain)
    full, without = (row(4, "CIFAR-100", "ViT", method) for method in ("Full", "w/o head"))
    assert (full["ann"], without["ann"]) == (74.29, 74.44)
    heads = {
        (network, data): row(5, "HN-QCFS", data, network)["max head"]
        for network in ("ViT", "Swin-T") for data in ("CIFAR-10", "CIFAR-100")
    }  # fmt: skip
    assert heads["ViT", "CIFAR-100"] == 34.4 < heads["ViT", "CIFAR-10"] == 35.4
    assert heads["Swin-T", "CIFAR-100"] > heads["Swin-T", "CIFAR-10"]


def test_prose_of_chapter_3_against_its_tables():
    """The thesis's own figures, as printed."""

    def row(table, *label):
        found = [line for line in published(f"table_3_{table}") if list(line.values())[:3] == list(label)]
        return figures(found[0])

    ours, qcfs, cos = (row(3, "CIFAR-100", "ResNet-50", method) for method in ("ours", "QCFS", "COS"))
    assert ours[1] == 78.25 < qcfs[32] == 79.88
    ours, cos = (row(3, "CIFAR-100", "ResNet-101", method) for method in ("ours", "COS"))
    assert [t for t in (1, 2, 4, 8, 16, 32) if cos[t] > ours[t]] == [2, 16, 32]
    assert cos[4] == ours[4]
    one, two = (row(5, "CIFAR-100", "VGG-16", method) for method in ("origin", "layer-wise"))
    assert (one["ann"], two["ann"]) == (76.57, 76.46)
    assert row(4, "CIFAR-10", "VGG-16", "w/o Softplus") != row(5, "CIFAR-10", "VGG-16", "channel-wise")


def test_methods_of_chapter_3_against_each_other():
    """The thesis's own figures, as printed: methods that several tables have, and one that Table 3-4 leaves out."""
    rows = {
        (table, *list(line.values())[:3]): figures(line)
        for table in (2, 3, 4, 5) for line in published(f"table_3_{table}")
    }  # fmt: skip
    data = {2: "CIFAR-10", 3: "CIFAR-100"}
    both = [(table, data[table], network) for table in data for network in ("VGG-16", "ResNet-20")]
    assert all(rows[*row, "COS"] != rows[5, *row[1:], "origin"] for row in both), "two runs of one method"

    def ahead(one, other):
        return [steps for steps in (1, 2, 4, 8, 16, 32) if rows[one][steps] > rows[other][steps]]

    layerwise = {row: (5, *row, "layer-wise") for row in (("CIFAR-100", "ResNet-20"), ("CIFAR-10", "ResNet-20"))}
    assert ahead(layerwise["CIFAR-100", "ResNet-20"], (3, "CIFAR-100", "ResNet-20", "ours")) == [4, 8, 16, 32]
    ours = (2, "CIFAR-10", "ResNet-20", "ours")
    assert ahead(layerwise["CIFAR-10", "ResNet-20"], ours) == [8, 16]
    assert rows[ours][32] == rows[layerwise["CIFAR-10", "ResNet-20"]][32]
    for network in ("VGG-16", "ResNet-20"):
        stages = (5, "CIFAR-10", network, "layer-wise")
        for alone in ("w/o channel", "w/o Softplus"):
            assert ahead(stages, (4, "CIFAR-10", network, alone)) == [2, 4, 8, 16, 32]
        assert 4 in ahead(stages, (5, "CIFAR-10", network, "channel-wise"))


def test_3_2_1_softplus_is_never_sparse():
    assert (ref.softplus(np.array([-700.0, -30.0, 0.0])) > 0).all()


def test_figure_5_6_a_cosine_has_ended():
    """Epoch 296 of 300 (the figure: "296/200") of our presets; and the figure's 48 and 10 steps of their batches."""
    config = transformer("CIFAR-10", "ViT", "HN-QCFS")
    assert cosine(config.lr, 296, config.epochs[1])(0) < 1e-7 < config.lr == 1e-4
    assert (50_000 // config.batch, -(-10_000 // config.batch)) == (48, 10), "whole training batches; all test batches"


def test_published_code_passes_derivatives_elsewhere():
    """Floor, then clamp, as older code has it: torch's own derivative at the bounds of clamp decides the mask."""
    import torch

    levels, theta = 4, 2.0
    u = torch.tensor([-0.5, 0.0, 0.5, 1.0, 2.5, 4.0, 4.5, 5.0, 5.5], dtype=torch.float64)
    z = ((u - 0.5) * theta / levels).requires_grad_()
    at_bound = torch.tensor(1.0, requires_grad=True)
    at_bound.clamp(0, 1).backward()
    exact = z / theta * levels + 0.5
    floored = (exact + (exact.floor() - exact).detach()) / levels  # straight through
    (floored.clamp(0, 1) * theta).sum().backward()
    mask = "0<=u<L+1" if at_bound.grad else "1<=u<L"
    expected = {
        "0<=u<L": [0, 1, 1, 1, 1, 0, 0, 0, 0], "0<=u<L+1": [0, 1, 1, 1, 1, 1, 1, 0, 0],
        "1<=u<L": [0, 0, 0, 1, 1, 0, 0, 0, 0], "0<=z<=theta": [0, 0, 1, 1, 1, 1, 1, 0, 0],
    }  # fmt: skip
    assert z.grad.tolist() == expected[mask] != expected["0<=u<L"]
    for name, passes in expected.items():
        for side in (ref, acc):
            by_z, by_theta = (np.asarray(g) for g in side.qcfs_grad(z.detach() if side is acc else z.detach().numpy(),
                                                                    theta, levels, mask=name))  # fmt: skip
            assert by_z.tolist() == passes, (name, side.__name__)
            level = np.clip(np.floor(u.numpy()), 0, levels)
            wanted = level / levels - by_z * z.detach().numpy() / theta
            assert np.allclose(by_theta, wanted, rtol=1e-15, atol=1e-15), (name, side.__name__)
