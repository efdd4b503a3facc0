"""The Python interface: a run's network, accuracy per step, levels in the state, a raster."""

import io

import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

import accelerated as acc
from accelerated.models import MLP
from accelerated.reports.plots import raster
from accelerated.runs.config import Config
from accelerated.runs.experiment import run
from accelerated.schedules import SCHEDULES

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(levels=4, activation="cs-qcfs"):
    torch.manual_seed(0)
    return acc.quantise(MLP((1, 8, 8), 10, 0.25), activation, levels, "max", IMAGES).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A short run's folder."""
    config = Config(model="mlp", width=0.25, levels=4, epochs=(2, 1, 1), times=(4,), device="cpu",
                    out=str(tmp_path_factory.mktemp("runs")))  # fmt: skip
    return run(config, Console(file=io.StringIO()))[0], config


def test_what_the_command_line_trained_is_one_line_away(folder):
    """Its accuracy is the report's, both exact schedules keep its answer, and its settings are available."""
    import json

    path, config = folder
    results = json.loads((path / "results.json").read_text())
    for given in (path, str(path)):
        q = acc.load(given)
        assert not q.training
        assert (q.config.levels, q.config.model) == (config.levels, "mlp")
        assert acc.evaluate(q, [(q.images, q.labels)]) == pytest.approx(results["accuracy"]["folded"], abs=0.2)
        s = acc.simulate(acc.convert(q, "integrate-then-fire"), q.images, 4)
        assert torch.equal(s.logits[-1], acc.answer(q, q.images))
        assert min(s.nonzero_share.values()) > 0.05
    with pytest.raises(acc.InputError, match="holds no run"):
        acc.load(path.parent)
    assert "load" in acc.__all__
    with pytest.raises(AttributeError, match="has no attribute 'loads'"):
        acc.loads  # noqa: B018


def test_accuracy_per_step_over_a_data_set():
    """Batches of any size add up to what one batch gives; each step counts every image once."""
    q, labels = network(), torch.arange(12) % 10
    loader = DataLoader(TensorDataset(IMAGES, labels), batch_size=5)
    spiking = acc.convert(q, "streaming")
    whole = acc.simulate(spiking, IMAGES, 6).logits.argmax(-1)
    expected = [(row == labels).double().mean().item() for row in whole]
    assert acc.evaluate(spiking, loader, 6) == pytest.approx(expected, abs=0)
    assert acc.evaluate(spiking, loader, 6, "event") == pytest.approx(expected, abs=1 / 12)  # sums in another order
    assert acc.evaluate(q, loader) == (acc.answer(q, IMAGES).argmax(1) == labels).double().mean().item()
    for bad in ((spiking, loader), (q, loader, 4), (spiking, [], 4)):
        with pytest.raises(acc.InputError):
            acc.evaluate(*bad)


@pytest.mark.parametrize("how", ["in memory", "on disk"])
def test_levels_belong_to_the_state(how, tmp_path):
    """A state dictionary does not load into a network of other levels, positivity or schedule."""

    def moved(state):
        if how == "on disk":
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
        return state

    network(4).load_state_dict(moved(network(4).state_dict()))
    with pytest.raises(acc.InputError, match="the state has levels 4, the network 8"):
        network(8).load_state_dict(moved(network(4).state_dict()))
    with pytest.raises(acc.InputError, match="the state has positivity 'softplus', the network 'raw'"):
        network(4, "c-qcfs").load_state_dict(moved(network(4).state_dict()))
    saved = moved(acc.convert(network(4), "signed").state_dict())
    acc.convert(network(4), "signed").load_state_dict(saved)
    with pytest.raises(acc.InputError, match="the state has schedule_name 'signed', the network 'streaming'"):
        acc.convert(network(4), "streaming").load_state_dict(saved)
    plain = dict(network(4).state_dict())  # of tensors alone, as other projects keep them
    network(8).load_state_dict(plain)


def test_a_saved_spiking_network_refuses_to_load_into_another(tmp_path):
    path = tmp_path / "spiking.safetensors"
    acc.save_weights(acc.convert(network(4), "signed"), path)
    same = acc.load_weights(acc.convert(network(4), "signed"), path)
    assert torch.equal(acc.simulate(same, IMAGES, 12).logits[-1], acc.answer(network(4), IMAGES))
    refused = (
        (acc.convert(network(8), "signed"), "L = 4, softplus, signed, the network L = 8"),
        (acc.convert(network(4), "streaming"), "signed, the network L = 4, softplus, streaming"),
    )
    for other, what in refused:
        with pytest.raises(acc.InputError, match=what):
            acc.load_weights(other, path)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_raster_shows_every_spike(schedule, tmp_path):
    spiking = acc.convert(network(), schedule)
    s = acc.simulate(spiking, IMAGES, 12 if spiking.schedule.settles else 4, record=list(spiking.layers))
    raster(s.recorded, tmp_path / "raster.png")
    assert (tmp_path / "raster.png").stat().st_size > 5000
