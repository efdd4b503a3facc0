"""A sample as people have it, one that is none, and a network without one."""

# mypy: disable-error-code="arg-type"
# (wrong arguments are what these tests are about)

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import accelerated as acc

from .plain import IMAGES, Plain

SAMPLES: dict = {
    "array": IMAGES.numpy(), "list of images": list(IMAGES),
    "list of arrays": list(IMAGES.numpy()), "nested lists": IMAGES.tolist(), "double": IMAGES.double(),
    "loader of images": DataLoader(list(IMAGES), batch_size=2),
    "loader of pairs": DataLoader(TensorDataset(IMAGES, torch.zeros(5)), batch_size=2),
    "inference": torch.inference_mode()(lambda: IMAGES.clone())(),
    "one image": IMAGES[:1],
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_as_people_have_it(name):
    q = acc.quantise(Plain().eval(), "cs-qcfs", 4, "max", SAMPLES[name])
    if name != "one image":
        other = acc.quantise(Plain().eval(), "cs-qcfs", 4, "max", IMAGES)
        assert all(torch.equal(a, b) for a, b in zip(q.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("images.pt", "the sample must be a tensor or an array"),
        (IMAGES[0], r"Plain does not answer a batch of shape \(3, 8, 8\)"),
        (IMAGES[:0], r"the sample must be a batch \[batch, ...\] of at least one, got shape \(0, 3, 8, 8\)"),
        ([], r"the sample must be a batch \[batch, ...\] of at least one"),
        ([IMAGES[0], IMAGES[0, :, :4]], r"a list holds images of one shape, got \[\(3, 4, 8\), \(3, 8, 8\)\]"),
        ((IMAGES, torch.zeros(5)), r"a list holds images of one shape"),
        ({"image": IMAGES}, "the sample must be a tensor or an array"),
        (DataLoader([], batch_size=1), "the sample has no images: the DataLoader is empty"),
        (DataLoader([{"x": 1}]), "a batch of the DataLoader must be images, or begin with them, got dict"),
        (IMAGES.to(torch.complex64), r"the sample must hold plain real numbers .*, got torch.complex64"),
        ((IMAGES * 255).byte(), r"real numbers \(bytes: scaled as in training, x.float\(\) / 255\), got torch.uint8"),
        (IMAGES * float("nan"), "the sample must be finite, got nan"),
        (torch.rand(2, 1, 8, 8), r"batch of shape \(3, 1, 8, 8\): .*expected input.*plain.py:\d+"),
    ],
)  # fmt: skip
def test_a_sample_that_is_none_gets_one_line(sample, message):
    with pytest.raises(acc.InputError, match=message) as error:
        acc.quantise(Plain().eval(), "s-qcfs", 4, "max", sample)
    assert "\n" not in str(error.value)


def test_without_a_sample_nothing_is_guessed():
    class Averaged(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.fc(F.relu(self.conv(x).mean((2, 3))))

    with pytest.raises(acc.InputError, match="the feature shape at 'mean' is not known from the network alone: give"):
        acc.quantise(Averaged(), "cs-qcfs")
    assert acc.quantise(Averaged(), "s-qcfs")(IMAGES).shape == (5, 3)
    assert acc.quantise(Averaged(), "cs-qcfs", sample=IMAGES)(IMAGES).shape == (5, 3)
