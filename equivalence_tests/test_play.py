"""The interactive page of the docs: its arithmetic is the reference's, on random cases, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference

from .strategies import near_step

STATIC = Path(__file__).parent.parent / "docs" / "_static"
ORDERS = ("constant", "early", "late", "alternating")
JS = pytest.importorskip("py_mini_racer", reason="runs the page's JavaScript; there is no wheel for every machine")


@pytest.fixture(scope="module")
def neuron():
    """`neuron(name, *arguments)` calls a function of docs/_static/neuron.js."""
    engine = JS.MiniRacer()
    engine.eval((STATIC / "neuron.js").read_text())

    def call(name, *arguments):
        return json.loads(engine.eval(f"JSON.stringify(Neuron.{name}({', '.join(map(json.dumps, arguments))}))"))

    return call


sliders = st.tuples(  # z, theta, L, T, start, spread, order, as on the page
    st.integers(-16, 32).map(lambda n: n / 16), st.integers(1, 8).map(lambda n: n / 4), st.integers(1, 16),
    st.integers(1, 32), st.integers(0, 8).map(lambda n: n / 8), st.integers(0, 16).map(lambda n: n / 8),
    st.sampled_from(ORDERS),
)  # fmt: skip


@given(near_step())
def test_levels_on_the_page_are_the_references(neuron, arguments):
    z, theta, levels = arguments
    z, theta = z.astype(float), float(np.ravel(theta)[0])
    expected = reference.qcfs_level(z, theta, levels).ravel()
    assert [neuron("level", float(v), theta, levels, 0.5) for v in z.ravel()] == expected.tolist()


@given(sliders)
def test_neurons_on_the_page_are_the_references(neuron, setting):
    z, theta, levels, steps, start, spread, order = setting
    currents = neuron("currents", z, steps, order, spread)
    assert len(currents) == steps
    assert abs(sum(currents) / steps - z) < 1e-12 * max(1, abs(z) + spread)  # rounding of T additions
    train = np.array(currents)[:, None, None]
    page = neuron("streaming", currents, theta, start * theta)
    spikes, membrane = reference.if_run(train, theta, np.array(start * theta))
    assert page["spikes"] == spikes.ravel().tolist()
    assert page["membranes"][-1][1] == membrane.item()
    assert page["count"] == spikes.sum()
    page = neuron("integrateThenFire", currents, theta, theta / 2)
    spikes, membrane = reference.integrate_then_fire_run(train, theta)
    assert page["spikes"][steps:] == spikes.ravel().tolist()
    assert page["membranes"][-1][1] == membrane.item()
    page = neuron("signed", currents, theta, levels, 0.5)
    quiet = np.zeros((levels, 1, 1))
    spikes, sent = reference.st_bif_run(np.concatenate([train / steps, quiet]), theta, levels)
    assert page["spikes"] == spikes.ravel().tolist()
    assert page["count"] == sent.item()


def test_the_page_needs_nothing_from_elsewhere():
    for path in STATIC.iterdir():
        assert "://" not in path.read_text(), f"{path.name} names an address"
    page = (STATIC / "play.html").read_text()
    assert page.count("<label>") == page.count("<input") + page.count("<select"), "every control has a label"
