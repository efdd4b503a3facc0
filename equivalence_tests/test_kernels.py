"""Kernels for QCFS and the neuron, in C and in Triton: PyTorch's results bit for bit, apart from the order of sums."""

import importlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import accelerated as acc
from accelerated import _native, activation
from accelerated.engines import dense
from accelerated.neuron import State, if_step
from accelerated.thresholds import sum_to

from . import random_networks as nets

kernels = pytest.importorskip("accelerated.kernels", reason="the kernels' folder is not there")
CUDA = torch.cuda.is_available()
if not CUDA:
    first = (
        "a test module that was collected earlier imports Triton, which must wait for TRITON_INTERPRET: import it late"
    )
    assert os.environ.get("TRITON_INTERPRET") or "triton" not in sys.modules, first
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is imported
FORMATS = [torch.float32, torch.float64, torch.float16]
FORMATS += [torch.bfloat16] if CUDA else []  # Triton's interpreter cuts what does not fit into it, and does not round


@pytest.fixture(params=["C", "Triton"])
def served(request, monkeypatch):
    """(the kernels instead of those that the package would choose, their device); on a CPU Triton's are interpreted."""
    if request.param == "C":
        if kernels.library() is None:
            pytest.skip("there is no C compiler: PyTorch does the work")
        module, device = importlib.import_module("accelerated.kernels.elementwise"), "cpu"
    else:
        pytest.importorskip("triton", reason="Triton is not installed: it comes with torch where there is a GPU")
        module, device = importlib.import_module("accelerated.kernels.gpu"), "cuda" if CUDA else "cpu"
    for user in ("activation", "engines.dense", "neuron"):
        monkeypatch.setattr(f"accelerated.{user}.elementwise", module)
    return module, device


def module_serves(module, dtype):
    """In the half formats C leaves the work to PyTorch."""
    return dtype.itemsize > 2 or module.__name__.endswith("gpu")


SHAPES = [  # of a batch, and of a threshold: all there are, in every way that it can lie in memory
    ((7, 16, 9, 9), (16, 1, 1)), ((7, 16, 9, 9), ()), ((7, 16, 4, 4), (16, 1, 1)), ((5, 64), (64,)), ((5, 7), (1,)),
    ((5, 3, 20, 8), (3, 1, 1)), ((2, 2, 40, 40), (2, 1, 1)), ((5, 3, 10, 32), (32,)), ((2, 66, 5, 5), (66, 1, 1)),
    ((2, 3, 7, 9), (3, 7, 9)), ((2, 3, 7, 9), (3, 1, 9)),
]  # fmt: skip


@pytest.mark.skipif(kernels.library() is None, reason="there is no C compiler: PyTorch does the work")
def test_threads_of_either_kind_compute_the_same(monkeypatch):
    """In one part, by OpenMP in three, and by a pool of our own in three: bit for bit, sums but for their order."""
    random, threads = torch.Generator().manual_seed(0), torch.get_num_threads()
    z, upstream = torch.randn(2, 9, 16, 40, 40, generator=random)
    theta = torch.rand(16, 1, 1, generator=random) + 0.5
    answers = []
    try:
        for count, shares in ((1, True), (3, True), (3, False)):
            torch.set_num_threads(count)
            monkeypatch.setattr(kernels, "_shares_threads", lambda shares=shares: shares)
            answers.append((_native.elementwise.qcfs(z, theta, 8, 0.5), _native.elementwise.if_run(z[None], 6, theta),
                            *_native.elementwise.qcfs_backward(z, theta, upstream, 8, 0.5)))  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    for several in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0][:3], several[:3], strict=True))
        # sums of 14,400 terms of size 1 at most, in float32 by 32 lanes, then in double
        assert torch.allclose(answers[0][3], several[3], rtol=0, atol=1e-3)


@pytest.mark.parametrize("lowest", [0, -2])
@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed", "halving"])
@pytest.mark.parametrize("shape", [(16, 1, 1), ()])
def test_steps_on_totals_by_kernels_are_the_torch_code_bit_for_bit(shape, schedule, lowest, served, monkeypatch):
    """A neuron over 12 steps of changing totals, spikes taken back included: spikes, counts and values."""
    random, (module, device) = torch.Generator().manual_seed(0), served
    layer = activation.QCFS(shape, 4, "softplus", 1.5, lowest=lowest).to(device)
    totals = torch.randn(12, 5, 16, 6, 6, generator=random) + torch.arange(12).reshape(-1, 1, 1, 1, 1) / 8
    totals, answers = totals.to(device), []
    theta = layer.threshold.detach()
    assert module.total_step(totals[0], torch.zeros_like(totals[0]), theta, 4, -1) is not None
    for absent in (False, True):
        if absent:
            monkeypatch.setattr("accelerated.neuron.elementwise", _native._Absent())
        worths = (4, 3, 2, 2, 1, 5, 1) if schedule == "halving" else (1,)
        neuron, state = acc.SpikingNeuron(layer, acc.schedules.SCHEDULES[schedule], 1, worths), State(4, totals=True)
        steps = [(neuron(total, state), state.spike, state.sent.clone()) for total in totals]
        answers.append([torch.stack(parts) for parts in zip(*steps, strict=True)])
    for ours, theirs in zip(*answers, strict=True):
        assert torch.equal(ours, theirs)
    assert set(answers[0][1].unique().tolist()) == ({0, 1} if schedule[0] == "i" and not lowest else {-1, 0, 1})


@pytest.mark.parametrize("dtype", FORMATS)
def test_kernels_over_time_are_the_torch_code_bit_for_bit(dtype, served, monkeypatch):
    """Running means and increments, in two chunks; values contiguous step after step, and others."""
    random, (module, device) = torch.Generator().manual_seed(0), served
    one = torch.ones(2, 3, dtype=dtype, device=device)
    assert (module.running(one, 2, one[0].clone()[None], 1) is not None) == module_serves(module, dtype)
    for shape in ((3, 4, 5), (3, 700, 5), (3, 4, 6, 5)):
        values = torch.randn(6 * shape[0], *shape[1:], generator=random, dtype=torch.float64).to(device, dtype)
        for given in (values, values.transpose(1, 2)):
            for function in (dense.means, dense.increments_of):
                answers = []
                for absent in (False, True):
                    with monkeypatch.context() as patch:
                        if absent:
                            patch.setattr(dense, "elementwise", _native._Absent())
                        state = torch.zeros_like(given[: shape[0]]).contiguous()
                        parts = [function(part, n, state, now) for part, n, now in
                                 ((given[: 2 * shape[0]], 2, 0), (given[2 * shape[0] :], 4, 2))]  # fmt: skip
                        answers.append((torch.cat(parts), state))
                assert torch.equal(answers[0][0], answers[1][0]), function.__name__
                assert torch.equal(answers[0][1], answers[1][1]), function.__name__


LAYOUTS = (torch.contiguous_format, torch.channels_last)
KINDS = [*((dtype, 8) for dtype in FORMATS), *((dtype, 6) for dtype in FORMATS[:2])]
CASES = [  # every other one by default, as on a chessboard: each of two that differ in one thing alone
    pytest.param(*shape, layout, *kind, marks=pytest.mark.long if (i + j + k) % 2 else ())
    for i, shape in enumerate(SHAPES) for j, layout in enumerate(LAYOUTS) for k, kind in enumerate(KINDS)
]  # fmt: skip


@pytest.mark.sampled(3)
@pytest.mark.parametrize("lowest", [0, -3])
@pytest.mark.parametrize(("shape", "blocks", "layout", "dtype", "levels"), CASES)
def test_elementwise_kernels_are_the_torch_code_bit_for_bit(shape, blocks, layout, dtype, levels, lowest, served):
    """On edges of steps and beside them; the threshold's gradient is a sum in another order."""
    if layout is torch.channels_last and len(shape) != 4:
        return  # the same as the other layout
    random, (module, device) = torch.Generator().manual_seed(0), served
    theta = (torch.rand(blocks, generator=random) + 0.5).to(device, dtype)
    edge = torch.randint(lowest - 1, levels + 2, shape, generator=random) - 0.5
    beside = torch.rand(shape, generator=random) * (torch.rand(shape, generator=random) < 0.5)
    z = ((edge + beside).to(device, dtype) * theta / levels).contiguous(memory_format=layout)
    if not module_serves(module, dtype):
        assert module.qcfs(z, theta, levels, 0.5) is None
        return
    level = activation.unchecked_level(z, theta, levels, lowest=lowest)
    value = activation.level_value(level, theta, levels)
    assert torch.equal(module.qcfs(z, theta, levels, 0.5, lowest), value)
    same, counts, total, some = module.qcfs_counts(z, theta, levels, 0.5, lowest)
    assert torch.equal(same, value)
    assert torch.equal(counts, level.int())
    assert (total, some) == (level.abs().sum(), (level != 0).sum())
    upstream = torch.randn(shape, generator=random).to(device, dtype)
    by_z, by_theta = module.qcfs_backward(z, theta, upstream, levels, 0.5, lowest)
    masks, slopes = activation._grad(z, theta, activation.PAPER, levels, 0.5, lowest)
    assert torch.equal(by_z, upstream * masks)
    assert 0 < masks.mean() < 1
    expected = sum_to(upstream.double() * slopes, theta.shape)
    assert by_theta.shape == theta.shape
    # some thousand terms of size one, each rounded in the format here or there; errors of both signs, so that of
    # float16's terms (of 5e-4) a hundred's worth at most is left, of the others', by far, what a sum of all would be
    assert (by_theta - expected).abs().max() < (1e2 if dtype.itemsize == 2 else 1e4) * torch.finfo(dtype).eps
    currents = (torch.randint(-2, 7, (5, *shape), generator=random) / 4).to(device, dtype) * theta  # often just theta
    currents = currents.flatten(0, 1).contiguous(memory_format=layout).unflatten(0, (5, -1))
    membrane = torch.empty_like(currents[0]).copy_((theta / 2).expand(shape))
    counts, v = torch.zeros_like(membrane), membrane.clone()
    sent = module.if_run(currents, 5, theta, membrane, counts)
    for now in range(5):
        spike, v = if_step(v, currents[now], theta)
        assert torch.equal(sent[now], theta * spike)
    assert torch.equal(membrane, v)
    assert torch.equal(counts, (sent != 0).sum(0).to(dtype))


@pytest.mark.parametrize("schedule", ["streaming", "integrate-then-fire", "signed", "theorem"])
@pytest.mark.parametrize("kind", ["cnn", "transformer"])
def test_whole_networks_by_kernels_are_the_torch_code_bit_for_bit(kind, schedule, served, monkeypatch):
    random, (module, device) = np.random.default_rng(0), served
    x = nets.images(random, kind, 3)
    nodes = nets.quantised(nets.MADE[kind](random, 2), x, "hn-qcfs" if kind == "transformer" else "cs-qcfs", 4)
    waits = "integrate-then-fire" if schedule == "theorem" else schedule
    arithmetic = {"streaming": "increments", "theorem": "theorem"}.get(schedule, "totals")
    answers, asked = [], []
    for absent in (False, True):
        for user in ("activation", "engines.dense", "neuron"):
            chosen = _native._Absent() if absent else Watched(module, asked)
            monkeypatch.setattr(f"accelerated.{user}.elementwise", chosen)
        network = acc.convert(acc.build(nodes).to(device), waits)
        answers.append(acc.simulate(network, torch.tensor(x, device=device), 6, arithmetic))
    ours, theirs = answers
    assert torch.equal(ours.logits, theirs.logits)
    assert all(torch.equal(ours.counts[name], count) for name, count in theirs.counts.items())
    assert asked, "no kernel served"
    assert ours.spikes_per_neuron == theirs.spikes_per_neuron > 0


@pytest.mark.parametrize("schedule", ["integrate-then-fire", "signed", "halving"])
def test_T7_whole_numbers_by_kernels_are_those_of_increments(schedule, served, monkeypatch):
    """Totals by kernels, increments without: the same bits, since no sum rounds."""
    random, (module, device) = np.random.default_rng(0), served
    x = random.integers(0, 256, nets.images(random, "cnn", 3).shape) / 255
    whole = acc.integers(acc.build(nets.quantised(nets.MADE["cnn"](random, 4), x, "cs-qcfs", 8)), torch.tensor(x))
    asked: list = []
    for user in ("activation", "engines.dense", "neuron"):
        monkeypatch.setattr(f"accelerated.{user}.elementwise", Watched(module, asked))
    spiking, images = acc.convert(whole.float().to(device), schedule), torch.tensor(x, device=device).float()
    found = [acc.simulate(spiking, images, None, arithmetic) for arithmetic in ("totals", "increments")]
    assert "total_step" in asked, "no kernel served"
    assert torch.equal(found[0].logits[-1], found[1].logits[-1])
    assert torch.equal(found[0].logits[-1].cpu(), acc.answer(whole.cpu(), torch.tensor(x).float()))
    assert all(torch.equal(found[0].counts[name], count) for name, count in found[1].counts.items())
    assert min(found[0].nonzero_share.values()) > 0.02


class Watched:
    """Kernels, and which of them gave an answer."""

    def __init__(self, module, asked):
        self.module, self.asked = module, asked

    def __getattr__(self, name):
        def call(*arguments, **options):
            answer = getattr(self.module, name)(*arguments, **options)
            if isinstance(answer, (torch.Tensor, tuple)):
                self.asked.append(name)
            return answer

        return call


@pytest.mark.skipif(kernels.library() is None, reason="there is no C compiler: PyTorch does the work")
def test_another_library_with_threads_of_its_own_changes_nothing():
    """scikit-learn brings an OpenMP of its own; whose threads the kernels use is not decided by how many there are."""
    program = "{} accelerated.kernels as k; print(k._shares_threads(), k.library() is not None)"
    said = [subprocess.run([sys.executable, "-c", program.format(imports)], capture_output=True, text=True).stdout
            for imports in ("import torch,", "import torch, sklearn.datasets,")]  # fmt: skip
    assert said[0] == said[1]
    assert said[0].endswith(" True\n")
