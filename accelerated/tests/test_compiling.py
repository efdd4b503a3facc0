"""torch.compile as an option: the same network, or one line of warning and the same network without it."""

import io
import os
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from accelerated import QCFS
from accelerated.runs import compiling, experiment

SETTINGS: dict = {"model": "mlp", "width": 0.25, "epochs": (0, 2, 0), "times": (8,),
                  "schedules": ("integrate-then-fire",), "device": "cpu"}  # fmt: skip


def trained(tmp_path, name, **more):
    config = experiment.checked(experiment.Config(**SETTINGS, **more, out=str(tmp_path), name=name))
    folder, results, *_ = experiment.run(config, Console(file=io.StringIO()))
    return load_file(folder / "weights.safetensors"), results


@pytest.fixture
def compiler():
    if not compiling.works("cpu"):  # checked when a test runs: it takes seconds
        pytest.skip(
            "torch.compile does not work here, as its line on stderr says: there is nothing compiled to look at"
        )


@pytest.mark.usefixtures("compiler")
def test_a_compiled_run_learns_and_converts_the_same(tmp_path):
    """Weights differ by the order of sums; names, thresholds and the equality of the spiking network do not."""
    plain, first = trained(tmp_path, "plain")
    fast, second = trained(tmp_path, "compiled", compile=True)
    assert plain.keys() == fast.keys()
    for name, value in plain.items():
        # 46 steps of SGD on gradients that agree to 1e-7; a level that crosses a tie adds to that
        assert torch.allclose(value, fast[name], rtol=0, atol=1e-2), name
    assert second["rows"][0]["logits_equal"]
    assert abs(first["accuracy"]["folded"] - second["accuracy"]["folded"]) < 0.05


@pytest.mark.usefixtures("compiler")
def test_compiled_derivatives_are_those_of_the_formula():
    """Values bit for bit, also on the edges of steps; the threshold's gradient is a sum in another order."""
    layer = QCFS((3, 1, 1), 4, "softplus", 1.5)
    z = torch.cat([torch.randn(4, 3, 6, 6), (torch.arange(-2, 7) / 4 - 0.125).mul(1.5).expand(4, 3, 6, 9)], -1)
    z = z.detach().requires_grad_()
    answers: list = []
    for function in (layer, torch.compile(layer)):
        z.grad = layer.parameter.grad = None
        value = function(z)
        value.backward(torch.ones_like(value))
        answers.append((value.detach(), z.grad, layer.parameter.grad))
    (value, by_z, by_theta), (same, by_z_too, by_theta_too) = answers
    assert torch.equal(value, same)
    assert torch.equal(by_z, by_z_too)
    assert torch.allclose(by_theta, by_theta_too, rtol=1e-5)  # 360 terms of size 1 at most, each rounded to 1e-7
    assert 0 < by_z.mean() < 1


def test_without_a_compiler_one_line_says_so_and_it_goes_on(tmp_path):
    program = (
        "import torch; from accelerated.runs.compiling import compiled, works; m = torch.nn.ReLU(); "
        "assert not works('cpu') and compiled(m) is m and not works('cpu'); print('went on')"
    )
    environment = os.environ | {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "went on\n"
    ours = [line for line in done.stderr.splitlines() if line.startswith("isospike:")]
    assert len(ours) == 1
    assert "torch.compile does not work here" in ours[0]
