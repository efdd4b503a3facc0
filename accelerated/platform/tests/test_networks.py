"""The sizes of networks on pages, against the networks."""

import pytest

from accelerated.platform import networks


@pytest.mark.parametrize("model", networks.MODELS)
def test_the_numbers_of_weights_on_pages_are_right(model):
    network = networks.build({"data": "cifar10", "model": model, "width": 1.0, "size": 0})
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    assert networks.WEIGHTS[model] == float(f"{millions:.2g}")
