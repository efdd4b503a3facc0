"""The benchmark: it measures in rounds, reports confidence intervals, and writes its measurements."""

import io
import json
import re
from math import comb

import pytest
import torch
from rich.console import Console

from accelerated import convert, fold_batch_norms, models, quantise, simulate
from accelerated.benchmarks import __main__ as bench
from accelerated.benchmarks import growth, peers, timing
from accelerated.neuron import if_run
from accelerated.runs import experiment


def test_the_interval_holds_the_median_of_a_distribution():
    """Of 30 rounds the 10th and 21st: the median lies outside with 2 P(Binomial(30, 1/2) <= 9) < 5 %."""
    assert timing.interval(range(1, 31)) == (15.5, 10, 21)
    assert 2 * sum(comb(30, k) for k in range(10)) / 2**30 < 0.05 < 2 * sum(comb(30, k) for k in range(11)) / 2**30
    assert timing.interval([3.0]) == (3.0, 3.0, 3.0)


def test_ratios_are_taken_within_a_round():
    assert timing.ratio({"a": [2.0, 20.0, 2.0], "b": [1.0, 10.0, 1.0]}, "a", "b") == (2, 2, 2)


SMALL = [
    "--batch",
    "2",
    "--rounds",
    "3",
    "--steps",
    "3",
    "--width",
    "0.25",
    "--allocator",
    "default",
    "--no-compile",
    "--judged",
    "40",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on disk."""
    out = tmp_path_factory.mktemp("runs")
    config = experiment.checked(experiment.Config(
        quick=True, model="cnn", activation="s-qcfs", times=(4,), schedules=("streaming",), out=str(out), device="cpu",
    ))  # fmt: skip
    return str(experiment.run(config, Console(file=io.StringIO()))[0])


def test_it_prints_writes_and_draws_what_it_measured(tmp_path, capsys, trained, monkeypatch):
    monkeypatch.setitem(growth.AXES, "steps", (1, 2))
    monkeypatch.setitem(growth.AXES, "rate", (0.1, 0.4))
    monkeypatch.setattr(growth, "TIMES", (2,))
    what = ["neuron", "qcfs", "training", "resnet20", trained]
    assert bench.main(["--what", *what, *SMALL, "--out", str(tmp_path)]) == 0
    assert bench.main(["--what", trained, "--only", "event", *SMALL, "--out", str(tmp_path / "one")]) == 0
    assert list(json.loads((tmp_path / "one" / "bench.json").read_text())["results"][trained]["seconds"]) == [
        "quantised network", "event"]  # fmt: skip
    assert bench.main(["--what", trained, "--memory", *SMALL, "--out", str(tmp_path / "held")]) == 0
    assert bench.main(["--what", trained, "--growth", "width", *SMALL, "--out", str(tmp_path / "no")]) == 2
    assert bench.main(["--what", "mlp", "--growth", "steps", "rate", *SMALL, "--out",
                       str(tmp_path / "grown")]) == 0  # fmt: skip
    written = json.loads((tmp_path / "bench.json").read_text())
    assert list(written["results"]) == what
    assert written["machine"]["torch"]
    for name, result in written["results"].items():
        assert {len(times) for times in result["seconds"].values()} == {3}
        assert result["ratios"][result["limit"]] == [1, 1, 1]
        rate = result["note"].removeprefix("rate ").partition(";")[0]
        assert rate == "L = 8" or 0.02 < float(rate) < 0.9, "silence would be fast"
        shares = re.findall(r"(dense|event|published loop) ([\d.]+) %", result["note"])
        assert len({share for _, share in shares}) == (name == trained), "one accuracy, whoever computes it"
        assert (result["fastest peer"] is None) == (name in ("qcfs", "training"))
    printed = capsys.readouterr().out
    assert "times limit" in printed
    assert "MiB at T = 2" in printed
    grown = json.loads((tmp_path / "grown" / "bench.json").read_text())["results"]["mlp"]
    assert [value for value, _ in grown["over steps"]] == [1, 2]
    assert {path.name for path in (tmp_path / "grown").iterdir()} == {
        "bench.json", "mlp-steps.png", "mlp-rate.png"}  # fmt: skip


def test_a_warm_allocator_is_a_process_of_its_own(tmp_path):
    assert (
        bench.main(["--what", "neuron", "--batch", "1", "--rounds", "1", "--no-compile", "--out", str(tmp_path)]) == 0
    )
    assert json.loads((tmp_path / "bench.json").read_text())["options"]["allocator"] == "warm"


@pytest.mark.parametrize("name", ["published loop", *peers.OTHERS])
def test_other_packages_compute_what_is_compared_with_them(name):
    """The same spikes from each neuron and, except for snntorch, the same logits of a network, in float64."""
    if name not in peers.neurons([name]):
        pytest.skip(f"{name} is not installed (pip install -e '.[bench]')")
    kind = peers.neurons([name])[name]
    torch.manual_seed(0)
    # not at the threshold, where snntorch does not fire; below it, since snntorch delays a second reset
    currents = torch.randint(-8, 8, (6, 2, 3, 5)) / 16 + 1 / 1024
    with torch.no_grad():
        assert torch.equal(kind(0.5)(currents), if_run(currents, torch.tensor(0.5))[0] * 0.5)
        if name == "snntorch":
            return
        x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
        model = models.make("resnet20", (3, 16, 16), 10, 0.25).double()
        quantised = quantise(model.eval(), "s-qcfs", 4, "max", x).eval()
        ours = simulate(convert(quantised, "streaming"), x, 6).logits
        theirs = peers.Network(fold_batch_norms(quantised), kind, 6)(x).cumsum(0)
    steps = torch.arange(1, 7).reshape(-1, 1, 1)
    assert torch.allclose(
        ours, theirs / steps, rtol=0, atol=1e-6
    )  # a theta that passes through float32; no spike differs
    assert ours.std() > 0.01


def test_exact_answers_beside_others(tmp_path):
    """Every way to the same answer, on a network of random weights, COS among the peers."""
    assert bench.main(["--what", "resnet20", "--exact", *SMALL, "--out", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "bench.json").read_text())["results"]["resnet20"]
    assert {"COS, 8 pre-steps"} <= {*result["peers"]} <= {"COS, 8 pre-steps", "signed, spikingjelly"}
    exact = [name for name in result["seconds"] if name.endswith("exact, events")]
    assert len(exact) in (0, 3), "0 where nothing compiles kernels"
    assert result["gains"].keys() == {"quantised network", *exact}
    assert all(f"{peer}: the quantised network's answer for" in result["note"] for peer in result["peers"])


def test_signed_neurons_of_spikingjelly_reach_the_answer():
    """Until quiet, image and biases in the first step: the quantised network's logits, and not one step before."""
    if "spikingjelly" not in peers.neurons(["spikingjelly"]):
        pytest.skip("spikingjelly is not installed (pip install -e '.[bench]')")
    torch.manual_seed(0)
    x = torch.rand(2, 3, 16, 16)
    quantised = quantise(models.make("resnet20", (3, 16, 16), 10, 0.25).eval(), "s-qcfs", 4, "max", x).eval()
    steps = simulate(convert(quantised, "signed"), x).latency
    folded = fold_batch_norms(quantised)
    with torch.no_grad():
        off = [(peers.UntilQuiet(folded, count)(x) - folded(x)).abs().max().item() for count in (steps, steps - 1)]
    assert off[0] < 1e-5 < off[1], "the order of sums differs"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--what", "resnet19"], "unknown benchmark 'resnet19'"),
        (["--growth", "depth"], "unknown axis of growth 'depth'"),
        (["--what", "neuron", "mlp", "--exact"], "exact answers are those of networks, got 'neuron'"),
        (["--peers", "norse"], "unknown peer 'norse'"),
        (["--what", "mlp", "--only", "evnt", "--allocator", "default", "--no-compile"], "unknown candidate 'evnt'"),
        (["--rounds", "0"], "rounds must be"),
        (["--steps", "x"], "invalid"),
        (["--allocator", "fast"], "unknown allocator 'fast'"),
    ],
)
def test_bad_options_are_one_line(arguments, complaint, capsys, tmp_path):
    assert bench.main([*arguments, "--out", str(tmp_path / "b")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert complaint in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
