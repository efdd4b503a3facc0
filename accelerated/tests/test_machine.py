"""As many threads as there are free cores, and a line that says so if they are fewer than usual."""

import pytest
import torch

from accelerated.runs import machine


@pytest.mark.parametrize(("free", "threads"), [(3.9, 4), (2.2, 2), (1.2, 1), (0.1, 1), (None, 4)])
def test_threads_are_as_many_as_cores_are_free(free, threads, monkeypatch):
    before, said = torch.get_num_threads(), []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(machine, "free_cores", lambda: free)
    try:
        torch.set_num_threads(4)
        machine.choose_threads(said.append)
        assert torch.get_num_threads() == threads
        assert len(said) == (threads < 4)
        monkeypatch.setenv("OMP_NUM_THREADS", "4")
        torch.set_num_threads(4)
        machine.choose_threads(said.append)
        assert torch.get_num_threads() == 4, "who chose has chosen"
    finally:
        torch.set_num_threads(before)


def test_a_system_that_does_not_say_is_no_error(monkeypatch):
    monkeypatch.setattr(machine, "STAT", "/nowhere")
    assert machine.free_cores(0.01) is None
