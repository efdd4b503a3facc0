"""Everything stays on the device of the images, as far as tensors without values show it: no GPU is needed.

Kernels, which need values, are left out; so is the way back through autograd, which needs a device that exists.
"""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import accelerated as acc
from accelerated import _native, models
from accelerated.engines.dense import DenseRun


class Watched(TorchDispatchMode):
    """Names the first operator that gives a tensor elsewhere than on the GPU; single numbers may lie anywhere."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and value.ndim and value.device.type != "cuda":
                raise AssertionError(f"{function} gives {tuple(value.shape)} on {value.device}")
        return out


def moved(module, mode):
    """The module, its parameters and buffers without values and on a GPU."""
    for part in module.modules():
        for names in (part._parameters, part._buffers):
            for name, value in names.items():
                if value is not None:
                    names[name] = mode.from_tensor(value.detach().clone()).to("cuda")
    return module


def quantised(name):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 32, 32)
    network = models.make(name, (3, 32, 32), 10, 0.125)
    kind = "hn-qcfs" if name in models.TRANSFORMERS else "cs-qcfs"
    return acc.quantise(network.eval(), kind, 4, "max", x), x


@pytest.fixture
def mode(monkeypatch):
    monkeypatch.setattr(_native, "_kernels", lambda _: _native._Absent())
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "vit_tiny", "swin_tiny"])
@torch.no_grad()
def test_a_pass_in_training_and_a_streaming_run_stay_on_the_device(name, mode):
    network, x = quantised(name)
    spiking = acc.convert(network, "streaming", operators="per-step")  # a running mean divides by a number that is read
    with mode:
        images = mode.from_tensor(x).to("cuda")
        trained, spiking = moved(network.train(), mode), moved(spiking, mode)
        with Watched():
            assert trained(images).device.type == "cuda"
            logits = DenseRun(spiking, images).steps(3)
    assert logits.device.type == "cuda"
    assert logits.shape == (3, 2, 10)


def test_what_is_left_behind_is_named(mode):
    """The check itself, by a module that makes a tensor where it likes."""
    with mode, Watched(), pytest.raises(AssertionError, match="gives \\(3,\\) on cpu"):
        torch.ones(3)
