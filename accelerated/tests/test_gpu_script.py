"""The command for a GPU: its parts, what it says of them, and that it never takes longer than it may."""

import json
import time

import pytest

from accelerated.benchmarks import gpu


def test_a_part_that_takes_too_long_or_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    results = {"accuracy": {"folded": 0.5}, "test_images": 4, "rows": [
        {"schedule": "halving", "T": 9, "settled": True, "logits_equal": True, "nonzero_share": {"a": 0.25}},
        {"schedule": "signed", "T": 4, "settled": False, "logits_equal": False, "nonzero_share": {"a": 0.25}},
    ]}  # fmt: skip
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    parts = (
        gpu.Part("well", ("-c", "print(3)"), "run/results.json"),
        gpu.Part("ill", ("-c", "print(4); raise SystemExit(5)")),
        gpu.Part("slow", ("-c", "import time; time.sleep(60)")),
        gpu.Part("late", ("-c", "print(6)")),
    )  # fmt: skip
    monkeypatch.setattr(gpu, "parts", lambda *_: parts)
    began = time.monotonic()
    assert gpu.main(["--device", "cpu", "--seconds", "6", "--out", str(tmp_path)]) == 1
    assert time.monotonic() - began < 20
    found = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    ended = {name: result["ended"].split(" after ")[0] for name, result in found.items()}
    assert ended == {"well": "done", "ill": "failed with 5", "slow": "stopped", "late": "left out: no time"}
    assert found["ill"]["found"] == ["4"]
    equal = "halving, T = 9: logits equal in every bit; least active layer 25 %"
    assert found["well"]["found"] == ["folded: 50.00 % of 4 test images", equal], "unsettled rows claim nothing"
    assert equal in (tmp_path / "gpu.md").read_text()
    assert "gpu.json" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_part_is_a_command_that_exists(device):
    """Its options are read; what they start is not."""
    from accelerated.benchmarks.options import BenchmarkOptions
    from accelerated.run import parse
    from accelerated.runs.config import Config

    kernels, *others = gpu.parts(gpu.Options(), device)
    assert kernels.arguments[:2] == ("-m", "pytest")
    for part in others:
        kind = {"accelerated.benchmarks": BenchmarkOptions, "accelerated.run": Config}[part.arguments[1]]
        assert parse(kind, list(part.arguments[2:])).device == device


def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys):
    assert gpu.main(["--device", "tpu"]) == 2
    assert "device 'tpu' is not available: choose auto, cpu" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert gpu.main(["--device", "cpu"]) == 2
    assert "start from the root of the repository" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
