"""A schedule of your own (assignment A5): a rule for the next spike, judged on whole networks.

    schedule_step(total, sent, threshold, levels, step, depth, deepest) -> spikes of this step: -1, 0 or 1

`total` is all the input that a layer has had so far, `sent` the spikes that it has sent (both [batch, ...]); a spike is
worth threshold / levels. `step` counts from 0, `depth` is the layer's, from 1, `deepest` that of the last. The image is
there from step 0. A network is done when nothing has fired for `levels` steps, and at the latest after
2 (deepest + 1) levels. Ours is `signed_step`, which ignores the rest.
"""

import numpy as np

import reference
from reference.activation import level_value
from reference.conversion import depths
from reference.simulation import propagate

from . import random_networks as nets
from .implementations import Missing


def rule(impl):
    """The file's own schedule_step; of our packages, signed_step."""
    if impl.has("schedule_step"):
        return impl.native("schedule_step")
    if impl.name not in ("reference", "accelerated"):
        raise Missing("schedule_step")
    return lambda total, sent, threshold, levels, *_: impl.signed_step(total, sent, threshold, levels)


def simulated(step_rule, nodes, x, levels):
    """(logits, last step in which anything fired, spikes of either sign, spikes that were needed, depth)."""
    network = reference.convert(reference.build(nodes), "signed")
    depth = depths(network.nodes, "spiking")
    deepest, sent = max(depth.values()), {}
    last, fired, quiet = 0, 0, 0
    for now in range(2 * (deepest + 1) * levels):
        this = 0

        def neuron(node, total):
            nonlocal this
            before = sent.get(node["name"], np.zeros_like(total))
            spike = np.asarray(step_rule(
                total, before, node["threshold"], levels, now, depth[node["name"]], deepest  # noqa: B023
            ))  # fmt: skip
            assert spike.shape == total.shape, f"spikes of shape {spike.shape}, expected {total.shape}"
            assert np.isin(spike, (-1, 0, 1)).all(), f"a spike is -1, 0 or 1, got {np.unique(spike)[:5]}"
            after = before + spike
            assert (after >= 0).all(), "a spike was taken back that was never sent"
            assert (after <= levels).all(), f"more than L = {levels} spikes were sent"
            sent[node["name"]] = after
            this += int((spike != 0).sum())
            return level_value(after, node["threshold"], levels)

        logits = propagate(network, x, neuron)[nodes[-1]["name"]]
        fired, quiet, last = fired + this, 0 if this else quiet + 1, now + 1 if this else last
        if quiet >= levels and now >= levels:
            break
    return logits, last, fired, sum(count.sum() for count in sent.values()), deepest


def networks(first, count=12):
    """Integer CNNs with a skip: exact arithmetic, so that equal means every bit."""
    for seed in range(first, first + count):
        random = np.random.default_rng(seed)
        levels = (4, 8)[seed % 2]
        yield nets.integer_cnn(random, 2 + seed % 4, levels), random.integers(0, 17, (3, 1, 4, 4)) / 16, levels


def test_the_answer_is_the_quantised_networks(impl, seen, first_seed):
    step_rule, alive = rule(impl), []
    for nodes, x, levels in networks(first_seed):
        logits, last, *_, deepest = simulated(step_rule, nodes, x, levels)
        ann = reference.answer(reference.build(nodes), x)
        wrong = int((logits != ann).any(axis=1).sum())
        assert not wrong, f"L = {levels}, depth {deepest}: {wrong} of {len(x)} answers differ after step {last}"
        alive.append((ann != 0).mean())
    assert np.mean(alive) > 0.5
    seen(f"schedule of {impl.name}: {len(alive)} networks, all answers equal")


def test_it_is_faster_than_integrate_then_fire(impl, seen, first_seed):
    """From depth 3 on, nothing fires after 3/4 of the D L steps that waiting takes."""
    step_rule, ratios = rule(impl), []
    for nodes, x, levels in networks(first_seed):
        logits, last, *_, deepest = simulated(step_rule, nodes, x, levels)
        assert (logits == reference.answer(reference.build(nodes), x)).all(), "fast, but not the network's answer"
        if deepest >= 3:
            ratios.append(last / (deepest * levels))
            assert ratios[-1] <= 0.75, f"L = {levels}, depth {deepest}: {last} steps of {deepest * levels}"
    seen(f"schedule of {impl.name}: {100 * np.mean(ratios):.0f} % of integrate-then-fire's steps on average")


def test_it_is_frugal(impl, seen, first_seed):
    """Spikes of either sign, over all networks: at most 1.5 for each that the quantised network's levels need."""
    step_rule, fired, needed = rule(impl), 0, 0
    for nodes, x, levels in networks(first_seed):
        logits, _, sent, wanted, _ = simulated(step_rule, nodes, x, levels)
        assert (logits == reference.answer(reference.build(nodes), x)).all(), "frugal, but not the network's answer"
        fired, needed = fired + sent, needed + wanted
    assert fired <= 1.5 * needed, f"{fired} spikes sent, {needed:.0f} needed"
    seen(f"schedule of {impl.name}: {fired / needed:.2f} spikes for each that is needed")
