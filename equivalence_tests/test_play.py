"""The interactive page of the docs: its arithmetic is the reference's, on random cases, bit for bit."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import accelerated as acc
import reference
from accelerated import data as datasets
from accelerated import run
from accelerated.checks import InputError
from accelerated.exports.c import template
from accelerated.exports.page import page, script
from accelerated.exports.program import Program
from accelerated.runs import receipts
from accelerated.tests.whole_numbers import images, random_networks, whole_mixed

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


SCHEDULES = ("streaming", "integrate-then-fire", "signed", "halving")
RUN = """
const found = IMAGES.map((image) => {
  const run = new Run(PROGRAM, SCHEDULE, image), spikes = [];
  for (let t = 0; t < STEPS; t++) spikes.push(run.step());
  const values = Network.values(PROGRAM, image);
  const neurons = PROGRAM.nodes.filter((node) => node.op === "neuron").map((node) => node.name);
  return { spikes, sent: neurons.flatMap((name) => [...run.sent[name]]), answer: [...run.answer],
           levels: neurons.flatMap((name) => [...values[name]]), quantised: [...values[PROGRAM.answer]] };
});
JSON.stringify(found)
"""


def on_the_page(program, schedule, images, steps):
    """What network.js finds for whole pixels [images, pixels]."""
    engine = JS.MiniRacer()
    engine.eval(template("network.js") + program + f"const SCHEDULE = '{schedule}', STEPS = {steps}, "
                f"IMAGES = {json.dumps(images.tolist())};")  # fmt: skip
    return json.loads(engine.eval(RUN))


def same_network(program, network, x, schedule):
    """Assert that the page's run is the package's on images x: spikes, levels, answers; the share of levels."""
    spiking = acc.convert(network, schedule)
    steps = spiking.phases * spiking.steps
    result = acc.simulate(spiking, x, spiking.steps)
    pixels = receipts.pixels_of(network, x).reshape(len(x), -1).numpy()
    page = on_the_page(program, schedule, pixels, steps)
    unit = Program(spiking, x[:1]).unit
    levels = torch.cat([count.flatten(1) for count in result.counts.values()], 1)
    emitted = sum(emitted.flatten(1).sum(1) for emitted in result.emitted.values())
    assert [image["sent"] for image in page] == levels.tolist()
    assert [sum(image["spikes"]) for image in page] == emitted.tolist()
    answers = torch.tensor([image["answer"] for image in page]).double() / torch.from_numpy(unit)
    assert torch.equal((answers / (steps if schedule == "streaming" else 1)).float(), result.logits[-1])
    if schedule != "streaming":
        assert all(image["sent"] == image["levels"] and image["answer"] == image["quantised"] for image in page)
    return (levels != 0).float().mean()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_network_on_the_page_is_the_packages(schedule):
    """Every level, spike and answer of the digits in the page, on the whole test set."""
    network, data = acc.load("digits"), datasets.load("digits")
    (program,) = re.findall(r"^const PROGRAM = .*;$", (STATIC / "network.html").read_text(), re.MULTILINE)
    assert same_network(program, network, data.test_x, schedule) > 0.2


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_operator_on_the_page(schedule):
    """A network of all of them: groups, strides, slices, padding, joins, maxima, sums, factors."""
    network, x = whole_mixed(), images(8)
    program = Program(acc.convert(network, "signed"), x[:1])
    assert same_network(script(program, receipts.pixels_of(network, x)[:1], [0]), network, x, schedule) > 0.2


def test_random_networks_on_the_page():
    """Whatever operators a network is made of; its constants for all numbers, for each channel, or for each number."""
    done = 0
    for seed, network, x, pixels in random_networks(range(100)):
        program = script(Program(acc.convert(network, "signed"), x[:1]), pixels[:1], [0])
        same_network(program, network, x[:4], SCHEDULES[seed % 4])
        done += 1
    assert done >= 4


TITLE = "Draw a digit; watch it become exact"


def test_the_page_has_the_network_of_the_package(tmp_path):
    out = tmp_path / "network.html"
    assert run.main(["export", "page", "digits", "--title", TITLE, "--out", str(out)]) == 0
    again = f"python -m accelerated.run export page digits --title '{TITLE}' --out docs/_static/network.html"
    assert out.read_text() == (STATIC / "network.html").read_text(), again
    assert out.stat().st_size < 120_000


def test_names_of_a_stranger_stay_text():
    """A heading or a node that looks like a tag."""
    network, x = acc.load("digits"), acc.load("digits").images[:1]
    program = Program(acc.convert(network, "signed"), x)
    program.nodes[1]["name"] = "</script><script>alert(1)//"
    text = page(program, receipts.pixels_of(network, x), [0], "<b>bold</b>", "<i>PROGRAM</i>")
    assert text.count("<script>") == 3
    assert "<b>" not in text
    assert "&lt;i&gt;PROGRAM" in text


def test_images_that_no_page_draws_are_named():
    network = acc.load("digits")
    program = Program(acc.convert(network, "signed"), network.images[:1])
    program.nodes[0]["shape"] = (2, 8, 8)
    with pytest.raises(InputError, match="a page draws images of one channel or three, got 2x8x8"):
        page(program, network.images, [0], "", "")


def test_the_page_needs_nothing_from_elsewhere():
    for path in STATIC.iterdir():
        assert not re.search("(?<!blob):" + "//", path.read_text()), f"{path.name} names an address"
    page = (STATIC / "play.html").read_text()
    assert page.count("<label>") == page.count("<input") + page.count("<select"), "every control has a label"
