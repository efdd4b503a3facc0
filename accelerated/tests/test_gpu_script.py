"""The command for a GPU: its parts, what it says of them, and that it never takes longer than it may."""

import json
import time

import pytest

from accelerated.benchmarks import gpu


def test_a_part_that_takes_too_long_or_fails_is_named_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    results = {"accuracy": {"folded": 0.5}, "test_images": 4, "rows": [
        {"schedule": "halving", "T": 9, "settled": True, "logits_equal": True, "nonzero_share": {"a": 0.25}},
        {"schedule": "signed", "T": 4, "settled": False, "logits_equal": False, "nonzero_share": {"a": 0.25}},
    ]}  # fmt: skip
    out, left = tmp_path / "out", tmp_path / "left"
    well = f"import pathlib; pathlib.Path({str(out / 'results.json')!r}).write_text({json.dumps(results)!r})"
    child = f"import time, pathlib; time.sleep(9); pathlib.Path({str(left)!r}).touch()"
    slow = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    parts = (
        gpu.Part("well", ("-c", well), "results.json"),
        gpu.Part("ill", ("-c", "print(4); raise SystemExit(5)")),
        gpu.Part("skipped", ("-c", "print('SKIPPED [2] a.py: no Triton'); print('1 passed, 2 skipped in 3 s')")),
        gpu.Part("slow", ("-c", slow)),
        gpu.Part("late", ("-c", "print(6)")),
    )  # fmt: skip
    monkeypatch.setattr(gpu, "parts", lambda *_: parts)
    began = time.monotonic()
    assert gpu.main(["--device", "cpu", "--seconds", "6", "--out", str(out)]) == 1
    assert time.monotonic() - began < 20
    found = json.loads((out / "gpu.json").read_text())["parts"]
    ended = {name: result["ended"].split(" after ")[0] for name, result in found.items()}
    assert ended == {"well": "done", "ill": "failed with 5", "slow": "stopped",
                     "skipped": "done, but for what was skipped", "late": "left out: no time"}  # fmt: skip
    assert found["ill"]["found"] == ["4"]
    equal = "halving, T = 9: logits equal in every bit; least active layer 25 %"
    assert found["well"]["found"] == ["folded: 50.00 % of 4 test images", equal], "unsettled rows claim nothing"
    assert equal in (out / "gpu.md").read_text()
    assert "gpu.json" in capsys.readouterr().out
    time.sleep(max(0.0, began + 16 - time.monotonic()))
    assert not left.exists(), "what a stopped part has started is stopped, too"
    assert gpu.main(["--device", "cpu", "--out", str(out)]) == 2
    assert "is there already: choose another --out" in capsys.readouterr().err


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
