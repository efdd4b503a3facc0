"""The memory of a simulation does not grow with T."""

import os
import subprocess
import sys

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import accelerated as acc
from accelerated.engines.dense import CHUNK
from accelerated.graph.timm import with_sites


class Largest(TorchDispatchMode):
    """The largest number of elements of any tensor made in this context."""

    seen = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = out if isinstance(out, (tuple, list)) else [out]
        self.seen = max([self.seen, *(t.numel() for t in tensors if isinstance(t, torch.Tensor))])
        return out


ALL_WAYS = [("streaming", "per-step"), ("streaming", "accumulated"), ("integrate-then-fire", "accumulated"),
            ("signed", "accumulated")]  # fmt: skip


@pytest.mark.parametrize(("schedule", "operators"), ALL_WAYS)
def test_no_tensor_grows_with_T(schedule, operators):
    """Nothing of T x batch x heads x tokens x tokens: the largest tensor is some steps' scores, whatever T."""
    x = torch.randn(2, 3, 32, 32)
    vit = timm.create_model(
        "vit_tiny_patch16_224", embed_dim=24, img_size=32, num_classes=5, depth=2, num_heads=3, patch_size=2
    ).eval()
    q = acc.quantise(with_sites(vit), "hn-qcfs", 16, "max", x).eval()
    largest = []
    for steps in (CHUNK, 4 * CHUNK):
        with Largest() as tensors:
            acc.simulate(acc.convert(q, schedule, operators), x, steps)
        largest.append(tensors.seen)
    images_at_once = 2 * (CHUNK if schedule == "streaming" else 1)
    if schedule == "signed":
        images_at_once = 3  # on so many, whether the first axis is the batch is tried
    assert largest == [images_at_once * 3 * 257 * 257] * 2


PROGRAM = """
import resource, sys, timm, torch, accelerated as acc
schedule, operators = sys.argv[1:]
torch.manual_seed(0)
x = torch.randn(64, 3, 224, 224)
q = acc.quantise(timm.create_model("vit_small_patch16_224"), "hn-qcfs", 16, "max", x[:2]).eval()
s = acc.convert(q, schedule, operators)
with torch.inference_mode():
    acc.simulate(s, x, 32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.long
@pytest.mark.parametrize(("schedule", "operators"), ALL_WAYS)
def test_peak_memory_of_vit_small(schedule, operators, record_property):
    """ViT-S, T = 32, 64 images of 224 x 224: the peak memory of a process, model and libraries included."""
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 20 * 2**30:
        pytest.skip("needs a machine with 20 GiB of memory")
    out = subprocess.run([sys.executable, "-c", PROGRAM, schedule, operators], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-500:]
    peak = int(out.stdout) / 2**20
    record_property("seen", f"ViT-S, batch 64, T = 32, {schedule}, {operators}: {peak:.1f} GiB")
    assert peak < 20  # what a machine of 24 GiB can spare
