"""The benchmark: it measures in rounds, says how sure it is, and writes what it measured."""

import json
from math import comb

import pytest

from accelerated import bench


def test_the_interval_holds_the_median_of_a_distribution():
    """Of 30 rounds the 10th and 21st: the median lies outside with 2 P(Binomial(30, 1/2) <= 9) < 5 %."""
    assert bench.interval(range(1, 31)) == (15.5, 10, 21)
    assert 2 * sum(comb(30, k) for k in range(10)) / 2**30 < 0.05 < 2 * sum(comb(30, k) for k in range(11)) / 2**30
    assert bench.interval([3.0]) == (3.0, 3.0, 3.0)


def test_ratios_are_taken_within_a_round():
    assert bench.ratios({"a": [2.0, 20.0, 2.0], "b": [1.0, 10.0, 1.0]}, "b")["a"] == (2, 2, 2)


def test_it_prints_and_writes_what_it_measured(tmp_path, capsys):
    out = tmp_path / "bench.json"
    what = ["neuron", "qcfs", "resnet20", "vit_tiny"]
    options = [
        "--batch",
        "2",
        "--rounds",
        "3",
        "--steps",
        "3",
        "--width",
        "0.25",
        "--out",
        str(out),
        "--allocator",
        "default",
    ]
    assert bench.main(["--what", *what, *options]) == 0
    written = json.loads(out.read_text())
    assert list(written["results"]) == what
    assert written["machine"]["torch"]
    for result in written["results"].values():
        assert {len(times) for times in result["seconds"].values()} == {3}
        assert result["ratios"][result["limit"]] == [1, 1, 1]
        rate = result["note"].removeprefix("rate ")
        assert rate == "L = 8" or 0.02 < float(rate) < 0.9, "silence would be fast"
    assert "95 % interval" in capsys.readouterr().out


def test_a_warm_allocator_is_a_process_of_its_own(tmp_path):
    out = tmp_path / "bench.json"
    assert bench.main(["--what", "neuron", "--batch", "1", "--rounds", "1", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["options"]["allocator"] == "warm"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--what", "resnet19"], "unknown benchmark 'resnet19'"),
        (["--rounds", "0"], "rounds must be"),
        (["--steps", "x"], "invalid"),
        (["--allocator", "fast"], "unknown allocator 'fast'"),
    ],
)
def test_bad_options_are_one_line(arguments, complaint, capsys, tmp_path):
    assert bench.main([*arguments, "--out", str(tmp_path / "b.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert complaint in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
